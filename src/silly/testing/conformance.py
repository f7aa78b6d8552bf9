"""The conformance suite for connections: `check_conn` runs all of `CONN_CHECKS`.

To test a kind of connection, pass *make_pair*, a coroutine function that returns
two connections joined to each other. Each check gets a new pair, which is aborted
at the end. A failing check raises `AssertionError`, or the unexpected exception
that the connection raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from silly.errors import (
    ConcurrentRead,
    ConnectionClosed,
    EndOfStream,
    LimitExceeded,
    TruncatedStream,
    WriteQueueFull,
)
from silly.net.tcp import Conn

__all__ = ["CONN_CHECKS", "MakePair", "check_conn", "run_check"]

MakePair = Callable[[], Awaitable[tuple[Conn, Conn]]]
Check = Callable[[Conn, Conn], Awaitable[None]]

CONN_CHECKS: list[Check] = []
"""The checks: coroutine functions that take the two ends of a new pair."""


async def check_conn(make_pair: MakePair) -> None:
    """Run each check on a new pair from *make_pair*.

    Raises:
        AssertionError: a connection does not behave as required; a note names the check.
    """
    for check in CONN_CHECKS:
        await run_check(check, make_pair)


async def run_check(check: Check, make_pair: MakePair) -> None:
    """Run one of `CONN_CHECKS` on a new pair from *make_pair*, then abort the pair."""
    one, other = await make_pair()
    try:
        async with asyncio.timeout(30):
            await check(one, other)
    except Exception as error:
        error.add_note(f"in the check {check.__name__}")
        raise
    finally:
        for conn in (one, other):
            conn.abort()
        for conn in (one, other):
            await conn.wait_closed()


def _check(function: Check) -> Check:
    CONN_CHECKS.append(function)
    return function


async def _raises(
    kinds: type[BaseException] | tuple[type[BaseException], ...], awaitable: Awaitable[Any]
) -> Any:
    try:
        result = await awaitable
    except kinds as error:
        return error
    names = [kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
    raise AssertionError(f"expected {' or '.join(names)}, got {result!r}")


@_check
async def reads_of_each_kind(one: Conn, other: Conn) -> None:
    """Read up to a delimiter, a number of bytes, whatever has arrived, and nothing."""
    other.write(b"line\nab\r\ncd12345")
    assert await one.read(b"\n") == b"line\n"
    assert await one.read(b"\r\n") == b"ab\r\n"
    assert await one.read(2) == b"cd"
    assert await one.read(0) == b""
    assert await one.read(5) == b"12345"
    other.write(b"x")
    assert await one.read() == b"x"
    assert one.unread_bytes == 0


@_check
async def delimiters_straddle_pieces(one: Conn, other: Conn) -> None:
    """A delimiter that arrives byte by byte is found."""
    reader = asyncio.ensure_future(one.read(b"<end>"))
    for byte in b"a<<en<end>b":
        await other.write(bytes([byte]))
        await asyncio.sleep(0)
    assert await reader == b"a<<en<end>"
    assert await one.read(1) == b"b"


@_check
async def lines_are_iterated(one: Conn, other: Conn) -> None:
    """Iteration yields an unfinished last line as it is, then ends."""
    other.write(b"one\ntwo\nthree")
    other.close_write()
    lines = [line async for line in one]
    assert lines == [b"one\n", b"two\n", b"three"], lines


@_check
async def batches_are_what_reads_return(one: Conn, other: Conn) -> None:
    """Lines and frames also come in batches, bounded, and end as an iteration of lines."""
    other.write(b"a\nb\r\nc\nd")
    batches = one.batches(most=2)
    lines: list[bytes] = []
    while len(lines) < 3:
        batch = await anext(batches)
        assert 1 <= len(batch) <= 2, batch
        lines += batch
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    waiting.cancel()
    await _raises(asyncio.CancelledError, waiting)
    await _raises(TimeoutError, anext(one.batches(timeout=0.01)))
    other.write(b"1122")
    async for frames in one.batches(2):
        lines += frames
        if lines[-1] == b"12":
            break
    one.read_limit = 3
    other.write(b"\n3\n4444\n")
    while len(lines) < 7:
        lines += await anext(batches)
    await _raises(LimitExceeded, anext(batches))
    one.read_limit = 5
    other.write(b"5")
    other.close_write()
    lines += [line async for batch in batches for line in batch]
    expected = [b"a\n", b"b\r\n", b"c\n", b"d1", b"12", b"2\n", b"3\n", b"4444\n", b"5"]
    assert lines == expected, lines
    await _raises(StopAsyncIteration, anext(one.batches(3)))


@_check
async def unfinished_frames_are_an_error(one: Conn, other: Conn) -> None:
    """A stream that ends within a frame raises EndOfStream after the complete frames."""
    other.write(b"12345")
    other.close_write()
    batches = one.batches(2)
    frames: list[bytes] = []
    while len(frames) < 2:
        frames += await anext(batches)
    assert frames == [b"12", b"34"], frames
    error = await _raises(EndOfStream, anext(batches))
    assert error.partial == b"5"
    assert await one.read(1) == b"5"


@_check
async def nothing_is_lost(one: Conn, other: Conn) -> None:
    """A timeout, a cancellation or a limit leaves the received bytes readable."""
    await other.write(b"12345678")
    await _raises(TimeoutError, one.read(b"\n", timeout=0.01))
    reader = asyncio.ensure_future(one.read(100))
    await asyncio.sleep(0)
    reader.cancel()
    await _raises(asyncio.CancelledError, reader)
    await _raises(LimitExceeded, one.read(b"\n", limit=8))
    other.write(b"\n")
    await _raises(LimitExceeded, one.read(b"\n", limit=8))
    assert await one.read(b"\n", limit=9) == b"12345678\n"


@_check
async def end_of_stream_is_reported(one: Conn, other: Conn) -> None:
    """After a FIN, unread bytes stay readable and the other direction still works."""
    other.write(b"part")
    other.close_write()
    error = await _raises(EndOfStream, one.read(b"\n"))
    assert error.partial == b"part"
    assert await one.read(4) == b"part"
    await _raises(EndOfStream, one.read())
    assert await one.read(0) == b""
    one.write(b"answer")
    assert await other.read(6) == b"answer"
    try:
        other.write(b"x")
    except ConnectionClosed:
        return
    raise AssertionError("write after close_write was accepted")


@_check
async def close_delivers_everything(one: Conn, other: Conn) -> None:
    """Bytes queued at close reach a peer that reads late, followed by the end."""
    size = 3_000_000
    one.write(b"x" * size)
    one.close()
    one.close()
    await asyncio.sleep(0)
    assert len(await other.read(size)) == size
    await _raises(EndOfStream, other.read())
    other.close()
    await one.wait_closed()
    assert not one.is_alive


@_check
async def close_wakes_and_refuses(one: Conn, other: Conn) -> None:
    """A waiting read and every later call raise ConnectionClosed after `close`."""
    reader = asyncio.ensure_future(one.read(1))
    await asyncio.sleep(0)
    one.close()
    await _raises(ConnectionClosed, reader)
    await _raises(ConnectionClosed, one.read())
    try:
        one.write(b"x")
    except ConnectionClosed:
        pass
    else:
        raise AssertionError("write after close was accepted")
    await _raises(EndOfStream, other.read())


@_check
async def abort_resets(one: Conn, other: Conn) -> None:
    """After `abort`, the peer sees a reset with the address; this side ConnectionClosed.

    Unix sockets have no reset: there, the peer sees the end of the stream (`TruncatedStream`
    over TLS).
    """
    is_unix = any(addr.startswith("unix:") for addr in (one.remote_addr, other.remote_addr))
    ends = (ConnectionResetError, EndOfStream, TruncatedStream) if is_unix else ConnectionResetError
    reader = asyncio.ensure_future(other.read(1))
    await asyncio.sleep(0)
    one.abort()
    error = await _raises(ends, reader)
    assert other.remote_addr in str(error), error
    await _raises(ConnectionClosed, one.read())
    if is_unix:
        return
    try:
        other.write(b"x")
    except ConnectionResetError:
        pass
    else:
        raise AssertionError("write on a lost connection was accepted")


@_check
async def second_reader_is_refused(one: Conn, other: Conn) -> None:
    """A second concurrent read raises ConcurrentRead; the first one completes."""
    first = asyncio.ensure_future(one.read(2))
    await asyncio.sleep(0)
    await _raises(ConcurrentRead, one.read(1))
    other.write(b"ab")
    assert await first == b"ab"


@_check
async def writers_wait_and_are_refused(one: Conn, other: Conn) -> None:
    """A full write queue refuses writes, a long one makes them wait; order is kept."""
    one.max_unsent = 500_000
    refused = None
    written = 0
    while refused is None and written < 100_000_000:
        try:
            one.write(b"x" * 50_000)
            written += 50_000
        except WriteQueueFull as error:
            refused = error
    assert refused is not None, "the write queue grew without a limit"
    assert one.unsent_bytes <= 500_000
    waiting = one.write(b"").__await__()
    assert next(waiting, None) is not None, "a write did not wait although the queue is long"
    writer = asyncio.ensure_future(one.write(b""))
    assert await other.read(written) == b"x" * written
    await writer


@_check
async def count_above_read_limit_completes(one: Conn, other: Conn) -> None:
    """A read of more bytes than `read_limit` completes."""
    one.read_limit = 100
    data = bytes(range(256)) * 4000
    writer = asyncio.ensure_future(other.write(data))
    assert await one.read(len(data)) == data
    await writer


@_check
async def idle_connection_ends(one: Conn, other: Conn) -> None:
    """After `idle_timeout` without a byte, reads raise TimeoutError and the peer sees the end."""
    one.idle_timeout = 0.02
    await _raises(TimeoutError, one.read())
    assert not one.is_alive
    await _raises(EndOfStream, other.read())


@_check
async def written_buffers_may_change_afterwards(one: Conn, other: Conn) -> None:
    """Every bytes-like type is accepted, and mutable ones are copied."""
    mutable = bytearray(b"abc")
    one.write(mutable)
    mutable[:] = b"xyz"
    one.write([memoryview(b"def"), b"ghi"])
    assert await other.read(9) == b"abcdefghi"
