"""A program from the fork server is what the interpreter would have made of it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import fork_server

pytestmark = pytest.mark.no_engine

SHOW = """
import os, signal, sys
print(sys.argv, sys.orig_argv, sys.path, sys.executable, __name__, globals().get("__file__"))
print(os.getcwd(), sorted(os.environ.items()), os.getppid())
print(os.getpgrp() == os.getpid(), os.getsid(0) == os.getpid(), os.umask(0))
print(sorted(map(int, os.listdir("/proc/self/fd")))[:-1])
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
print([signal.getsignal(number) for number in sorted(signal.valid_signals())])
for file in (sys.stdin, sys.stdout, sys.stderr):
    print(file.name, file.mode, file.encoding, file.errors, file.fileno())
    print(file.line_buffering, file.write_through, type(file.buffer), file.buffer.mode)
print(ascii(sys.stdin.read()))
sys.stderr.write("to stderr")
"""
KEPT = {
    name: value
    for name, value in os.environ.items()
    if name.startswith(tuple(map(os.fsdecode, fork_server.READ_AT_START)))
}
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def same(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a program from the fork server and without it: the same must come of both."""
    client = getattr(vars(subprocess)["_fork_exec"], "__self__", None)
    if not isinstance(client, fork_server.Client):
        pytest.skip("the tests run without the fork server")

    def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        def refuse(*_: object) -> int:
            raise AssertionError("not from the fork server")

        command = [sys.executable, *argv]
        options.setdefault("env", os.environ)  # without what readline sets for its children
        done: list[subprocess.CompletedProcess[bytes]] = []
        for start in (client.fork_exec, client.without_server):
            with monkeypatch.context() as patched:
                patched.setattr(subprocess, "_fork_exec", start)
                if not done:
                    patched.setattr(client, "without_server", refuse)
                done.append(
                    subprocess.run(command, capture_output=True, timeout=30, check=False, **options)
                )
        forked, new = done
        assert vars(forked) == vars(new)
        return forked

    return run


def test_code(same: Run) -> None:
    done = same("-c", SHOW, "an", "argument", input="one\r\ntwó".encode())
    assert (done.returncode, done.stderr) == (0, b"to stderr")
    assert b"'one\\r\\ntw\\xf3'" in done.stdout


def test_a_module_and_a_script(same: Run, tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(SHOW)
    assert same("-m", "shown", "1", cwd=tmp_path).returncode == 0
    assert same("shown.py", "2", cwd=tmp_path).returncode == 0
    assert same(str(tmp_path / "shown.py")).returncode == 0
    assert same("-u", "shown.py", cwd=tmp_path).returncode == 0
    assert same("-P", "shown.py", cwd=tmp_path).returncode == 0
    env = KEPT | {"PATH": os.environ["PATH"]}
    assert b"No module named" in same("-u", "-P", "-m", "shown", cwd=tmp_path, env=env).stderr


@pytest.mark.parametrize(
    "options",
    [
        {"cwd": "/"},
        {"env": KEPT | {"ONLY": "this"}},
        {"start_new_session": True},
        {"process_group": 0},
        {"umask": 0o27},
        {"stdin": subprocess.DEVNULL},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options(same: Run, options: dict[str, Any]) -> None:
    assert same("-c", SHOW, **options).returncode == 0


def test_terminal(same: Run) -> None:
    ours, theirs = pty.openpty()
    try:
        code = "import os; print(os.tcgetpgrp(0) == os.getpid(), os.open('/dev/tty', os.O_RDWR))"
        options = {"start_new_session": True, "preexec_fn": fork_server.take_terminal}
        assert same("-c", code, stdin=theirs, **options).stdout == b"True 3\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_descriptors(same: Run) -> None:
    reading, writing = os.pipe()
    try:
        code = f"import os; os.write({writing}, b'x'); os.fstat({reading})"
        assert b"OSError" in same("-c", code, pass_fds=[writing]).stderr
        assert os.read(reading, 9) == b"xx"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('why')", 1),
        ("def fail(): 1 / 0\nfail()", 1),
        ("this is no code", 1),
        ("import os; os._exit(4)", 4),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import atexit; atexit.register(print, 'at exit'); print('first')", 0),
        ("import threading; threading.Thread(target=print, args=['thread']).start()", 0),
        ("class Kept:\n    def __del__(self): print('released')\nkept = Kept()", 0),
        ("async def forgotten(): pass\nkept = forgotten()", 0),
    ],
)
def test_ends(same: Run, code: str, expected: int) -> None:
    assert same("-c", code).returncode == expected


def test_interrupt() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.endswith(b"KeyboardInterrupt\n")


def test_what_starts_as_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "import sys; print('silly' in sys.modules)"
    starts: list[tuple[list[str], dict[str, Any]]] = [
        (["-B", "-c", code], {}),
        (["-c", code], {"env": os.environ | {"PYTHONPATH": str(tmp_path)}}),
        (["-c", code], {"preexec_fn": int}),
    ]
    for argv, options in starts:
        done = subprocess.run([sys.executable, *argv], capture_output=True, check=False, **options)
        assert done.stdout == b"False\n"
    with pytest.raises(FileNotFoundError):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "missing", check=False)
    missing = subprocess.run([sys.executable, "missing.py"], capture_output=True, check=False)
    assert b"can't open file" in missing.stderr
