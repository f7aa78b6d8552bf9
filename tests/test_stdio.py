"""Writing to standard descriptors: data completely or with an error, messages without waiting."""

from __future__ import annotations

import errno
import io
import os
import socket
import subprocess
import sys
import threading

import pytest

from silly import stdio
from tests.conftest import open_descriptors

pytestmark = pytest.mark.no_engine


def test_all_is_written_to_a_full_non_blocking_pipe() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    found = bytearray()

    def read() -> None:
        while piece := os.read(reading, 100_000):
            found.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    data = bytes(range(256)) * 10_000
    stdio.write_all(writing, data)
    assert not os.get_blocking(writing)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert found == data


def test_a_message_may_interrupt_another() -> None:
    """As in a signal handler; nothing is written twice, lost or mixed."""
    reading, writing = os.pipe()
    calls = 0

    def descriptor() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            assert dropper.write(b"second\n")
        return writing

    dropper = stdio.Dropper(descriptor, "messages")
    assert dropper.write(b"x" * 5000 + b"\n")
    dropper.close()
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert file.read() == b"x" * 5000 + b"\nsecond\n"


def test_a_descriptor_reused_by_a_socket_is_not_written_to() -> None:
    before = open_descriptors()
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        dropper = stdio.Dropper(lambda: writing, "messages")
        dropper.write(b"to the pipe")
        os.dup2(ours.fileno(), writing)
        dropper.write(b"to a client?")
        assert dropper.error is not None
        dropper.close()
        os.close(writing)
        ours.close()
        assert theirs.recv(100) == b""
    assert os.read(reading, 100) == b"to the pipe"
    os.close(reading)
    assert open_descriptors() == before


def test_a_descriptor_reused_by_another_pipe_is_written_to() -> None:
    before = open_descriptors()
    (first, writing), (second, other) = os.pipe(), os.pipe()
    dropper = stdio.Dropper(lambda: writing, "messages")
    dropper.write(b"to the first")
    os.dup2(other, writing)
    dropper.write(b"to the second")
    dropper.close()
    for descriptor, data in ((first, b"to the first"), (second, b"to the second")):
        assert os.read(descriptor, 100) == data
    for descriptor in (first, second, writing, other):
        os.close(descriptor)
    assert open_descriptors() == before


def test_a_full_pipe_is_not_waited_for_where_there_is_no_proc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> int:
        raise FileNotFoundError

    reading, writing = os.pipe()
    monkeypatch.setattr(os, "open", fail)
    dropper = stdio.Dropper(lambda: writing, "messages", max_kept=1000)
    written = 0
    while dropper.write(b"x" * 100):
        written += 100
    assert os.get_blocking(writing)  # nobody else is surprised
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert written - 1000 <= len(file.read()) <= written


def test_messages_that_nobody_reads_are_an_error_at_the_end() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        messages = stdio.Messages(stream)
        for number in range(30_000):
            print(f"{number:09}", file=messages)
        lost = messages.end()
    with os.fdopen(reading) as file:
        lines = file.read().splitlines()
    assert lost is not None
    assert lost.errno == errno.EAGAIN
    assert [int(line) for line in lines if line.isdigit()][:1000] == [*range(1000)]


def test_data_that_cannot_be_written_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        output = stdio.data_stream(full, "the output")
        output.write("x")
        with pytest.raises(stdio.OutputLost, match=r"^cannot write the output: No space left"):
            output.flush()
    with pytest.raises(stdio.OutputLost, match=r"^cannot write the output: it is closed$"):
        print("x", file=stdio.data_stream(None, "the output"), flush=True)


def test_a_stream_takes_text_of_any_kind() -> None:
    put: list[bytes] = []
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = stdio.Stream(ascii_only, put.append, by_line=False)
    stream.write("µ\udc80 and on")
    with pytest.raises(TypeError, match="text must be a str, not bytes"):
        stream.write(b"x")  # type: ignore[arg-type]
    assert put == []
    assert stream.writable()
    stream.flush()
    assert put == [b"?? and on"]


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2), (0, 2)])
def test_closed_descriptors_are_reserved(which: tuple[int, ...]) -> None:
    code = """
import os, sys
from silly import stdio
stdio.reserve()
os.write(int(sys.argv[1]), b"%d" % os.open("/dev/null", os.O_RDONLY))
print("not in the data", file=sys.stderr)
"""
    reading, writing = os.pipe()
    closing = " ".join(f"{number}>&-" for number in which)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", code, str(writing)],
        pass_fds=[writing], stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as file:
        assert int(file.read()) > 2
    assert done.stdout == b""
