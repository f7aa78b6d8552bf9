"""The health page, as load balancers and container managers ask for it."""

from __future__ import annotations

import asyncio
import http.client
import signal
from pathlib import Path

import pytest

from silly import health, metrics
from silly._loop.live import Live
from silly.net import tcp
from silly.net.tcp import Conn
from tests.workers.harness import dial, running, script

pytestmark = pytest.mark.no_engine

ANY = "127.0.0.1:0"


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def ask(addr: str, request: str = "GET /readyz") -> tuple[int, bytes]:
    """Return the status and the body."""
    async with tcp.connect(addr) as conn:
        await conn.write(f"{request} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await conn.read(b"\r\n\r\n")
        body = b""
        async for piece in conn:
            body += piece
    return int(head.split()[1]), body


async def test_it_is_ready_while_it_listens() -> None:
    async with health.serve(ANY) as page:
        addr = page.local_addr
        assert not Live.of(asyncio.get_running_loop())  # it does not keep the program running
        assert await ask(addr) == (503, b"starting\n")
        assert await ask(addr, "GET /healthz") == (200, b"starting\n")
        async with tcp.listen(ANY, echo) as listener, tcp.connect(listener.local_addr) as client:
            await client.write(b"x\n")
            await client.read(b"\n")
            assert await ask(addr) == (200, b"ready\n")
            assert await ask(addr, "HEAD /readyz") == (200, b"")
            closing = listener.close()
            assert await ask(addr) == (503, b"draining\n")
            assert await ask(addr, "GET /healthz?verbose") == (200, b"draining\n")
            client.close()
            await closing


async def test_other_requests() -> None:
    async with health.serve(ANY) as page:
        assert (await ask(page.local_addr, "GET /"))[0] == 404
        assert (await ask(page.local_addr, "POST /readyz"))[0] == 405


async def test_the_source_can_be_another_and_the_metrics_have_the_page_too() -> None:
    def source() -> health.Health:
        return health.Health(health.READY, "3 of 4 workers")

    async with health.serve(ANY, source) as page:
        assert await ask(page.local_addr) == (200, b"ready: 3 of 4 workers\n")
    async with metrics.serve(ANY, health_source=source) as page:
        assert await ask(page.local_addr) == (200, b"ready: 3 of 4 workers\n")
        assert await ask(page.local_addr, "GET /healthz") == (200, b"ready: 3 of 4 workers\n")


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_a_program_is_not_ready_once_it_drains(
    tmp_path: Path, port: int, options: list[str]
) -> None:
    def get(path: str) -> tuple[int, bytes]:
        conn = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        conn.request("GET", path)
        reply = conn.getresponse()
        found = reply.status, reply.read()
        conn.close()
        return found

    health_addr = f"127.0.0.1:{port}"
    with running("-m", "silly", *options, "--health", health_addr, script(tmp_path)) as silly:
        (addr,) = silly.until(r"listening \S+ \d+ (\S+)")
        if options:
            silly.until("is ready", times=2 - silly.output.count("is ready"))
        assert get("/readyz") == (200, b"ready: 2 of 2 workers\n" if options else b"ready\n")
        with dial(addr) as sock:
            sock.sendall(b"x\n")
            assert sock.recv(10) == b"x\n"
            silly.send(signal.SIGTERM)
            silly.until("stopping; waiting up to")
            assert get("/readyz") == (503, b"draining\n")
            assert get("/healthz") == (200, b"draining\n")
            sock.sendall(b"y\n")
            assert sock.recv(10) == b"y\n"
        silly.rest()
        assert silly.process.returncode == 0
