"""Whatever the standard descriptors are, servers keep serving and data is complete or an error.

A descriptor may be closed, on a full disk, a full pipe, non-blocking, or without a
reader. Log messages must never reach a client or a data file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench import servers
from tests.cli.terminal import DEADLINE, SILLY, Terminal, dialled, environment

pytestmark = pytest.mark.no_engine

SCRIPT = """
import os, sys
from silly.net import tcp

async def handler(conn):
    async for line in conn:
        if line == b"crash\\n":
            raise ZeroDivisionError("x" * 10_000)
        await conn.write(b"%d\\n" % os.getpid() if line == b"pid\\n" else line)

tcp.listen(sys.argv[1], handler)
"""


# ------------------------------------------------------------------ states of a descriptor


@contextlib.contextmanager
def closed() -> Iterator[None]:
    yield None


@contextlib.contextmanager
def gone() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def fill(descriptor: int) -> None:
    """Write until it would block."""
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(descriptor, bytes(4096)):
            pass
    os.set_blocking(descriptor, True)


@contextlib.contextmanager
def unread() -> Iterator[int]:
    reading, writing = os.pipe()
    fill(writing)
    yield writing
    os.close(writing)
    os.close(reading)


@contextlib.contextmanager
def full() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@contextlib.contextmanager
def unread_terminal() -> Iterator[int]:
    ours, theirs = pty.openpty()
    fill(theirs)
    yield theirs
    os.close(theirs)
    os.close(ours)


@contextlib.contextmanager
def unread_socket() -> Iterator[int]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while theirs.send(bytes(4096)):
                pass
        theirs.setblocking(True)
        yield theirs.fileno()


State = Callable[[], contextlib.AbstractContextManager[int | None]]
STATES: list[State] = [closed, gone, unread, full, unread_terminal, unread_socket]


@contextlib.contextmanager
def process(
    args: Sequence[object],
    descriptors: Mapping[int, int | None],
    *,
    command: Sequence[str] = SILLY,
    **env: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *args* with these standard descriptors (None: closed); the others are pipes."""
    command = [*command, *map(str, args)]
    if closing := [f"{number}>&-" for number, to in descriptors.items() if to is None]:
        command = ["sh", "-c", f'exec "$@" {" ".join(closing)}', "sh", *command]
    given = [descriptors.get(number, subprocess.PIPE) for number in range(3)]
    started = subprocess.Popen(
        command, stdin=given[0], stdout=given[1], stderr=given[2], env=environment(**env),
    )  # fmt: skip
    watchdog = threading.Timer(DEADLINE, started.kill)
    watchdog.start()
    try:
        yield started
    finally:
        watchdog.cancel()
        started.kill()
        for file in (started.stdin, started.stdout, started.stderr):
            if file is not None:
                file.close()
        started.wait()


class Readiness:
    """Waits until a service reports that it is ready (sd_notify(3))."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(DEADLINE)

    def wait(self) -> None:
        while b"READY=1" not in self._socket.recv(4096):
            pass

    def close(self) -> None:
        self._socket.close()


def exchanged(sock: socket.socket, line: bytes) -> bytes:
    sock.sendall(line)
    answer = b""
    while not answer.endswith(b"\n"):
        answer += sock.recv(1000)
    return answer


# ---------------------------------------------------------------------------- services

SERVICES = {
    "script": ["SCRIPT", "ADDR"],
    "function": ["script:serve", "ADDR"],
    "workers": ["--workers", "2", "SCRIPT", "ADDR"],
    "reload": ["--reload", "SCRIPT", "ADDR"],
    "echo": ["echo", "ADDR"],
    "echo --json": ["echo", "--json", "ADDR"],
}


@contextlib.contextmanager
def service(
    name: str, folder: Path, descriptors: dict[int, int | None]
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    (folder / "script.py").write_text(SCRIPT)
    addr = f"unix:{folder}/s.sock"
    words = {"SCRIPT": str(folder / "script.py"), "ADDR": addr}
    args = [words.get(word, word) for word in SERVICES[name]]
    ready = Readiness(folder)
    try:
        with process(args, descriptors, NOTIFY_SOCKET=str(ready.path)) as started:
            ready.wait()
            yield started, addr
    finally:
        ready.close()


@pytest.mark.parametrize(
    ("name", "state"),
    [
        *(("script", state) for state in STATES),
        *(("echo", state) for state in STATES),
        *(("echo --json", state) for state in (closed, gone, unread)),
        *(("workers", state) for state in (closed, gone, unread)),
    ],
)
def test_service_goes_on(name: str, state: State, tmp_path: Path) -> None:
    with state() as descriptor:
        given = {0: None, 1: descriptor, 2: descriptor}
        with service(name, tmp_path, given) as (started, addr), dialled(addr) as first:
            assert exchanged(first, b"one\n") == b"one\n"
            for number in range(6):
                with dialled(addr) as sock:
                    sock.sendall(b"crash\n")
                    assert sock.recv(100) == (b"crash\n" if name.startswith("echo") else b"")
                    if not name.startswith("echo") and number % 5 == 0:
                        started.send_signal(signal.SIGUSR1)
                assert exchanged(first, b"two\n") == b"two\n"
            for _ in range(3):
                if not name.startswith("echo"):
                    started.send_signal(signal.SIGUSR1)  # perhaps while it waits
                assert exchanged(first, b"three\n") == b"three\n"
                with dialled(addr) as sock:
                    assert exchanged(sock, b"new\n") == b"new\n"
            first.close()
            started.terminate()
            lost = name == "echo --json" or (name == "echo" and state is full)
            assert started.wait(DEADLINE) == int(lost)


def test_reloading_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    with unread() as descriptor:
        given = {0: None, 1: descriptor, 2: descriptor}
        with service("reload", tmp_path, given) as (started, addr), dialled(addr) as first:
            assert exchanged(first, b"one\n") == b"one\n"
            first.close()
            started.terminate()
            assert started.wait(DEADLINE) == 0


def test_a_supervisor_works_when_its_log_is_not_read(tmp_path: Path) -> None:
    with unread() as descriptor, service("workers", tmp_path, {2: descriptor}) as (started, addr):

        def pid() -> int:
            with dialled(addr) as sock:
                return int(exchanged(sock, b"pid\n"))

        def until_others(old: set[int]) -> None:
            new: set[int] = set()
            while len(new) < 2:
                with contextlib.suppress(OSError, ValueError):  # a worker that was killed
                    new |= {pid()} - old

        before: set[int] = set()
        while len(before) < 2:
            before.add(pid())
        started.send_signal(signal.SIGHUP)
        until_others(before)
        killed = pid()
        os.kill(killed, signal.SIGKILL)
        until_others(before | {killed})
        started.terminate()
        assert started.wait(DEADLINE) == 0


def test_a_report_reaches_standard_error_and_no_client(tmp_path: Path) -> None:
    for errors in (subprocess.PIPE, None):
        folder = tmp_path / str(errors)
        folder.mkdir()
        with service("script", folder, {2: errors}) as (started, addr), dialled(addr) as sock:
            started.send_signal(signal.SIGUSR1)
            assert exchanged(sock, b"one\n") == b"one\n"
            if started.stderr is not None:
                assert b"listening on" in started.stderr.readline()
                assert started.stderr.readline().startswith(b"silly: process ")
            started.terminate()
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
            assert started.wait(DEADLINE) == 0


def test_writes_to_a_closed_descriptor_reach_no_client(tmp_path: Path) -> None:
    """Bytes that a program or a library writes to descriptor 2 reach no client."""
    path = tmp_path / "script.py"
    path.write_text("""
import os, sys
import silly
from silly.net import tcp

async def handler(conn):
    os.write(2, b"LOG")
    print("LOG", file=sys.stderr)
    await conn.write(await conn.read(b"\\n"))

async def main():
    tcp.listen(sys.argv[1], handler)

silly.run(main())
""")
    addr = f"unix:{tmp_path}/s.sock"
    ready = Readiness(tmp_path)
    given: dict[int, int | None] = {0: None, 1: None, 2: None}
    python = [sys.executable, str(path)]
    with process([addr], given, command=python, NOTIFY_SOCKET=str(ready.path)) as started:
        ready.wait()
        with dialled(addr) as first, dialled(addr) as second, dialled(addr) as third:
            for sock in (first, second, third):
                assert exchanged(sock, b"one\n") == b"one\n"
                assert sock.recv(100) == b""
        started.terminate()
        assert started.wait(DEADLINE) == 0
    ready.close()


# -------------------------------------------------------------------------------- data

WHOLE = bytes(range(256)) * 8192


@contextlib.contextmanager
def sending(data: bytes) -> Iterator[str]:
    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(data)

    with servers.serving(serve) as addr:
        yield addr


@pytest.fixture(scope="module")
def commands(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, tuple[list[str], Callable[[bytes], object]]]]:
    """Commands that write data to standard output, with a check of the data."""
    path = tmp_path_factory.mktemp("results") / "result.json"

    def result(data: bytes) -> None:
        assert json.loads(data)["requests"] == 1000

    with servers.serving(servers.echo) as echo, sending(WHOLE) as addr:
        bench = ["bench", echo, "-n", "1000", "-q", "--interval", "1ms"]
        subprocess.run([*SILLY, *bench, "--json", path], check=True, stdout=subprocess.DEVNULL)
        yield {
            "connect": (["connect", addr], WHOLE.__eq__),
            "bench --json": ([*bench, "--json", "/dev/stdout"], result),
            "bench": (bench, lambda data: b"requests    1 000" in data),
            "compare": (
                ["bench", "compare", str(path), str(path)], lambda data: b"p99.9" in data,
            ),
            "--help": (["echo", "--help"], lambda data: b"Exit codes" in data),
        }  # fmt: skip


NAMES = ["connect", "bench --json", "bench", "compare", "--help"]


@pytest.mark.parametrize("name", NAMES)
def test_data_on_a_non_blocking_pipe_is_whole(name: str, commands: dict[str, Any]) -> None:
    args, check = commands[name]
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    given = {0: subprocess.DEVNULL, 1: writing}
    with process(args, given) as started, os.fdopen(reading, "rb") as file:
        os.close(writing)
        assert check(file.read()) is not False
        assert started.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    ("state", "words"),
    [(closed, r"closed|must be open"), (gone, ""), (full, "No space left on device")],
    ids=["closed", "gone", "full"],
)
@pytest.mark.parametrize("name", NAMES)
def test_lost_data_is_reported(
    name: str, state: State, words: str, commands: dict[str, Any]
) -> None:
    args, _ = commands[name]
    with state() as descriptor, process(args, {0: subprocess.DEVNULL, 1: descriptor}) as started:
        assert started.stderr is not None
        lines = started.stderr.read().decode().splitlines()
        assert started.wait(DEADLINE) in (1, 2)
    told = [line for line in lines if line.startswith("silly ")]
    assert len(told) == bool(words)
    assert not words or re.search(words, told[0])
    assert name == "bench --json" or lines == told  # that prints its summary there


@pytest.mark.parametrize("state", [closed, gone, unread, unread_terminal, full])
@pytest.mark.parametrize("name", ["connect", "bench --json"])
def test_unread_messages_do_not_hold_up_data(
    name: str, state: State, commands: dict[str, Any]
) -> None:
    args, check = commands[name]
    verbose = [word for word in args if word != "-q"]
    with (
        state() as descriptor,
        process(verbose, {0: subprocess.DEVNULL, 2: descriptor}) as started,
    ):
        assert started.stdout is not None
        assert check(started.stdout.read()) is not False
        assert started.wait(DEADLINE) == 0


@pytest.mark.parametrize("state", [closed, unread], ids=["closed", "unread"])
@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["connect", "unix:nothing"], 1),
        (["bench", "unix:nothing", "-n", "1"], 3),
        (["echo", "unix:/no/where"], 3),
        (["--workers", "2", "nothing.py"], 2),
        (["--workers", "2", "--watchdog", "x", "nothing.py"], 2),
    ],
)
def test_unread_errors_are_not_mixed_into_the_data(
    args: list[str], code: int, state: State
) -> None:
    with state() as descriptor, process(args, {0: subprocess.DEVNULL, 2: descriptor}) as started:
        assert started.stdout is not None
        assert started.stdout.read() == b""
        assert started.wait(DEADLINE) == code


def test_the_json_of_echo_is_whole_or_an_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with service("echo --json", tmp_path, {1: writing, 2: None}) as (started, addr):
        os.close(writing)
        with dialled(addr) as sock:
            assert exchanged(sock, b"one\n") == b"one\n"
        started.terminate()
        with os.fdopen(reading, "rb") as file:
            events: list[dict[str, Any]] = [json.loads(line) for line in file]
        assert started.wait(DEADLINE) == 0
    assert [event["event"] for event in events] == ["listening", "summary"]


def test_a_crashing_script_ends_although_its_traceback_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    for text in ("1 / 0", "raise SystemExit('why')"):
        path.write_text(text)
        with unread() as descriptor, process([path], {2: descriptor}) as started:
            assert started.wait(DEADLINE) == 1


def test_a_terminal_that_is_stopped_does_not_stop_an_echo_server(tmp_path: Path) -> None:
    addr = f"unix:{tmp_path}/s.sock"
    with Terminal("echo", addr, "--log") as terminal:
        terminal.wait_for("Listening")
        for _ in range(2000):  # more lines than the terminal's buffer holds, unread
            with dialled(addr) as sock:
                assert exchanged(sock, b"one\n") == b"one\n"
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 0
