"""What observers, metrics and the admin socket tell about encrypted connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from silly import admin, metrics
from silly.net import tcp
from silly.net.conn import Conn
from tests.net.tls import certificates
from tests.test_metrics import samples, scrape

ANY = "127.0.0.1:0"


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def until(condition: object) -> None:
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    found: list[logging.LogRecord] = []
    logger, handler = logging.getLogger("silly.access"), logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign, assignment]
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.mark.parametrize("how", ["closed", "aborted"])
async def test_the_access_log_has_the_version_and_the_name(
    records: list[logging.LogRecord], how: str
) -> None:
    client = certificates.client(server_name=certificates.NAME)
    async with tcp.listen(ANY, echo, tls=certificates.server(), access_log=True) as listener:
        conn = await tcp.connect(listener.local_addr, tls=client)
        conn.write(b"x\n")
        assert await conn.read(b"\n") == b"x\n"
        if how == "closed":
            conn.close()
        else:
            conn.abort()
        await until(lambda: records)
    [record] = records
    fields = vars(record)
    assert (fields["tls"], fields["server_name"]) == ("TLSv1.3", certificates.NAME)
    assert f"{listener.local_addr} (TLSv1.3, server.test): " in record.getMessage()


async def test_metrics_count_handshakes_and_know_when_certificates_end() -> None:
    end = datetime(3000, 1, 1, tzinfo=UTC).timestamp()
    web = metrics.serve(ANY)
    client = certificates.client(server_name=certificates.NAME)
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        for _ in range(3):  # the last two continue the first's session
            async with tcp.connect(listener.local_addr, tls=client) as conn:
                conn.write(b"x\n")
                assert await conn.read(b"\n") == b"x\n"
        async with tcp.connect(listener.local_addr) as plain:
            plain.write(b"GET / HTTP/1.0\r\n\r\n")
            assert b"https://" in await plain.read(b"https://")
        await until(lambda: listener.stats.refused)
        text = await scrape(web.local_addr)
        found = samples(text, listener.local_addr)
        assert found["silly_tls_handshakes_total", "TLSv1.3"] == 3
        assert found["silly_tls_resumptions_total", "TLSv1.3"] == 2
        assert found["silly_tls_certificate_expiry_timestamp_seconds", ""] == end
        assert found["silly_connections_refused_total", "not_tls"] == 1
        stats = admin.answer("stats")["listeners"][listener.local_addr]
        assert stats["handshakes"] == {"TLSv1.3": 3}
        assert stats["certificate_expires_at"] == end
    await web.close()


async def test_the_admin_socket_tells_which_connections_are_encrypted() -> None:
    client = certificates.client(server_name=certificates.NAME)
    async with (
        tcp.listen(ANY, echo, tls=certificates.server()) as listener,
        tcp.listen(ANY, echo) as other,
        tcp.connect(listener.local_addr, tls=client) as conn,
        tcp.connect(other.local_addr) as plain,
    ):
        for each in (conn, plain):
            each.write(b"x\n")
            assert await each.read(b"\n") == b"x\n"
        groups = {each["listener"]: each for each in admin.answer("connections")["listeners"]}
        [one] = groups[listener.local_addr]["connections"]
        assert (one["tls"], one["server_name"]) == ("TLSv1.3", certificates.NAME)
        [one] = groups[other.local_addr]["connections"]
        assert (one["tls"], one["server_name"]) == (None, None)
