"""Messages that an application may not send, or not then: each is an error that says so."""

from __future__ import annotations

import asyncio

import pytest

from silly.net import http, websocket
from silly.net.asgi.exchange import UNSENT
from silly.net.asgi.types import Message, Receive, Scope, Send
from tests.net.asgi.applications import GET, Server
from tests.net.asgi.test_websocket import listening, url_of


def start(*headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


BODY: Message = {"type": "http.response.body", "body": b"x"}
PART: Message = {**BODY, "more_body": True}
LENGTHS = (b"content-length", b"1"), (b"content-length", b"2")


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"type": "http.response.end"}], "'http.response.end' is not understood"),
        ([{"status": 200, "headers": []}], "'type'"),
        ([start(*LENGTHS)], "several values of content-length"),
        *(
            ([start((b"content-length", value))], f"content-length is {value!r}, not a number")
            for value in (b"x", b"", b"-1", b"+1", b"1_0", b" 1", b"1x")
        ),
        ([start(), start()], "a second http.response.start"),
        ([PART], "http.response.body before http.response.start"),
        ([BODY], "http.response.body before http.response.start"),
        ([start(), BODY, BODY], "http.response.body after the last one"),
        (
            [start(), {"type": "http.response.trailers"}],
            "http.response.trailers without trailers in the start",
        ),
        (
            [start(), PART, {"type": "http.response.pathsend", "path": __file__}],
            "http.response.pathsend after http.response.body",
        ),
    ],
)
async def test_responses(messages: list[Message], text: str) -> None:
    raised: asyncio.Queue[Exception | None] = asyncio.Queue()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages[:-1]:
            await send(message)
        try:
            await send(messages[-1])
        except (RuntimeError, ValueError, KeyError) as error:
            raised.put_nowait(error)
        else:
            raised.put_nowait(None)

    async with Server(part) as server:
        await server.conn.write(GET)
        assert text in str(await asyncio.wait_for(raised.get(), 10))


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (["close", "accept"], "websocket.accept after the connection was refused"),
        (["http.response.start"] * 2, "a second websocket.http.response.start"),
        (["http.response.start", "http.response.body"], "a refusal of more than"),
        (["accept", "accept"], "'websocket.accept' after websocket.accept"),
    ],
)
async def test_websockets(messages: list[str], text: str) -> None:
    raised: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            for kind in messages:
                body = bytes(UNSENT + 1)
                await send(
                    {"type": f"websocket.{kind}", "status": 403, "headers": [], "body": body}
                )
        except RuntimeError as error:
            raised.append(str(error))
            if messages[0] == "accept":
                await send({"type": "websocket.close"})

    listener = await listening(app)
    try:
        async with await websocket.connect(url_of(listener)) as client:
            assert [message async for message in client] == []
    except websocket.HandshakeFailed:
        pass
    await listener.close()
    assert raised
    assert text in raised[0]
    assert http.service_of(listener).crashes <= 1


async def test_a_websocket_that_was_refused_is_disconnected() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(await receive())
        await send({"type": "websocket.close"})
        seen.append(await receive())

    listener = await listening(app)
    with pytest.raises(websocket.HandshakeFailed):
        await websocket.connect(url_of(listener))
    await listener.close()
    assert seen == [
        {"type": "websocket.connect"},
        {"type": "websocket.disconnect", "code": 1006, "reason": ""},
    ]


async def test_a_client_that_leaves_before_its_websocket_is_accepted() -> None:
    left: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "websocket.connect"}
        begun.set()
        left.set_result(await receive())

    listener = await listening(app)
    connecting = asyncio.ensure_future(websocket.connect(url_of(listener)))
    await begun.wait()
    connecting.cancel()
    assert await left == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    await listener.close()


async def test_an_application_that_returns_without_a_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with Server(nothing) as server:
        await server.conn.write(GET)
        assert await server.conn.read(b"\r\n") == b"HTTP/1.1 500 Internal Server Error\r\n"
    assert "returned before its response was complete" in caplog.text
    assert "StopIteration" not in caplog.text
