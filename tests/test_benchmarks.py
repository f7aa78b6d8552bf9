"""The benchmark reports the network that it ran in."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import python_path

pytestmark = pytest.mark.no_engine

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PROGRAM = "import machine; print(machine.own_network())"


def network(path: Path | str) -> str:
    """Return the network that a program with this ``PATH`` reports."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PATH": str(path), "PYTHONPATH": python_path(BENCHMARKS)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_crowd_of_websockets_is_served_and_the_deaf_are_skipped() -> None:
    pytest.importorskip("httptools")
    sizes = ("--idle", "60", "--receivers", "12", "--deaf", "2")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "crowd.py"), *sizes],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "60 idle WebSockets in 1 server " in done.stdout
    assert "to 12 receivers, 2 of whom do not read" in done.stdout
    assert "12 are still open" in done.stdout


def test_without_the_command_the_network_is_shared(tmp_path: Path) -> None:
    assert network(tmp_path) == "the machine's, shared (no unshare command)"


def test_a_refused_namespace_is_reported_with_the_reason(tmp_path: Path) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare: not today' >&2\nexit 1\n")
    unshare.chmod(0o755)
    assert network(tmp_path) == "the machine's, shared (unshare: not today)"


def test_its_own_network_has_the_settings() -> None:
    prepare = [sys.executable, str(BENCHMARKS / "machine.py")]
    allowed = shutil.which("unshare") and any(
        subprocess.run(["unshare", *how, *prepare], capture_output=True, check=False).returncode
        == 0
        for how in (["--net"], ["--map-root-user", "--net"])
    )
    if not allowed:
        pytest.skip("network namespaces are not allowed")
    report = network(os.environ["PATH"])
    assert report.startswith("own namespace, tcp_congestion_control reno, tcp_max_tw_buckets 0, ")


STARTS_A_SERVER = """
import server
print(server.Server("one", ["sh", "-c", "echo 9; sleep 1000 & wait"], {}).process.pid, flush=True)
input()
"""


def test_a_killed_benchmark_leaves_no_stopped_server_behind() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_SERVER],
        env={**os.environ, "PYTHONPATH": python_path(BENCHMARKS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as benchmark:
        assert benchmark.stdout is not None
        server = os.pidfd_open(int(benchmark.stdout.readline()))
        try:
            benchmark.kill()
            assert select.select([server], [], [], 30)[0], "it is still there"
        finally:
            os.close(server)
