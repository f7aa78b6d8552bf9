"""Applications around an application, for options of ``silly serve``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from silly.net.asgi.extensions import checked_fields
from silly.net.asgi.types import Application, Message, Receive, Scope, Send

__all__ = ["AtMost", "Retiring", "WithHeaders"]


class WithHeaders:
    """Adds header *fields* to each response of *app*."""

    def __init__(self, app: Application, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self._app = app
        self._fields = checked_fields(fields)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*self._fields, *message.get("headers", ())]}
            await send(message)

        await self._app(scope, receive, send_with_fields)


class AtMost:
    """Runs *app* for up to *most* requests at a time, and answers others with 503.

    A request counts until the application has returned, which includes its background tasks.
    """

    def __init__(self, app: Application, most: int) -> None:
        self._app = app
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if self._running >= self._most:
            await _refuse(scope, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1


class Retiring:
    """Calls *retire* once, when *app* has been asked for as many requests as *most*."""

    def __init__(self, app: Application, most: int, retire: Callable[[], object]) -> None:
        self._app = app
        self._left = most
        self._retire = retire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "lifespan":
            self._left -= 1
            if self._left == 0:
                self._retire()
        await self._app(scope, receive, send)


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1013})  # try again later
        return
    fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 503, "headers": fields})
    await send({"type": "http.response.body", "body": b"Service Unavailable\n"})
