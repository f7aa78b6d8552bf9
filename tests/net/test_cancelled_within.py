"""A handler that ends because what it awaits is cancelled, though nobody cancelled the handler.

That is a defect: it is answered, logged and counted as any other.
"""

from __future__ import annotations

import asyncio

import pytest

from silly.net import asgi, http, tcp, websocket
from silly.net.asgi.types import Receive, Scope, Send
from silly.net.tcp import Conn
from tests.net.http.wire import ANY, TIME, exchange

pytestmark = pytest.mark.heavy

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
TEXT = "what the handler awaited was cancelled, not the handler"


async def cancelled() -> None:
    task = asyncio.ensure_future(asyncio.sleep(TIME))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] != "/last":
        await cancelled()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"last"})


async def page(request: http.Request) -> str:
    if request.path != "/last":
        await cancelled()
    return "last"


async def test_over_tcp(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(conn: Conn) -> None:
        await cancelled()

    async with tcp.listen(ANY, handler) as listener:
        assert await exchange(listener.local_addr, b"") == b""
        assert listener.stats.handler_errors == 1
    assert TEXT in caplog.text


@pytest.mark.parametrize("is_watched", [False, True])
@pytest.mark.parametrize("kind", ["http", "asgi"])
async def test_over_http(kind: str, caplog: pytest.LogCaptureFixture, *, is_watched: bool) -> None:
    if kind == "http":
        listener = http.listen(ANY, page, access_log=is_watched)
    else:
        listener = await asgi.listen(ANY, app, lifespan="off", access_log=is_watched)
    async with listener:
        got = await exchange(listener.local_addr, GET + LAST)
        assert got.startswith(b"HTTP/1.1 500 ")
        assert got.endswith(b"\r\n\r\nlast")
        assert http.service_of(listener).crashes == listener.stats.handler_errors == 1
    assert TEXT in caplog.text


async def test_over_a_websocket(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ws: websocket.WebSocket) -> None:
        await cancelled()

    async with websocket.listen(ANY, handler) as listener:
        async with websocket.connect(f"ws://{listener.local_addr}/") as ws:
            with pytest.raises(websocket.WebSocketClosed, match="1011"):
                await ws.recv(timeout=TIME)
    assert TEXT in caplog.text


async def test_a_handler_that_is_cancelled_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    running = asyncio.Event()

    async def handler(conn: Conn) -> None:
        running.set()
        await asyncio.sleep(TIME)

    async with tcp.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr):
            await running.wait()
            await listener.close(grace=0)
        assert listener.stats.handler_errors == 0
    assert TEXT not in caplog.text
