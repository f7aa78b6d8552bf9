"""One message to many: WebSockets, and connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from silly.net import tcp, websocket
from silly.net.conn import Conn
from silly.net.websocket import kinds, session
from silly.testing import memory_pair
from tests.net.http.wire import TIME
from tests.net.tls.test_conn import tls_pair
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


async def test_what_this_turn_has_written_counts_as_unsent() -> None:
    pairs = [await tcp_pair() for _ in range(2)]
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    ours[0].write(b"abc")
    assert tcp.broadcast(ours, b"def", limit=0) == 1
    assert tcp.broadcast(ours, b"ghi", limit=3) == 2
    assert tcp.broadcast(ours, b"jkl", slow="close", limit=5) == 0
    assert not any(conn.is_alive for conn in ours)
    assert [await conn.read(6) for conn in theirs] == [b"abcghi", b"defghi"]
    for conn in theirs:
        conn.close()

    async with Server() as server:
        client, ws = await server.pair(compression=False)
        ws.send("first")
        assert websocket.broadcast([ws], "second", limit=0) == 0
        assert websocket.broadcast([ws], "third", limit=100) == 1
        assert [await client.recv(TIME), await client.recv(TIME)] == ["first", "third"]
        client.abort()


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


async def test_each_gets_it_between_what_is_written_before_and_after() -> None:
    idle, batched, full, finished, reset = [await tcp_pair() for _ in range(5)]
    encrypted, memory = await tls_pair(), memory_pair()
    before = {batched: b"before", full: bytes(3_000_000), encrypted: b"before"}
    getting = [idle, batched, full, encrypted, memory]
    for (ours, _), data in before.items():
        ours.write(data)
    finished[0].close_write()
    reset[1].abort()  # which this end has not been told yet
    receivers = [ours for ours, _ in (*getting, finished, reset)]
    assert tcp.broadcast(receivers, b"hello", limit=1 << 30) in {len(getting), len(getting) + 1}
    for pair in getting:
        ours, theirs = pair
        ours.write(b"after")
        data = before.get(pair, b"") + b"helloafter"
        assert await theirs.read(len(data), timeout=TIME) == data
    for ours, theirs in (*getting, finished, reset):
        ours.abort()
        theirs.abort()
        await ours.wait_closed()


async def test_what_is_not_taken_at_once_is_sent_in_order() -> None:
    pairs = [await tcp_pair() for _ in range(2)]
    pieces = [bytes([number]) * 2_000_000 for number in range(3)]
    for piece in pieces:
        assert tcp.broadcast([ours for ours, _ in pairs], piece, limit=1 << 30) == 2
    whole = b"".join(pieces)
    for ours, theirs in pairs:
        assert await theirs.read(len(whole), timeout=TIME) == whole
        assert ours.stats.bytes_out == len(whole)
        ours.abort()
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
