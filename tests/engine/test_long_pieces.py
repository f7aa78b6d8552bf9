"""Long reads and long writes, which engines treat apart: nothing is lost, mixed up or kept."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from silly.errors import ConnectionClosed, EndOfStream
from silly.net import tcp
from silly.net.tcp import Conn

ANY = "127.0.0.1:0"
DATA = (bytes(i * 7 % 251 for i in range(251)) * 4000)[:1_000_003] * 2


@contextlib.asynccontextmanager
async def connected(**limits: Any) -> AsyncIterator[tuple[Conn, Conn]]:
    """Two ends of a connection: the client's and the server's."""
    accepted: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    async def handler(conn: Conn) -> None:
        accepted.set_result(conn)
        await conn.wait_closed()

    async with tcp.listen(ANY, handler, **limits) as listener, asyncio.timeout(30):
        async with await tcp.connect(listener.local_addr) as client:
            server = await accepted
            yield client, server
            server.abort()


def held_bytes(conn: Any) -> int:
    return conn._held_bytes  # type: ignore[no-any-return]


async def arrived(conn: Conn, count: int) -> None:
    while conn.unread_bytes < count:
        await asyncio.sleep(0)


async def cancel(task: asyncio.Task[bytes]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize("following", [10, 300_000, 300_001, 700_000, 1_000_000, None, DATA[40:50]])
async def test_a_cancelled_long_read_leaves_what_has_arrived(following: Any) -> None:
    async with connected() as (client, server):
        read = asyncio.create_task(server.read(1_000_000))
        await client.write(DATA[:300_000])
        await arrived(server, 300_000)
        await cancel(read)
        assert server.unread_bytes == 300_000
        again = asyncio.create_task(server.read(following))
        await asyncio.sleep(0)
        client.write(DATA[300_000:])
        taken = await again
        if isinstance(following, int):
            assert len(taken) == following
        assert taken + await server.read(len(DATA) - len(taken)) == DATA
        assert server.unread_bytes == 0


async def test_a_long_read_that_times_out_leaves_what_has_arrived() -> None:
    async with connected() as (client, server):
        client.write(DATA[:50_000])
        with pytest.raises(TimeoutError):
            await server.read(len(DATA), timeout=0.05)
        client.write(DATA[50_000:])
        assert await server.read(len(DATA)) == DATA


async def test_the_end_of_the_stream_in_a_long_read() -> None:
    async with connected() as (client, server):
        read = asyncio.create_task(server.read(len(DATA)))
        client.write(DATA[:500_000])
        client.close_write()
        with pytest.raises(EndOfStream) as caught:
            await read
        assert caught.value.partial == DATA[:500_000]
        assert await server.read(500_000) == DATA[:500_000]


async def test_the_connection_ends_in_a_long_read() -> None:
    async with connected() as (client, server):
        read = asyncio.create_task(server.read(len(DATA)))
        client.write(DATA[:500_000])
        await arrived(server, 500_000)
        client.abort()
        with pytest.raises(OSError, match="reset"):
            await read
        assert await server.read(500_000) == DATA[:500_000]
        server.close()
        assert held_bytes(server) == 0


async def test_memory_for_a_long_read_grows_with_what_has_arrived() -> None:
    async with connected() as (client, server):
        read = asyncio.create_task(server.read(1 << 40))
        await client.write(DATA[:100_000])
        await arrived(server, 100_000)
        assert 100_000 <= held_bytes(server) < 2_000_000
        await cancel(read)
        assert await server.read(100_000) == DATA[:100_000]
        assert held_bytes(server) == 0


sizes = st.sampled_from([1, 1000, 20_000, 32_768, 32_769, 65_536, 131_072, 150_000, 600_000])
steps = st.lists(st.tuples(st.booleans(), st.none() | sizes), max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(sizes, max_size=6), steps)
@example([600_000], [(False, 600_000), (False, 32_769)])  # the end comes to an empty buffer
def test_reads_and_cancelled_reads_of_any_length(pieces: list[int], reads: list[Any]) -> None:
    """What is read, one after the other, is what was sent; cancelled reads take nothing."""

    async def main() -> None:
        data = DATA[: sum(pieces)]
        taken = b""
        async with connected() as (client, server):

            async def send() -> None:
                at = 0
                for size in pieces:
                    await client.write(data[at : at + size])
                    at += size
                    await asyncio.sleep(0)
                client.close_write()

            sender = asyncio.create_task(send())
            for is_cancelled, count in reads:
                read = asyncio.create_task(server.read(count))
                for _ in range(4):
                    await asyncio.sleep(0)
                if is_cancelled:
                    read.cancel()
                try:
                    taken += await read
                except asyncio.CancelledError:
                    pass
                except EndOfStream:
                    assert taken + await server.read(server.unread_bytes) == data
                    break
            else:
                while len(taken) < len(data):
                    taken += await server.read()
                assert taken == data
            await sender
            assert held_bytes(server) == 0

    asyncio.run(main())


BUFFERS = {
    "bytes": DATA,
    "bytearray": bytearray(DATA),
    "view": memoryview(DATA),
    "part of a view": memoryview(DATA)[1000:-1000],
    "view of a bytearray": memoryview(bytearray(DATA)),
    "view of numbers": memoryview(DATA[:1_000_000]).cast("I"),
    "every other byte": memoryview(DATA)[::2],
}


@pytest.mark.parametrize("kind", BUFFERS)
async def test_a_long_write_to_a_slow_peer(kind: str) -> None:
    """The bytes are those of the moment of the write, in the order of the writes."""
    data: Any = BUFFERS[kind]
    sent = bytes(data)
    if kind == "bytearray":
        data = bytearray(sent)
    async with connected(max_unsent=1 << 24) as (client, server):
        server.write(b"before")
        server.write(data)
        if isinstance(data, bytearray):
            data[:] = bytes(10)  # also: it is not locked
        server.write(b"between")
        server.write(sent)
        room = server.write(b"after")
        assert await client.read(6) == b"before"
        assert await client.read(len(sent)) == sent
        assert await client.read(7) == b"between"
        assert await client.read(len(sent)) == sent
        assert await client.read(5) == b"after"
        await room
        assert server.unsent_bytes == 0


@pytest.mark.parametrize("ends", ["is sent", "is aborted", "is reset"])
async def test_a_long_write_is_released_when_it(ends: str) -> None:
    data = bytes(3_000_000)
    before = sys.getrefcount(data)
    async with connected() as (client, server):
        room = server.write(data)
        if server.unsent_bytes == 0:
            pytest.skip("the kernel took everything")
        if ends == "is sent":
            assert await client.read(len(data)) == data
            await room
        elif ends == "is aborted":
            server.abort()
            await server.wait_closed()
        else:
            client.abort()
            with pytest.raises(OSError, match="reset"):
                await room
        assert sys.getrefcount(data) == before
        assert held_bytes(server) == 0


async def test_a_long_write_is_refused_when_the_connection_is_closed() -> None:
    async with connected() as (_client, server):
        server.close_write()
        for data in (DATA, bytearray(DATA), memoryview(DATA)):
            with pytest.raises(ConnectionClosed):
                server.write(data)
