"""A client for tests: says what it is told to, and parses what comes back with the stdlib."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable
from http.client import HTTPResponse
from typing import Any, cast

from silly.net import http, tcp
from silly.net.listener import Listener


class Reply:
    """One response."""

    def __init__(self, data: bytes, method: str = "GET") -> None:
        self._response = HTTPResponse(cast(Any, _Socket(data)), method=method)
        self._response.begin()
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}
        self.body = self._response.read()


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._data)


async def ask(
    listener: Listener,
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
) -> Reply:
    """Send one request and return the response to it."""
    lines = [f"{method} {target} HTTP/1.1", "host: localhost", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"content-length: {len(body)}")
    async with tcp.connect(listener.local_addr) as conn, asyncio.timeout(60):
        conn.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1") + body)
        received = [piece async for piece in _pieces(conn)]
    return Reply(b"".join(received), method)


async def _pieces(conn: tcp.Conn) -> Any:
    while True:
        try:
            yield await conn.read()
        except EOFError:
            return


def listen(handler: http.Handler, **options: Any) -> Listener:
    """Serve on a free port."""
    return http.listen("127.0.0.1:0", handler, **options)
