"""Applications and their clients, for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self

from silly.net import asgi, tcp
from silly.net.asgi.types import Receive, Scope, Send

ANY = "127.0.0.1:0"
GET = b"GET /a%20b?x=1 HTTP/1.1\r\nHost: x\r\n\r\n"

Part = Callable[[Scope, Receive, Send], Awaitable[object]]


def application(part: Part) -> Any:
    """*part*, for requests; without a lifespan."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await part(scope, receive, send)

    return app


async def respond(send: Send, *bodies: bytes, status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for number, body in enumerate(bodies, 1):
        more = number < len(bodies)
        await send({"type": "http.response.body", "body": body, "more_body": more})


class Server:
    """A listener with an application, and a client of it."""

    def __init__(self, part: Part, **options: Any) -> None:
        self.part = part
        self.options = options

    async def __aenter__(self) -> Self:
        app = application(self.part)
        self.listener = await asgi.listen(ANY, app, lifespan="off", **self.options)
        self.conn = await tcp.connect(self.listener.local_addr)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.conn.abort()
        await self.listener.close()

    async def ask(self, request: bytes = GET) -> tuple[bytes, bytes]:
        """Send *request*; return the head and the body of the response."""
        await self.conn.write(request)
        return await self.reply()

    async def reply(self) -> tuple[bytes, bytes]:
        head = await self.conn.read(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        if b"content-length" in fields:
            return head, await self.conn.read(int(fields[b"content-length"]))
        body = b""
        while size := int(await self.conn.read(b"\r\n"), 16):
            body += await self.conn.read(size)
            assert await self.conn.read(2) == b"\r\n"
        assert await self.conn.read(2) == b"\r\n"
        return head, body
