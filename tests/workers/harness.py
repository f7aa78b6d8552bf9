"""Run a supervisor as a process, read its output, and count failures of clients."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

DEADLINE = 60.0  # seconds for one process

ECHO = """
import os, sys
from silly.net import tcp

async def handler(conn):
    async for line in conn:
        if line == b"who\\n":
            line = f"{os.environ.get('SILLY_WORKER')} {os.getpid()}\\n".encode()
        await conn.write(line)

listener = tcp.listen(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0", handler)
print("listening", os.environ.get("SILLY_WORKER"), os.getpid(), listener.local_addr, flush=True)
"""


class Running:
    """A running process and its output so far."""

    def __init__(self, command: Sequence[object], **options: object) -> None:
        self.process = subprocess.Popen(  # type: ignore[call-overload]
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        self.output = ""
        self._watchdog = threading.Timer(DEADLINE, self._give_up)
        self._watchdog.start()

    def _give_up(self) -> None:
        if self.process.poll() is None:
            # Its workers exit, too, so that reading reaches the end of the output.
            self.process.kill()

    def until(self, pattern: str, *, times: int = 1) -> list[str]:
        """Read until *times* more lines match; return the first group (or all) of each."""
        matches: list[str] = []
        while len(matches) < times:
            line = self.process.stdout.readline()
            assert line, f"no {pattern!r} in: {self.output}"
            self.output += line
            if match := re.search(pattern, line):
                matches.append(match[match.re.groups and 1])
        return matches

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def rest(self) -> str:
        """Read to the end, when all processes with this output have exited."""
        rest = str(self.process.stdout.read())
        self.output += rest
        self.process.wait()
        return rest

    def stop(self) -> None:
        self.send(signal.SIGTERM)
        self.rest()
        assert self.process.returncode == 0, self.output

    def end(self) -> None:
        self._watchdog.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.read()
        self.process.stdout.close()


@contextmanager
def running(*command: object, **options: object) -> Iterator[Running]:
    process = Running([sys.executable, *command], **options)
    try:
        yield process
    finally:
        process.end()


def script(tmp_path: Path, text: str = ECHO, name: str = "script.py") -> Path:
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return path


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, **variables}


def dial(addr: str) -> socket.socket:
    if addr.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(addr.removeprefix("unix:"))
        return sock
    host, _, port = addr.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=20)


def ask(addr: str, line: bytes) -> bytes:
    """Connect, send *line*, and return everything until the end of the stream."""
    with dial(addr) as sock, sock.makefile("rb") as file:
        sock.sendall(line)
        sock.shutdown(socket.SHUT_WR)
        return file.read()


def who(addr: str) -> tuple[int, int]:
    """Return the number and the process ID of the worker that answers."""
    number, pid = ask(addr, b"who\n").split()
    return int(number), int(pid)


class Load:
    """Threads that repeatedly connect, send, check the echo, and close."""

    def __init__(self, addr: str, clients: int = 2) -> None:
        self.done = 0
        self.failures: list[str] = []
        self._addr = addr
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._reached = threading.Condition(self._lock)
        self._threads = [
            threading.Thread(target=self._client, args=(number,)) for number in range(clients)
        ]

    def _client(self, number: int) -> None:
        count = 0
        while not self._stop.wait(0.002):  # leaves processor time to the workers that start
            count += 1
            line = b"%d %d %s\n" % (number, count, b"x" * (count % 300))
            try:
                answer = ask(self._addr, line)
            except OSError as error:
                failure = repr(error)
            else:
                failure = "" if answer == line else f"short: {answer!r} of {line!r}"
            with self._lock:
                self.done += 1
                if failure:
                    self.failures.append(failure)
                self._reached.notify_all()

    def more(self, count: int) -> None:
        """Wait until *count* more connections were made."""
        with self._lock:
            target = self.done + count
            assert self._reached.wait_for(lambda: self.done >= target, DEADLINE)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
