"""A client that shows what came: heads, framing and all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from silly.errors import EndOfStream
from silly.net import tcp
from silly.net.conn import Conn

ANY = "127.0.0.1:0"
TIME = 30.0  # seconds, for what must happen


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)

    @property
    def ends(self) -> bool:
        """Whether it says that the connection ends."""
        return self.headers.get("connection", "").lower() == "close"


async def reply(conn: Conn, method: str = "GET") -> Reply:
    """Return the next response that *conn* receives, to a request of *method*."""
    async with asyncio.timeout(TIME):
        head = (await conn.read(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        parts = (each.partition(": ") for each in fields)
        pairs = [(name.lower(), value) for name, _, value in parts]
        got = Reply(int(status), dict(pairs))
        assert len(got.headers) == len(pairs) or "set-cookie" in got.headers
        if method == "HEAD" or got.status < 200 or got.status in (204, 304):
            return got
        if got.headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in got.headers
            while size := int(await conn.read(b"\r\n"), 16):
                got.body += await conn.read(size)
                assert await conn.read(2) == b"\r\n"
            assert await conn.read(b"\r\n") == b"\r\n"
        elif "content-length" in got.headers:
            if size := int(got.headers["content-length"]):
                got.body = await conn.read(size)
        else:
            assert got.ends
            got.body = await rest(conn)
    return got


async def rest(conn: Conn) -> bytes:
    """Return all that comes until the other end finishes."""
    received = b""
    async with asyncio.timeout(TIME):
        while True:
            try:
                received += await conn.read()
            except EndOfStream:
                return received


async def exchange(addr: str, data: bytes) -> bytes:
    """Send *data*, finish, and return all that comes back."""
    async with tcp.connect(addr) as conn:
        await conn.write(data)
        conn.close_write()
        return await rest(conn)


async def ask(addr: str, data: bytes, method: str = "GET") -> tuple[Reply, bytes | None]:
    """Send *data*; return the response, and what follows it if the other end then finishes."""
    async with tcp.connect(addr) as conn:
        await conn.write(data)
        got = await reply(conn, method)
        return got, await rest(conn) if got.ends else None
