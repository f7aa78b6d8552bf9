"""Silent peers, on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from silly.net import websocket
from silly.net.conn import Conn, StreamConn
from silly.net.limits import Limits
from silly.net.websocket.codes import BINARY, CLOSE, PING, PONG, TEXT
from silly.net.websocket.handshake import Agreement
from silly.testing import VirtualClockLoop, memory_pair, run_virtual
from tests.net.websocket.frames import frame, from_client

pytestmark = pytest.mark.no_engine


def pair(**limits: Any) -> tuple[websocket.WebSocket, Conn]:
    """Return a server's end, and the connection of its client."""
    ours, theirs = memory_pair()
    conn = cast(StreamConn, ours)
    return websocket.WebSocket(
        conn, Agreement(None, None), Limits(**limits), is_client=False
    ), theirs


def test_a_silent_peer_is_pinged_and_given_up() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ws, peer = pair(ping_interval=20, ping_timeout=10)
        receiving = asyncio.create_task(ws.recv())
        assert await peer.read(2) == frame(PING)
        assert 17 <= loop.time() <= 23
        with pytest.raises(websocket.WebSocketClosed, match="1006"):
            await receiving
        assert 27 <= loop.time() <= 36
        assert ws._conn._ended_by == "ping_timeout"
        peer.close()

    run_virtual(main())


@pytest.mark.parametrize("answer", [from_client(PONG), from_client(TEXT, b"x"), b"\x81"])
def test_a_peer_that_sends_anything_is_alive(answer: bytes) -> None:
    async def main() -> None:
        ws, peer = pair(ping_interval=20, ping_timeout=10)
        receiving = asyncio.create_task(ws.recv())
        for _ in range(1 if answer == b"\x81" else 20):
            assert await peer.read(2) == frame(PING)
            await asyncio.sleep(5)
            peer.write(answer)
            await asyncio.sleep(12)
            assert ws.is_open
            if receiving.done():
                receiving = asyncio.create_task(ws.recv())
        receiving.cancel()
        ws.abort()
        peer.close()

    run_virtual(main())


def test_a_busy_peer_is_not_pinged() -> None:
    async def main() -> None:
        ws, peer = pair(ping_interval=20, ping_timeout=10)
        for _ in range(100):
            peer.write(from_client(TEXT, b"x"))
            assert await ws.recv() == "x"
            await asyncio.sleep(10)
        assert peer.unread_bytes == 0
        ws.abort()
        peer.close()

    run_virtual(main())


def test_a_stalled_loop_gives_no_peer_up() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        ws, peer = pair(ping_interval=20, ping_timeout=10)
        for _ in range(5):
            assert await peer.read(2) == frame(PING)
            peer.write(from_client(PONG))  # it arrives during the stall
            loop.jump(30)
        await asyncio.sleep(5)
        assert ws.is_open
        ws.abort()
        peer.close()

    run_virtual(main())


def test_pings_can_be_switched_off() -> None:
    async def main() -> None:
        ws, peer = pair(ping_interval=None)
        await asyncio.sleep(3000)
        assert ws.is_open
        assert peer.unread_bytes == 0
        ws.abort()
        ws, peer = pair(ping_timeout=None)
        await asyncio.sleep(3000)
        assert ws.is_open
        assert peer.unread_bytes > 200
        ws.abort()

    run_virtual(main())


def test_a_peer_that_is_to_close_is_not_pinged() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ws, peer = pair(ping_interval=20, ping_timeout=10, close_timeout=90)
        closing = asyncio.create_task(ws.close())
        assert await peer.read(4) == frame(CLOSE, b"\x03\xe8")
        await asyncio.sleep(80)
        assert not peer.unread_bytes
        await closing
        assert loop.time() == 90
        assert ws._conn._ended_by == "close_timeout"
        peer.close()

    run_virtual(main())


def test_a_message_that_is_never_complete() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ws, peer = pair(read_deadline=60, min_receive_rate=None)
        receiving = asyncio.create_task(ws.recv())
        data = from_client(BINARY, bytes(10_000))
        with pytest.raises(OSError, match=r"reset|closed|Broken"):
            for byte in data:
                await peer.write(bytes([byte]))
                await asyncio.sleep(1)
        assert 60 <= loop.time() <= 100
        with pytest.raises(websocket.WebSocketClosed, match="1006"):
            await receiving
        assert ws._conn._ended_by == "read_deadline"

    run_virtual(main())


def test_a_large_message_may_take_longer() -> None:
    async def main() -> None:
        ws, peer = pair(read_deadline=60, min_receive_rate=1000)
        receiving = asyncio.create_task(ws.recv())
        data = from_client(BINARY, bytes(200_000))
        for start in range(0, len(data), 2000):
            await peer.write(data[start : start + 2000])
            await asyncio.sleep(1.5)
        assert await receiving == bytes(200_000)
        ws.abort()

    run_virtual(main())
