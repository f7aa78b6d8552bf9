"""The HTTP client against a real nginx: what it sends, and when it closes connections."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from silly.net import http
from tests.net.http.programs import nginx
from tests.net.tls import certificates

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
]

CONFIG: Final = """\
gzip on;
gzip_types *;
keepalive_timeout {keepalive};
keepalive_requests 5;
server {{
    listen 127.0.0.1:{port} {tls};
    server_name localhost;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    root {directory};
    location = /hello {{ return 200 "hello $request_method $http_host"; }}
    location = /elsewhere {{ return 302 /hello; }}
    location = /none {{ return 204; }}
}}
"""
TEXT: Final = b"".join(b"line %d\n" % number for number in range(300_000))


@contextlib.asynccontextmanager
async def running(
    directory: Path, port: int, *, tls: bool = False, keepalive: str = "75s"
) -> AsyncIterator[str]:
    """Run nginx; yield its URL once it answers."""
    (directory / "text").write_bytes(TEXT)
    cert, key = certificates.pair()
    config = CONFIG.format(
        directory=directory,
        port=port,
        tls="ssl" if tls else "",
        keepalive=keepalive,
        cert=cert,
        key=key,
    )
    url = f"http{'s' if tls else ''}://localhost:{port}"
    async with nginx(directory, config):
        async with client(tls=tls) as one, asyncio.timeout(20):
            while True:
                try:
                    await one.get(url)
                    break
                except ConnectionError:  # it is starting
                    await asyncio.sleep(0.01)
        yield url


def client(*, tls: bool, **options: Any) -> http.Client:
    return http.Client(tls=certificates.client() if tls else None, **options)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_requests(port: int, tmp_path: Path, tls: bool) -> None:
    async with running(tmp_path, port, tls=tls) as url, client(tls=tls) as one:
        for number in range(12):  # nginx closes each connection after 5
            reply = await one.get(f"{url}/hello")
            assert await reply.text() == f"hello GET localhost:{port}", number
        assert (await one.get(f"{url}/none")).status == 204
        plain = {"accept-encoding": "identity"}
        reply = await one.head(f"{url}/text", headers=plain)
        assert reply.headers["content-length"] == str(len(TEXT))
        assert (await one.post(f"{url}/hello", data=b"x" * 100_000)).ok
        assert (await one.post(f"{url}/hello", data=b"x" * 5_000_000)).status == 413
        assert (await one.get(f"{url}/missing")).status == 404
        reply = await one.get(f"{url}/elsewhere", follow_redirects=True)
        assert reply.url == f"{url}/hello"
        reply = await one.get(f"{url}/text")
        assert (reply.headers["content-encoding"], await reply.body()) == ("gzip", TEXT)
        ranged = plain | {"range": "bytes=5-1000000"}
        async with one.get(f"{url}/text", headers=ranged, stream=True) as reply:
            assert reply.status == 206
            assert b"".join([piece async for piece in reply]) == TEXT[5:1_000_001]
        unchanged = {"if-none-match": (await one.get(f"{url}/text")).headers["etag"]}
        assert (await one.get(f"{url}/text", headers=unchanged)).status == 304
        replies = await asyncio.gather(*(one.get(f"{url}/hello") for _ in range(50)))
        assert all(reply.ok for reply in replies)


async def test_connections_that_nginx_closes_meanwhile(port: int, tmp_path: Path) -> None:
    """Requests come just when the server closes idle connections; none is lost."""
    async with running(tmp_path, port, keepalive="1ms") as url, client(tls=False) as one:
        for number in range(200):
            assert (await one.get(f"{url}/hello")).ok
            due = time.perf_counter() + 0.00001 * number
            while time.perf_counter() < due:  # around the time when nginx closes
                await asyncio.sleep(0)
