"""Whatever arrives, and however it is read, a reader does what asyncio's does.

A random script of arriving bytes and of reads runs on an `asyncio.StreamReader` that is fed by
hand, and on a reader over a connection; after each step both have the same results. Nothing
arrives while more than half the limit is unread and no read waits: receiving may have stopped.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from silly.net.clients import attach
from silly.net.conn import StreamConn
from silly.streams.reader import ConnReader, read_limit
from silly.streams.writer import streams_of
from silly.testing import memory_pair

Step = tuple[Any, ...]

SEPARATORS: list[Any] = [b"\n", b"\r\n", b"aba", b"", bytearray(b"\n")]
if sys.version_info >= (3, 13):
    SEPARATORS += [(b"\n", b"\r\n"), (b"a", b"bab"), ()]

pieces = st.lists(st.sampled_from(b"ab\r\n"), min_size=1, max_size=12).map(bytes)
sizes = st.integers(-1, 12)
steps = st.one_of(
    st.tuples(st.just("arrive"), pieces),
    st.tuples(st.just("arrive"), pieces),
    st.just(("end",)),
    st.just(("cancel",)),
    st.just(("readline",)),
    st.just(("__anext__",)),
    st.tuples(st.just("read"), sizes),
    st.tuples(st.just("readexactly"), sizes),
    st.tuples(st.just("readuntil"), st.sampled_from(SEPARATORS)),
)


class Fed:
    """asyncio's reader, fed by hand."""

    def __init__(self, limit: int) -> None:
        self.reader = asyncio.StreamReader(limit)
        self.limit = limit

    async def arrive(self, data: bytes) -> None:
        self.reader.feed_data(data)

    async def end(self) -> None:
        self.reader.feed_eof()

    def is_full(self) -> bool:
        return len(self.reader._buffer) > (self.limit + 1) // 2  # type: ignore[attr-defined]

    async def close(self) -> None: ...


class Connected:
    """A reader over a connection, whose peer sends."""

    reader: ConnReader
    conn: StreamConn

    async def over(self, conn: StreamConn, limit: int) -> None:
        self.conn = conn
        self.limit = limit
        self.arrived = 0
        conn.read_limit = read_limit(limit)
        self.reader, self.writer = streams_of(conn, limit, asyncio.get_running_loop())

    async def wait(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not reached():
                await asyncio.sleep(0)

    async def arrive(self, data: bytes) -> None:
        self.arrived += len(data)
        self.send(data)
        await self.wait(lambda: self.conn.stats.bytes_in == self.arrived)

    async def end(self) -> None:
        self.send(None)
        await self.wait(lambda: self.conn._is_ended)

    def is_full(self) -> bool:
        return len(self.reader._buffer) + self.conn.unread_bytes > (self.limit + 1) // 2

    def send(self, data: bytes | None) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.conn.abort()
        await self.conn.wait_closed()


class OverSocket(Connected):
    @classmethod
    async def make(cls, limit: int) -> OverSocket:
        made = cls()
        made.peer, sock = socket.socketpair()
        sock.setblocking(False)
        conn = await attach(asyncio.get_running_loop(), sock, read_limit=read_limit(limit))
        await made.over(conn, limit)
        return made

    peer: socket.socket

    def send(self, data: bytes | None) -> None:
        if data is None:
            self.peer.shutdown(socket.SHUT_WR)
        else:
            self.peer.send(data)

    async def close(self) -> None:
        await super().close()
        self.peer.close()


class OverMemory(Connected):
    @classmethod
    async def make(cls, limit: int) -> OverMemory:
        made = cls()
        made.peer, conn = memory_pair()
        assert isinstance(conn, StreamConn)
        await made.over(conn, limit)
        return made

    peer: Any

    def send(self, data: bytes | None) -> None:
        if data is None:
            self.peer.close_write()
        else:
            self.peer.write(data)

    async def close(self) -> None:
        await super().close()
        self.peer.abort()


async def outcome(read: Callable[..., Awaitable[bytes]], *arguments: Any) -> Any:
    try:
        return await read(*arguments)
    except asyncio.CancelledError:
        return "cancelled"
    except Exception as error:
        return type(error).__name__, str(error), vars(error)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def play(script: list[Step], side: Any) -> Any:
    """Return what can be observed after each step, and the steps that were run."""
    seen: list[Any] = []
    run: list[Step] = []
    reading: asyncio.Task[Any] | None = None
    ended = False
    for step in [*script, ("read", 1000), ("end",), ("read", -1)]:
        name, *arguments = step
        if name in {"arrive", "end"}:
            if ended or (reading is None and side.is_full()):
                continue
            ended = name == "end"
            await getattr(side, name)(*arguments)
        elif name == "cancel":
            if reading is not None:
                reading.cancel()
        elif reading is None:
            read = getattr(side.reader, name)
            reading = asyncio.create_task(outcome(read, *arguments))
        await settle()
        run.append(step)
        if reading is not None and reading.done():
            seen.append((name, reading.result()))
            reading = None
        seen.append((side.reader.at_eof(), reading is None))
    if reading is not None:
        seen.append(await reading)
    return seen, run


async def compare(script: list[Step], limit: int, make: Any) -> None:
    expected = await play(script, Fed(limit))
    side = await make(limit)
    try:
        assert await play(script, side) == expected
    finally:
        await side.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.parametrize("make", [OverSocket.make, OverMemory.make], ids=["socket", "memory"])
@given(st.lists(steps, max_size=25), st.integers(1, 16))
@example([("arrive", b"aaaa"), ("readuntil", b"\r\n"), ("end",)], 3)
@example([("readline",), ("arrive", b"aaaaa"), ("arrive", b"\nb\n"), ("readline",)], 3)
@example([("arrive", b"aaaaab\nb\n"), ("read", 2), ("readline",), ("readexactly", 3)], 9)
def test_reads_as_asyncio_does(
    make: Any, runner: asyncio.Runner, script: list[Step], limit: int
) -> None:
    runner.run(compare(script, limit, make))
