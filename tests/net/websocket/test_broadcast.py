"""One message to many: WebSockets, and connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from silly.net import tcp, websocket
from silly.net.conn import Conn
from silly.net.websocket import kinds, session
from tests.net.http.wire import TIME
from tests.net.websocket.test_connections import Server, all_of
from tests.pairs import tcp_pair


async def test_to_all_and_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def frame(first: int, payload: Any, key: bytes | None = None) -> bytes:
        made.append(first)
        return original(first, payload, key)

    async with Server() as server:
        pairs = [await server.pair(compression=number % 2 == 0) for number in range(6)]
        original = kinds.frame
        monkeypatch.setattr(session, "frame", frame)
        message = "to all of you " * 20
        assert websocket.broadcast([ws for _, ws in pairs], message) == 6
        assert made == [0x81, 0xC1]  # plain, and compressed
        monkeypatch.setattr(session, "frame", original)
        for client, _ in pairs:
            assert await client.recv(TIME) == message
        assert websocket.broadcast((client for client, _ in pairs), b"up") == 6
        for _, ws in pairs:
            assert await ws.recv(TIME) == b"up"
        await pairs[0][0].close()
        pairs[1][1].abort()
        assert websocket.broadcast([ws for _, ws in pairs], "a") == 4
        for client, _ in pairs:
            client.abort()


async def test_slow_receivers_are_skipped_or_closed() -> None:
    async with Server() as server:
        slow, slow_end = await server.pair(compression=False)
        quick, quick_end = await server.pair(compression=False)
        slow._conn._consumer = None  # it reads nothing
        receiving = asyncio.create_task(all_of(quick))
        ends, count = [slow_end, quick_end], 0
        async with asyncio.timeout(TIME):
            while websocket.broadcast(ends, bytes(100_000), limit=100_000) == 2:
                count += 1
                await quick_end.ping()
        assert slow_end.is_open
        assert websocket.broadcast(ends, "now", slow="close", limit=100_000) == 1
        assert not slow_end.is_open
        assert slow_end.close_code is None
        await quick_end.close()
        assert await receiving == [bytes(100_000)] * (count + 1) + ["now"]
        slow.abort()


async def test_wrong_arguments() -> None:
    wrong: Any = 1
    with pytest.raises(TypeError, match="a message is"):
        websocket.broadcast([], wrong)
    with pytest.raises(ValueError, match="'skip' or 'close'"):
        websocket.broadcast([], "", slow=wrong)
    with pytest.raises(ValueError, match="'skip' or 'close'"):
        tcp.broadcast([], b"", slow=wrong)
    with pytest.raises(TypeError, match="bytes-like"):
        tcp.broadcast([], wrong)


async def test_connections() -> None:
    pairs = [await tcp_pair() for _ in range(3)]
    ours: list[Conn] = [conn for conn, _ in pairs]
    assert tcp.broadcast(ours, bytearray(b"hello")) == 3
    for _, theirs in pairs:
        assert await theirs.read(5, timeout=TIME) == b"hello"
    ours[0].close()
    assert tcp.broadcast(ours, b"again") == 2
    ours[1].write(bytes(8_000_000))
    assert tcp.broadcast(ours, b"x") == 1
    assert ours[1].is_alive
    assert tcp.broadcast(ours, b"x", slow="close") == 1
    assert not ours[1].is_alive
    for conn, theirs in pairs:
        conn.abort()
        theirs.abort()


@pytest.mark.heavy
async def test_more_than_is_batched_for_all_connections() -> None:
    pairs = [await tcp_pair() for _ in range(100)]
    ours = [conn for conn, _ in pairs]
    messages = [bytes([number]) * 1100 for number in range(4)]
    for message in messages:
        assert tcp.broadcast(ours, message) == len(ours)
    for conn, theirs in pairs:
        assert await theirs.read(4400, timeout=TIME) == b"".join(messages)
        conn.abort()
        theirs.abort()
