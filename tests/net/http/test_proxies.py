"""Behind HAProxy and nginx: no request gets past what the proxy refuses (request smuggling).

Each attack is a request that two servers could understand differently, with another one in it,
for a path that the proxy refuses. If that reaches the handler, it was smuggled.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from silly.errors import EndOfStream
from silly.net import http, tcp
from silly.net.conn import Conn
from tests.net.http.programs import nginx, program
from tests.net.http.wire import ANY, TIME, reply

pytestmark = pytest.mark.heavy

HAPROXY: Final = """\
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend public
    bind 127.0.0.1:{port}
    http-request deny if {{ path_beg /secret }}
    default_backend app
backend app
    http-reuse always
    server one {addr}
"""

NGINX: Final = """\
upstream app {{ server {addr}; keepalive 8; }}
server {{
    listen 127.0.0.1:{port};
    location /secret {{ return 403; }}
    location / {{
        proxy_pass http://app;
        proxy_http_version 1.1;
        proxy_request_buffering off;
        {headers}
    }}
}}
"""

WHOLE: Final = b"GET /secret HTTP/1.1\r\nHost: a\r\n\r\n"


CODINGS: Final = (
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: chunked;a=b",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: CHUNKED ",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer-Encoding\0: chunked",
)
LENGTHS: Final = (  # N stands for the length of WHOLE
    b"0\r\nContent-Length: N",
    b"N\r\nContent-Length: 0",
    b"N\r\nContent-Length: N",
    b"0\r\nContent_Length: N",
    *(b"0, N", b"N, N", b"+N", b"0N", b" N ", b"N\t", b"N_0", b"\x0bN", b"-1", b"0\r\n N", b"N;a"),
)
SIZES: Final = (
    *(b"0x5", b"+5", b"-5", b"5 ", b" 5", b"5\t", b"5_0", b"5;", b"5;a\nb", b"5\n", b"05"),
    *(b'5;"\r\n"', b"10000000000000005", b"5\r\r\n", b"5;a=\0"),
)
ENDS: Final = (
    *(b"0\n\n", b"0\r\n\n", b"0\n\r\n", b"0\r\nX: y\n\n", b"0\r\n\rX\r\n\r\n", b"00\r\n\r\n"),
    *(b"0;\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\n X\r\n\r\n"),
)
UPGRADE: Final = b"Connection: Upgrade, keep-alive\r\nUpgrade: websocket"
OTHERS: Final = (
    b"GET http://a/secret HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + WHOLE,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\rX: z\r\n\r\n" + WHOLE,
    b"GET /?\r\n\r\n" + WHOLE,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: y\n\n" + WHOLE,
)


def attacks() -> Iterator[bytes]:
    """Yield requests that could be understood as others."""
    length = b"Content-Length: %d" % len(WHOLE)
    size = b"%x\r\n" % len(WHOLE)
    chunk, last = size + WHOLE + b"\r\n", b"0\r\n\r\n"
    for coding in CODINGS:
        both = b"Content-Length: %d" % (len(last) + len(WHOLE))
        yield post(both, coding) + last + WHOLE  # chunked here, and by length there
        yield post(coding, both) + last + WHOLE
        yield post(b"Content-Length: %d" % len(size), coding) + chunk + last
    for value in LENGTHS:
        request = post(b"Content-Length: " + value.replace(b"N", b"%d" % len(WHOLE))) + WHOLE
        yield request
        yield request.replace(b"POST", b"GET")
    for each in SIZES:
        yield post(CODINGS[0]) + each + b"\r\nhello\r\n" + last + WHOLE
    for each in ENDS:
        yield post(CODINGS[0]) + b"5\r\nhello\r\n" + each + WHOLE
    for fields in (
        (UPGRADE,),
        (b"Expect: 100-continue",),
        (b"Connection: close, Content-Length",),
        (b"Connection: keep-alive, Transfer-Encoding",),
    ):
        yield post(length, *fields) + WHOLE
        yield post(length, *fields).replace(b"POST", b"GET") + WHOLE
        yield post(CODINGS[0], *fields) + chunk + last
    yield from OTHERS


def post(*fields: bytes) -> bytes:
    return b"\r\n".join((b"POST / HTTP/1.1", b"Host: a", *fields, b"", b""))


async def dialled(addr: str) -> Conn:
    async with asyncio.timeout(TIME):
        while True:
            try:
                return await tcp.connect(addr)
            except ConnectionRefusedError:  # the proxy is starting
                await asyncio.sleep(0.01)


async def attack(addr: str, data: bytes) -> None:
    """Send *data*, and wait for an answer or an end."""
    async with tcp.connect(addr) as conn:
        await conn.write(data)
        with contextlib.suppress(EndOfStream, OSError):
            await conn.read(timeout=TIME)


async def under_attack(proxied: str, seen: list[bytes]) -> None:
    conn = await dialled(proxied)
    conn.close()
    for data in attacks():
        del seen[:]
        await attack(proxied, data)
        # Who comes next over the proxy's connections is answered as they asked.
        for number in range(3):
            async with tcp.connect(proxied) as conn:
                await conn.write(b"GET /victim/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
                got = await reply(conn)
                assert (got.status, got.body) == (200, b"/victim/%d" % number), data
        assert not [target for target in seen if b"secret" in target], (data, seen)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
async def test_behind_haproxy(port: int, tmp_path: Path) -> None:
    async with server() as (addr, seen):
        config = tmp_path / "haproxy.cfg"
        config.write_text(HAPROXY.format(port=port, addr=addr))
        async with program("haproxy", "-db", "-f", str(config)):
            await under_attack(f"127.0.0.1:{port}", seen)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.parametrize(
    "headers",
    [
        'proxy_set_header Connection "";',
        "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;",
    ],
    ids=["plain", "with upgrades"],
)
async def test_behind_nginx(port: int, tmp_path: Path, headers: str) -> None:
    async with server() as (addr, seen):
        config = NGINX.format(port=port, addr=addr, headers=headers)
        async with nginx(tmp_path, config):
            await under_attack(f"127.0.0.1:{port}", seen)


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[tuple[str, list[bytes]]]:
    seen: list[bytes] = []

    async def handler(request: http.Request) -> bytes:
        seen.append(request.raw_target)
        await request.body()
        return request.raw_target

    async with http.listen(ANY, handler) as listener:
        yield listener.local_addr, seen
