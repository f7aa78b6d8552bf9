"""The experiments work with the current source."""

from __future__ import annotations

import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.no_engine

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"


def names_of(experiment: str) -> dict[str, Any]:
    """Return the names that an experiment defines; restore sys.path and sys.modules."""
    path, modules = list(sys.path), set(sys.modules)
    try:
        return runpy.run_path(str(EXPERIMENTS / f"{experiment}.py"))
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            del sys.modules[name]


VARIANTS = names_of("variants")["VARIANTS"]
WAYS = names_of("nesting")["WAYS"]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_variant_changes_one_place(variant: Any) -> None:
    text = (ROOT / variant.file).read_text()
    assert text.count(variant.old) == 1
    assert variant.new != variant.old


def test_variants_have_unique_names_and_existing_jobs() -> None:
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)
    jobs = [job.name for job in names_of("variants")["run"].JOBS]
    for variant in VARIANTS:
        for part in variant.jobs:
            assert any(part in job for job in jobs), f"{variant.name}: no job has {part!r}"


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_nesting_echoes(way: str) -> None:
    command = [sys.executable, str(EXPERIMENTS / "nesting.py"), "--serve", way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            for line in (b"one\n", b"two\n"):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as conn:
                    for _ in range(3):
                        conn.sendall(line)
                        assert conn.recv(100) == line
        finally:
            server.kill()


def test_kept_windows_make_messages_shorter_and_connections_larger() -> None:
    names = names_of("websocket_deflate")
    messages = names["feed"](300)[:50]
    anew, *_, kept = names["WAYS"]
    assert (anew.keeps, kept.keeps) == (False, True)
    assert names["ratio"](kept, messages) < names["ratio"](anew, messages) < 1
    assert names["memory"](anew, messages) < 1024 < names["memory"](kept, messages)
