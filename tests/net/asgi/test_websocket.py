"""WebSockets of ASGI applications: raw ones, and those of Starlette and FastAPI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from silly.net import asgi, http, websocket
from silly.net.asgi.types import Message, Receive, Scope, Send
from silly.net.listener import Listener
from tests.net.asgi.test_frameworks import run
from tests.net.http.wire import ANY, TIME

App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def listening(app: App) -> Listener:
    return await asgi.listen(ANY, app, lifespan="off", trusted_proxies=())


def url_of(listener: Listener, target: str = "/") -> str:
    return f"ws://{listener.local_addr}{target}"


async def test_messages_scope_and_close_codes() -> None:
    scopes, ends = [], []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-a", b"1")]})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4000, "reason": "asked to"})
            else:
                await send({**message, "type": "websocket.send"})
        ends.append(message)

    listener = await listening(app)
    url = url_of(listener, "/a%20b?x=1")
    async with websocket.connect(url, subprotocols=["a", "b"]) as ws:
        assert ws.subprotocol == "b"
        for data in ("text", b"binary", "", b""):
            await ws.send(data)
            assert await ws.recv(TIME) == data
        await ws.close(3001, "bye")
    ws = await websocket.connect(url)
    await ws.send("close")
    with pytest.raises(websocket.WebSocketClosed, match="4000, asked to"):
        await ws.recv(TIME)
    await listener.close()
    scope = scopes[0]
    assert (scope["type"], scope["scheme"], scope["path"]) == ("websocket", "ws", "/a b")
    assert (scope["query_string"], scope["subprotocols"]) == (b"x=1", ["a", "b"])
    assert "method" not in scope
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert ends == [
        {"type": "websocket.disconnect", "code": 3001, "reason": "bye"},
        {"type": "websocket.disconnect", "code": 4000, "reason": "asked to"},
    ]
    assert http.service_of(listener).crashes == 0


@pytest.mark.parametrize(
    ("messages", "status", "body"),
    [
        ([{"type": "websocket.close"}], 403, b""),
        (
            [
                {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x", b"1")]},
                {"type": "websocket.http.response.body", "body": b"log ", "more_body": True},
                {"type": "websocket.http.response.body", "body": b"in"},
            ],
            401,
            b"log in",
        ),
        ([], 500, b"Internal Server Error\n"),
        ([{"type": "websocket.send", "text": "early"}], 500, b"Internal Server Error\n"),
    ],
)
async def test_refusals(messages: list[Message], status: int, body: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    listener = await listening(app)
    with pytest.raises(websocket.HandshakeFailed) as caught:
        await websocket.connect(url_of(listener))
    assert (caught.value.status, caught.value.body) == (status, body)
    assert caught.value.headers.get("x") == ("1" if status == 401 else None)
    await listener.close()


async def test_how_both_ends_see_the_end(caplog: pytest.LogCaptureFixture) -> None:
    seen: asyncio.Queue[Any] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/fails":
            raise ZeroDivisionError
        if scope["path"] == "/returns":
            return
        seen.put_nowait(await receive())
        with pytest.raises(OSError, match="closed"):
            await send({"type": "websocket.send", "text": "late"})
        seen.put_nowait(await receive())

    listener = await listening(app)
    for target, code in (("/fails", 1011), ("/returns", 1000)):
        ws = await websocket.connect(url_of(listener, target))
        with pytest.raises(websocket.WebSocketClosed) as caught:
            await ws.recv(TIME)
        assert caught.value.code == code
    ws = await websocket.connect(url_of(listener))
    ws.abort()
    lost = {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    assert [await seen.get(), await seen.get()] == [lost, lost]
    ws = await websocket.connect(url_of(listener))
    closing = listener.close()
    assert (await seen.get())["code"] == 1001
    await closing
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


@pytest.mark.no_engine
def test_starlette_and_fastapi(caplog: pytest.LogCaptureFixture) -> None:
    starlette = pytest.importorskip("starlette.applications")
    fastapi = pytest.importorskip("fastapi")
    routing = pytest.importorskip("starlette.routing")
    responses = pytest.importorskip("starlette.responses")

    async def echo(ws: Any) -> None:
        if ws.query_params.get("token") != "x":
            await ws.send_denial_response(responses.PlainTextResponse("who?", 401))
            return
        await ws.accept(subprotocol=ws.scope["subprotocols"][0])
        while True:  # ends by WebSocketDisconnect
            await ws.send_text((await ws.receive_text()).upper())

    app = fastapi.FastAPI()

    async def item(ws: Any, number: int) -> None:
        await ws.accept()
        await ws.send_json({"number": number})
        await ws.close(4001, "done")

    item.__annotations__ = {"ws": fastapi.WebSocket, "number": int}
    app.websocket("/items/{number}")(item)

    async def main() -> None:
        listener = await listening(
            starlette.Starlette(routes=[routing.WebSocketRoute("/echo", echo)])
        )
        with pytest.raises(websocket.HandshakeFailed) as caught:
            await websocket.connect(url_of(listener, "/echo"))
        assert (caught.value.status, caught.value.body) == (401, b"who?")
        with pytest.raises(websocket.HandshakeFailed, match="403"):
            await websocket.connect(url_of(listener, "/none"))
        url = url_of(listener, "/echo?token=x")
        async with websocket.connect(url, subprotocols=["v1"]) as ws:
            assert ws.subprotocol == "v1"
            await ws.send("hello")
            assert await ws.recv(TIME) == "HELLO"
        await listener.close()
        listener = await listening(app)
        ws = await websocket.connect(url_of(listener, "/items/7"))
        assert await ws.recv(TIME) == '{"number":7}'
        with pytest.raises(websocket.WebSocketClosed, match="4001, done"):
            await ws.recv(TIME)
        await listener.close()

    run(main)
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
