"""With the `websockets` library at the other end, either way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from silly.net import websocket
from tests.net.http.wire import ANY, TIME

CHAT = [Subprotocol("chat")]
MESSAGES: list[str | bytes] = ["", b"", "é€😀", bytes(range(256)), "x" * 70_000, b"y" * 300_000]


async def test_its_client_with_our_server() -> None:
    seen = asyncio.Queue[Any]()

    async def handler(ws: websocket.WebSocket) -> None:
        try:
            async for message in ws:
                await ws.send(message)
        except websocket.WebSocketClosed as error:
            seen.put_nowait((error.code, error.reason))
            raise
        seen.put_nowait((ws.close_code, ws.close_reason))

    async with websocket.listen(ANY, handler, subprotocols=["chat"]) as listener:
        url = f"ws://{listener.local_addr}/"
        for compression in ("deflate", None):
            async with websockets.asyncio.client.connect(
                url, compression=compression, subprotocols=CHAT, max_size=None
            ) as theirs:
                assert theirs.subprotocol == "chat"
                for message in MESSAGES:
                    await theirs.send(message)
                    assert await theirs.recv() == message
                await theirs.send(["in ", "three ", "pieces"])
                assert await theirs.recv() == "in three pieces"
                await asyncio.wait_for(await theirs.ping(), TIME)
                await theirs.close(4001, "bye")
            assert await seen.get() == (4001, "bye")
        theirs = await websockets.asyncio.client.connect(url)
        await listener.close()
        with pytest.raises(ConnectionClosed) as caught:
            await theirs.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
        assert await seen.get() == (1001, "")


async def test_our_client_with_its_server() -> None:
    async def handler(ws: Any) -> None:
        async for message in ws:
            if message == "close":
                await ws.close(4002, "told to")
            await ws.send(message)

    for compression in ("deflate", None):
        async with websockets.asyncio.server.serve(
            handler, "127.0.0.1", 0, compression=compression, subprotocols=CHAT, max_size=None
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            url = f"ws://127.0.0.1:{port}/"
            async with websocket.connect(url, subprotocols=["x", "chat"]) as ws:
                assert ws.subprotocol == "chat"
                for message in MESSAGES:
                    await ws.send(message)
                    assert await ws.recv(TIME) == message
                assert (await ws.ping(timeout=TIME)) > 0
            assert ws.close_code == 1000
            ws = await websocket.connect(url, subprotocols=["chat"])
            await ws.send("close")
            with pytest.raises(websocket.WebSocketClosed) as caught:
                await ws.recv(TIME)
            assert (caught.value.code, caught.value.reason) == (4002, "told to")
            await ws.wait_closed()


async def test_its_client_is_refused() -> None:
    async def handler(ws: websocket.WebSocket) -> None: ...

    async with websocket.listen(ANY, handler, "/chat", origins=["http://a"]) as listener:
        for target, status in (("/", 404), ("/chat", 403)):
            with pytest.raises(InvalidStatus) as caught:
                await websockets.asyncio.client.connect(f"ws://{listener.local_addr}{target}")
            assert caught.value.response.status_code == status
