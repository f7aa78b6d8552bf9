"""Applications around an application."""

from __future__ import annotations

import asyncio

import pytest

from silly.net.asgi.middleware import Retiring
from silly.net.asgi.types import Message, Receive, Scope, Send

pytestmark = pytest.mark.no_engine


def test_it_retires_once_and_serves_on() -> None:
    served: list[str] = []
    retired: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["type"])

    async def receive() -> Message:
        raise AssertionError

    async def send(_: Message) -> None:
        raise AssertionError

    async def main() -> None:
        retiring = Retiring(app, 3, lambda: retired.append(len(served)))
        for kind in ("lifespan", "http", "websocket", "http", "http"):
            await retiring({"type": kind}, receive, send)

    asyncio.run(main())
    assert served == ["lifespan", "http", "websocket", "http", "http"]
    assert retired == [3]  # with the third request, before it is served
