"""What a WebSocket holds counts towards `Limits.memory_budget`, also what is not a message yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from silly.net import websocket
from silly.net.limits import Limits
from silly.net.websocket.codes import BINARY, RSV1, TEXT
from silly.net.websocket.deflate import Deflate, Inflater
from tests.net.http.wire import ANY, TIME
from tests.net.websocket.frames import KEY, from_client
from tests.net.websocket.test_connections import Server, bare

MIB = 1 << 20


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIME):
        while not condition():
            await asyncio.sleep(0.001)


async def test_an_incomplete_message_is_held_until_it_is_complete() -> None:
    async with Server() as server:
        stats = server.listener.stats
        conn = await bare(server.listener)
        ws = await server.accepted()
        whole = from_client(BINARY, bytes(100_000))
        for reads in (True, False):
            received = asyncio.create_task(ws.recv(TIME)) if reads else None
            conn.write(whole[:60_000])
            await until(lambda: server.listener.stats.held_bytes > 59_000)
            await conn.write(whole[60_000:])
            assert await (received or ws.recv(TIME)) == bytes(100_000)
            await until(lambda: server.listener.stats.held_bytes == 0)
        assert stats.held_bytes == 0
        conn.write(whole[:60_000])
        await until(lambda: server.listener.stats.held_bytes > 59_000)
        conn.abort()
        await until(lambda: server.listener.stats.held_bytes == 0)


async def test_messages_are_held_until_the_handler_takes_them() -> None:
    text = "x" * 500_000  # more than it is on the wire
    async with Server() as server:
        client, ws = await server.pair()
        await client.send(text)
        await until(lambda: server.listener.stats.held_bytes > 500_000)
        assert await ws.recv(TIME) == text
        assert server.listener.stats.held_bytes == 0
        for _ in range(1500):  # each takes memory, however short it is
            client.send(b"")
        await until(lambda: server.listener.stats.held_bytes > 60_000)
        for _ in range(1500):
            assert await ws.recv(TIME) == b""
        await until(lambda: server.listener.stats.held_bytes == 0)
        await client.close()


async def test_beyond_the_budget_those_that_hold_most_are_reset() -> None:
    async with Server(limits=Limits(memory_budget=MIB)) as server:
        listener = server.listener
        client, ws = await server.pair()
        ends, conns = [], []
        for first in (from_client(BINARY, bytes(900_000))[:-1], from_client(TEXT, b"x" * 900_000)):
            conns.append(conn := await bare(listener))
            ends.append(await server.accepted())
            conn.write(first)
            await until(lambda: listener.stats.held_bytes > 800_000 or bool(listener.stats.ended))
        await until(lambda: bool(listener.stats.ended))
        await until(lambda: listener.stats.held_bytes <= MIB)
        assert set(listener.stats.ended) == {"memory_budget"}
        lost = [end for end in ends if end.close_code is not None]
        assert lost
        for end in lost:
            with pytest.raises(websocket.WebSocketClosed, match="1006"):
                await end.recv(TIME)
        await client.send("hello")
        assert await ws.recv(TIME) == "hello"
        await client.close()
        for conn in conns:
            conn.abort()


def test_the_state_of_zlib_is_held_while_a_message_is_incomplete() -> None:
    inflater = Inflater(keeps_window=False)
    assert inflater.held == 0
    inflater.feed(Deflate().compress(b"x" * 1000), 10_000)
    assert inflater.held > 32_768
    inflater.finish(10_000)
    assert inflater.held == 0


async def test_a_message_that_is_incomplete_is_forgotten_with_its_connection() -> None:
    compressed = Deflate().compress(b"x" * 1000)
    async with websocket.listen(ANY, handle) as listener:
        client = await websocket.connect(f"ws://{listener.local_addr}")
        session = client._session
        client._conn.write(bytes((RSV1 | TEXT, 0x80 | len(compressed))) + KEY + compressed[:5])
        await until(lambda: listener.stats.held_bytes > 32_768)
        client.abort()
        await client.wait_closed()
        assert (session.parser.held, session.parser.receive(b"\x81\x00")) == (0, [])
        await until(lambda: listener.stats.held_bytes == 0)


async def handle(ws: websocket.WebSocket) -> None:
    async for _ in ws:
        pass
