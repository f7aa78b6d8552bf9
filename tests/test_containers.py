"""The commands of docs/howto/containers.md work, also as process 1 where that is allowed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "howto" / "containers.md").read_text()
DEADLINE = 30.0

UNSHARE = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False, timeout=DEADLINE)
    return done.returncode == 0


def command(text: str) -> list[str]:
    """Return the command of a Dockerfile's line, for the Python of the tests."""
    name, *args = json.loads(text)
    assert name == "silly"
    return [sys.executable, "-m", "silly", *args]


def page_commands(tmp_path: Path, port: int) -> tuple[list[str], list[str]]:
    """Return the page's server and health commands, with the page's program on *port*."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (dockerfile,) = re.findall(r"```dockerfile\n(.*?)```", PAGE, re.DOTALL)
    health, serve = (command(each) for each in re.findall(r"CMD (\[.*\])", dockerfile))
    path = tmp_path / serve[-1]
    path.write_text(f"{program.replace('9999', str(port))}\nprint('serving', flush=True)\n")
    health = [word.replace("9999", str(port)) for word in health]
    return [*serve[:-1], str(path)], health


@contextlib.contextmanager
def running(serve: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        serve, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "serving\n":
                    break
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def is_healthy(health: Sequence[str]) -> bool:
    done = subprocess.run(
        health, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=DEADLINE
    )
    assert done.returncode in (0, 1), done
    return done.returncode == 0


def test_the_program_is_healthy_until_it_is_stopped(port: int, tmp_path: Path) -> None:
    serve, health = page_commands(tmp_path, port)
    assert not is_healthy(health)
    with running(serve) as process:
        assert is_healthy(health)
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
            sock.sendall(b"hello\n")
            assert sock.recv(100) == b"hello\n"  # the connection was accepted
            process.send_signal(signal.SIGTERM)
            assert process.stdout is not None
            assert "listening on" in process.stdout.readline()
            assert "waiting up to 8 s for 1 connection" in process.stdout.readline()
            sock.sendall(b"last words\n")
            assert sock.recv(100) == b"last words\n"
        assert process.wait(DEADLINE) == 0


@pytest.mark.skipif(not may_unshare(), reason="namespaces are not allowed")
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=" ".join)
def test_as_process_1(port: int, tmp_path: Path, options: tuple[str, ...]) -> None:
    serve, _ = page_commands(tmp_path, port)
    path = Path(serve[-1])
    children = """
import multiprocessing, time
multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True).start()
"""
    path.write_text(children + path.read_text())
    with running([*UNSHARE, *serve[:-1], *options, str(path)]) as process:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
            sock.sendall(b"hello\n")
            assert sock.recv(100) == b"hello\n"
        os.kill(child_of(process.pid), signal.SIGTERM)
        assert process.stdout is not None
        process.stdout.read()  # until all processes have exited
        assert process.wait(DEADLINE) == 0
