"""What a request took is freed with it, without the garbage collector, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from silly.net import asgi, http
from tests.garbage import collecting

ANY = "127.0.0.1:0"
GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + b"x" * 20


async def pieces(fails: bool = False) -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"piece"
    if fails:
        raise ValueError("a program's error")


async def handler(request: http.Request) -> Any:
    match request.path:
        case "/crash":
            raise ValueError("a program's error")
        case "/refuse":
            raise http.HTTPError(403, "no")
        case "/stream":
            return http.Response(pieces())
        case "/breaks":
            return http.Response(pieces(fails=True))
        case "/file":
            return http.file(__file__)
        case "/body":
            return await request.body()
        case "/wrong":
            return object()
        case "/cancelled":
            raise asyncio.CancelledError
    return "hello"


async def application(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    start = {"type": "http.response.start", "status": 200, "headers": []}
    if path == "/crash":
        raise ValueError("an application's error")
    if path == "/cancelled":
        raise asyncio.CancelledError
    if path == "/body":
        while (await receive())["more_body"]:
            pass
    if path == "/silent":
        return
    await send(start)
    if path == "/short":
        return
    if path in {"/stream", "/breaks"}:
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})
        if path == "/breaks":
            raise ValueError("an application's error")
    await send({"type": "http.response.body", "body": b"hello"})
    if path == "/background":
        for _ in range(3):
            await asyncio.sleep(0)
    if path == "/late":
        await send({"type": "http.response.body", "body": b"too late"})
    if path == "/watching":
        await receive()
        await receive()


PATHS = {
    handler: "/ /crash /refuse /stream /breaks /file /body /wrong /cancelled",
    application: "/ /crash /cancelled /body /silent /short /stream /breaks /background /late "
    "/watching",
}


@pytest.mark.parametrize("then", ["ends", "leaves"])
@pytest.mark.parametrize(
    ("serve", "path"),
    [(serve, path) for serve, paths in PATHS.items() for path in paths.split()],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_nothing_is_left(
    serve: Any, path: str, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.disable()  # a record keeps its exception
    try:
        if serve is handler:
            listener = http.listen(ANY, serve)
        else:
            listener = await asgi.listen(ANY, serve, lifespan="off")
        async with listener:
            await visit(listener, path, then)  # what is kept for all requests is made
            with collecting() as left:
                for _ in range(3):
                    await visit(listener, path, then)
                assert not left()
    finally:
        logging.disable(logging.NOTSET)
        caplog.clear()


async def visit(listener: Any, path: str, then: str) -> None:
    """Ask for *path*; read the whole reply, or leave at once."""
    request = (POST if path == "/body" else GET) % path.encode()
    reader, writer = await asyncio.open_connection(*listener.local_addr.rsplit(":", 1))
    writer.write(request)
    if then == "ends":
        writer.write(request)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):  # what breaks off is no whole response
            await reader.read()
        writer.close()
    else:
        writer.transport.abort()
    while listener.connections:
        await asyncio.sleep(0)
