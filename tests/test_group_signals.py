"""Signals to a whole process group: from a terminal, timeout(1), or a wrapper that forwards them.

A process that gets the same signal twice at once treats it as one.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

DEADLINE = 30.0

# "At once" means minutes here, so that a busy machine is not too slow.
COMMAND = """
import sys
from silly._loop import signals
from silly.cli import main
signals.DEBOUNCE = 600
sys.exit(main())
"""

SERVICE = """
import multiprocessing, time
from silly.net import tcp

async def handler(conn):
    async for line in conn:
        if line == b"child\\n":
            multiprocessing.get_context("fork").Process(
                target=time.sleep, args=(1000,), daemon=True
            ).start()
        await conn.write(line)

listener = tcp.listen("127.0.0.1:0", handler)
print("Listening on", listener.local_addr, flush=True)
"""


@contextlib.contextmanager
def group(*args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command as the leader of a process group, like a job of a shell."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def until(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[found.re.groups and 1]
    raise AssertionError(f"the process ended before it printed {pattern!r}")


@contextlib.contextmanager
def dialed(addr: str) -> Iterator[socket.socket]:
    host, _, port = addr.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as sock:
        yield sock


def ask(sock: socket.socket, line: bytes) -> bytes:
    sock.sendall(line)
    return sock.recv(100)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [(), ("--uvloop",), ("--workers", "2")], ids=" ".join)
def test_a_service_that_is_signalled_twice_drains(
    tmp_path: Path, options: tuple[str, ...], number: signal.Signals
) -> None:
    path = tmp_path / "service.py"
    path.write_text(textwrap.dedent(SERVICE))
    with group(*options, "--grace", "600", str(path)) as process:
        addr = until(process, r"Listening on (\S+)")
        with dialed(addr) as sock:
            assert ask(sock, b"one\n") == b"one\n"
            os.kill(process.pid, number)
            until(process, "stopping")
            os.killpg(process.pid, number)
            for _ in range(200):  # the handler continues
                assert ask(sock, b"two\n") == b"two\n"
        assert process.wait(DEADLINE) == 0
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()


@pytest.mark.parametrize("options", [(), ("--workers", "1")], ids=" ".join)
def test_ctrl_c_in_the_foreground_of_a_service_and_its_children(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / "service.py"
    path.write_text(textwrap.dedent(SERVICE))
    with group(*options, "--grace", "600", str(path)) as process:
        addr = until(process, r"Listening on (\S+)")
        with dialed(addr) as sock:
            assert ask(sock, b"child\n") == b"child\n"
            os.killpg(process.pid, signal.SIGINT)
            until(process, "stopping")
            assert ask(sock, b"two\n") == b"two\n"
            os.killpg(process.pid, signal.SIGTERM)  # a second signal: stop at once
            assert process.wait(DEADLINE) == 0
        assert process.stdout is not None
        process.stdout.read()  # until all processes have exited


def test_echo_that_is_signalled_twice_drains() -> None:
    with group("echo", "127.0.0.1:0", "--grace", "600s") as process:
        with dialed(until(process, r"Listening on (\S+)")) as sock:
            assert ask(sock, b"one\n") == b"one\n"
            os.kill(process.pid, signal.SIGTERM)
            until(process, "stopping")
            os.killpg(process.pid, signal.SIGTERM)
            for _ in range(200):
                assert ask(sock, b"two\n") == b"two\n"
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_connect_that_is_signalled_twice_ends(number: signal.Signals, code: int) -> None:
    with group("connect", "--listen", "127.0.0.1:0") as process:
        until(process, r"Listening on (\S+)")
        os.kill(process.pid, number)
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode in (code, -number)  # the second signal may arrive while it exits
    assert "Traceback" not in output
