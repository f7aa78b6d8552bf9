"""A log that nobody reads blocks nothing; dropped records are counted and reported."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from silly.log import DroppingHandler
from tests.conftest import open_descriptors


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream
    os.close(reading)


def logged(handler: logging.Handler, text: str) -> None:
    handler.handle(logging.makeLogRecord({"msg": text}))


def everything(descriptor: int) -> bytes:
    """Return what can be read without waiting."""
    os.set_blocking(descriptor, False)
    found = b""
    try:
        while piece := os.read(descriptor, 1 << 20):
            found += piece
    except BlockingIOError:
        pass
    return found


def test_a_full_pipe_keeps_some_records_and_reports_the_dropped(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    handler = DroppingHandler(stream, max_kept=1000)
    for number in range(2_000):
        logged(handler, f"{number:099}")
    assert os.get_blocking(stream.fileno())  # the mode of the pipe is not changed
    dropped = handler.dropped
    assert 0 < dropped < 2_000
    first = everything(reading)
    handler.flush()
    rest = everything(reading)
    lines = (first + rest).decode().splitlines()
    assert [int(line) for line in lines[:-1]] == [*range(2_000 - dropped)]
    assert lines[-1] == f"({dropped} log records dropped: the output was not read)"
    logged(handler, "and on")
    assert everything(reading) == b"and on\n"
    assert handler.dropped == dropped
    handler.close()


async def test_kept_records_are_written_when_there_is_room(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    handler = DroppingHandler(stream, max_kept=100_000)
    text = "x" * 99
    for _ in range(1_000):
        logged(handler, text)
    assert handler.dropped == 0
    found = b""
    async with asyncio.timeout(10):
        while len(found) < 100_000:
            found += everything(reading)
            await asyncio.sleep(0.01)
    assert found == (text + "\n").encode() * 1_000
    handler.close()


def test_a_closed_handler_releases_the_pipe(pipe: tuple[int, TextIO]) -> None:
    before = open_descriptors()
    handler = DroppingHandler(pipe[1])
    for _ in range(1_000):
        logged(handler, "x" * 99)
    assert open_descriptors() != before
    handler.close()
    handler.flush()
    assert open_descriptors() == before


def test_a_script_that_ends_waits_for_a_slow_reader(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text("""
import logging
for number in range(1_000):
    logging.getLogger("script").error("%099d", number)
""")
    process = subprocess.Popen([sys.executable, "-m", "silly", str(path)], stderr=subprocess.PIPE)
    with process:
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    assert [int(line.rpartition(b" ")[2]) for line in lines] == [*range(1_000)]


def test_a_socket_that_nobody_reads() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(ours.fileno(), "w", closefd=False) as stream:
        handler = DroppingHandler(stream, max_kept=1000)
        for number in range(20_000):
            logged(handler, f"{number:099}")
        assert handler.dropped > 0
        handler.close()


def test_a_closed_reader_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        handler = DroppingHandler(stream)
        logged(handler, "into the void")
        handler.close()
    logged(handler, "after it was closed")
    assert capsys.readouterr().err.count("Traceback") <= 1  # logging itself reports a closed file


def test_files_and_streams_without_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as stream:
        handler = DroppingHandler(stream)
        for number in range(100):
            logged(handler, str(number))
        handler.close()
    assert path.read_text() == "".join(f"{number}\n" for number in range(100))
    text = io.StringIO()
    logged(DroppingHandler(text), "in memory")
    assert text.getvalue() == "in memory\n"


def test_without_standard_error_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as in pythonw
    handler = DroppingHandler()
    logged(handler, "into the void")
    assert handler.dropped == 0


def test_too_deep_a_recursion_is_not_hidden() -> None:
    class Deep:
        def __str__(self) -> str:
            raise RecursionError

    record = logging.makeLogRecord({"msg": Deep()})
    with pytest.raises(RecursionError):
        DroppingHandler(io.StringIO()).emit(record)


def test_it_writes_to_the_current_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    logged(DroppingHandler(), "to standard error: ü")
    assert capfd.readouterr().err == "to standard error: ü\n"


SERVER = """
import logging
from silly.net import tcp

async def handler(conn):
    async for line in conn:
        if line == b"crash\\n":
            logging.getLogger("app").error("cannot answer %s: %s", conn.remote_addr, "x" * 2000)
            raise ZeroDivisionError
        await conn.write(line)

print(tcp.listen("127.0.0.1:0", handler).local_addr, flush=True)
"""


def test_a_server_whose_log_nobody_reads_keeps_serving_and_drains(tmp_path: Path) -> None:
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    process = subprocess.Popen(
        [sys.executable, "-m", "silly", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            host, _, port = process.stdout.readline().decode().strip().rpartition(":")
            address = host, int(port)
            for _ in range(100):  # far more than a pipe holds
                with socket.create_connection(address, timeout=10) as sock:
                    sock.sendall(b"fine\ncrash\n")
                    with sock.makefile("rb") as file:
                        assert file.read() == b"fine\n"
            with socket.create_connection(address, timeout=10) as sock:
                sock.sendall(b"still\n")
                assert sock.recv(100) == b"still\n"
                process.terminate()
                sock.sendall(b"there\n")
                assert sock.recv(100) == b"there\n"
            assert process.wait(10) == 0
            log = process.stderr.read().decode()
        finally:
            if process.poll() is None:
                process.kill()
    assert len(re.findall(r"cannot answer 127.0.0.1:\d+: x{2000}$", log, re.MULTILINE)) > 5
    assert (
        len(
            re.findall(
                r" ERROR \[\d+\] silly\.net: \S+: handler handler failed$", log, re.MULTILINE
            )
        )
        == 1
    )


def test_a_script_may_configure_logging_as_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text("""
import logging
logging.getLogger("x").warning("plain")
logging.basicConfig(format="%(levelname)s: %(message)s")
logging.getLogger("x").warning("formatted")
""")
    done = subprocess.run(
        [sys.executable, "-m", "silly", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert re.fullmatch(r".* WARNING \[\d+\] x: plain\nWARNING: formatted\n", done.stderr)
    assert done.returncode == 0
