"""Running the command as a user does: on a terminal of a given size, or in a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte

from silly.cli import main
from tests.fork_server import take_terminal

SILLY = [sys.executable, "-m", "silly"]
DEADLINE = 40.0  # seconds, for anything that must happen


def environment(**env: str) -> dict[str, str]:
    unwanted = {"NO_COLOR", "COLUMNS", "LINES"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "TERM": "xterm-256color", **env}


def python_path(first: Path) -> str:
    """PYTHONPATH with another directory before those that are in it."""
    return os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH"))))


class Terminal:
    """A process on an emulated terminal, whose screen can be inspected."""

    def __init__(
        self,
        *args: str,
        size: tuple[int, int] = (80, 24),
        command: Sequence[str] = SILLY,
        **env: str,
    ) -> None:
        self.columns, self.rows = size
        self.screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self.screen)
        self._ours, self._theirs = pty.openpty()
        self.raw = b""
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size[::-1], 0, 0))
        self._before = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            [*command, *args],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=environment(**env),
            start_new_session=True,
            preexec_fn=take_terminal,  # noqa: PLW1509 - before any thread
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self._ours, self._theirs):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def hang_up(self) -> None:
        """Close the terminal, as when its window is closed or its network connection ends."""
        os.close(self._ours)
        self._ours = -1

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    @property
    def text(self) -> str:
        """The text on the screen, without trailing blanks."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def wait_for(self, pattern: str) -> str:
        """Wait until *pattern* is on the screen; return what it matched."""
        deadline = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.text, re.MULTILINE)):
            assert self._read(deadline), f"no {pattern!r} in:\n{self.text}"
        return found[0]

    def wait_for_prompt(self, *, over: bool = False) -> None:
        """Wait until `silly connect` reads keys; until then, the terminal would echo them.

        With *over*, wait until it no longer does.
        """
        deadline = time.monotonic() + DEADLINE
        while bool(termios.tcgetattr(self._theirs)[3] & termios.ICANON) is not over:
            assert time.monotonic() < deadline, self.text
            self._read(time.monotonic() + 0.02)

    def _read(self, deadline: float) -> bool:
        readable, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
        if not readable:
            return False
        try:
            piece = os.read(self._ours, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.raw += piece
        self._stream.feed(piece)
        return True

    def end(self) -> int:
        """Wait for the process to end, check that its terminal is restored, return the code."""
        deadline = time.monotonic() + DEADLINE
        waiter = threading.Thread(target=self.process.wait, daemon=True)
        waiter.start()
        while waiter.is_alive():
            assert time.monotonic() < deadline, self.text
            self._read(min(deadline, time.monotonic() + 0.05))
        while self._read(0):
            pass
        assert termios.tcgetattr(self._theirs) == self._before
        assert self.raw.count(b"\x1b[?25l") <= self.raw.count(b"\x1b[?25h"), "cursor is hidden"
        assert self.raw.count(b"\x1b[?2004h") == self.raw.count(b"\x1b[?2004l")
        assert self.raw.count(b"\x1b[?1049h") == self.raw.count(b"\x1b[?1049l")
        assert "Traceback" not in self.raw.decode(errors="replace"), self.raw
        return self.process.returncode


class Echo:
    """``silly echo`` in the background, with ``--json`` for its addresses and summary.

    It is killed after *deadline* seconds.
    """

    def __init__(self, *args: str, deadline: float = DEADLINE, **env: str) -> None:
        self.process = subprocess.Popen(
            [*SILLY, "echo", "--json", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**env),
        )
        self._watchdog = threading.Timer(deadline, self.process.kill)
        self._watchdog.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr else ""
        self.listening: dict[str, Any] = json.loads(line)
        assert self.listening["event"] == "listening"
        self.log = ""

    @property
    def addr(self) -> str:
        addr: str = (self.listening["tcp"] + self.listening["unix"])[0]
        return addr

    @property
    def port(self) -> int:
        return int(self.addr.rpartition(":")[2])

    def stop(self, number: int = signal.SIGINT, code: int = 0) -> dict[str, Any]:
        """Stop it with a signal; return the summary."""
        self.process.send_signal(number)
        output, self.log = self.process.communicate()
        assert "Traceback" not in self.log, self.log
        assert self.process.returncode == code, (output, self.log)
        summary: dict[str, Any] = json.loads(output)
        assert summary["event"] == "summary"
        assert summary["handler_errors"] == 0
        return summary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate()


def silly(*args: str, data: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """Run the command and wait for it."""
    done = subprocess.run(
        [*SILLY, *args], input=data, capture_output=True, timeout=DEADLINE, check=False,
        env=environment(),
    )  # fmt: skip
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.returncode == code, (done.stdout[-1000:], done.stderr)
    return done


def called(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Call the command in this process: enough, and faster, where only its text matters."""
    words = list(map(str, args))
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        done = main(words)
    assert done == code, (out.getvalue(), errors.getvalue())
    return subprocess.CompletedProcess(words, done, out.getvalue(), errors.getvalue())


def misused(*args: object) -> str:
    """Call the command, which must not understand its arguments; return the line that says so."""
    return one_line(called(*args, code=2), str(args[0]))


def refused(*args: str, code: int) -> str:
    """Run the command, which must fail with one line; return the line."""
    done = silly(*args, code=code)
    return one_line(
        subprocess.CompletedProcess(args, code, done.stdout.decode(), done.stderr.decode()), args[0]
    )


def one_line(done: subprocess.CompletedProcess[str], verb: str) -> str:
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"silly {verb}")
    return lines[0]


@contextlib.contextmanager
def dialled(addr: str) -> Iterator[socket.socket]:
    """A connection to *addr*."""
    if addr.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        sock.connect(addr.removeprefix("unix:"))
    else:
        host, _, port = addr.rpartition(":")
        sock = socket.create_connection((host.strip("[]"), int(port)), timeout=DEADLINE)
    with sock:
        yield sock


def exchange(addr: str, data: bytes) -> bytes:
    """Send *data*, end the stream, and return everything that is received."""
    with dialled(addr) as sock, sock.makefile("rb") as file:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return file.read()


@contextlib.contextmanager
def started(*args: str, command: Sequence[str] = SILLY, **env: str) -> Iterator[Any]:
    """A process with pipes; it is killed at the end of the block, or after the deadline."""
    process = subprocess.Popen(
        [*command, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**env),
    )
    watchdog = threading.Timer(DEADLINE, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        for file in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                file.close()  # type: ignore[union-attr]
