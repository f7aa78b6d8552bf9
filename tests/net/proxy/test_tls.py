"""A header of the PROXY protocol before TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import pytest

from silly.net import tcp, tls
from silly.net.proxy import ProxyHeader, ProxyTLS
from silly.net.tcp import Conn, Limits
from silly.testing import CONN_CHECKS, run_check
from tests.net.proxy.test_connections import ANY, BINARY, CLIENT, LINE, LOOPBACK, SERVICE, Service
from tests.net.tls import certificates
from tests.pairs import tcp_pair

HEADER = ProxyHeader(CLIENT, SERVICE)


@pytest.mark.parametrize("version", [1, 2])
async def test_both(version: int) -> None:
    service = Service()
    async with tcp.listen(
        ANY, service, proxy_protocol=LOOPBACK, tls=certificates.server()
    ) as listener:
        async with tcp.connect(
            listener.local_addr,
            proxy_header=HEADER,
            proxy_version=version,
            tls=certificates.client(),
        ) as conn:
            await conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
        (served,) = service.conns
        assert served.remote_addr == CLIENT
        assert served.proxy is not None
        assert served.proxy.version == version
        assert served.tls is not None
        assert served.tls.version == "TLSv1.3"
    assert listener.stats.bytes_in == listener.stats.bytes_out == 6


class ByHand:
    """A client of TLS over a connection: it chooses how its bytes are sent."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=certificates.ca_file())
        self._tls = context.wrap_bio(
            self._received, self._to_send, server_hostname=certificates.NAME
        )

    async def talk(self, header: bytes, *, in_bytes: bool) -> bytes:
        """Send *header* and the handshake, then a line; return the answer."""
        before = header
        steps: list[Any] = [
            self._tls.do_handshake,
            lambda: self._tls.write(b"hello\n"),
            self._tls.read,
        ]
        answer: Any = None
        for step in steps:
            while True:
                wants_more = False
                try:
                    answer = step()
                except ssl.SSLWantReadError:
                    wants_more = True
                for piece in self._pieces(before + self._to_send.read(), in_bytes):
                    await self._conn.write(piece)
                    if in_bytes:
                        await asyncio.sleep(0)
                before = b""
                if not wants_more:
                    break
                self._received.write(await self._conn.read(timeout=20))
        return bytes(answer)

    @staticmethod
    def _pieces(data: bytes, in_bytes: bool) -> Iterable[bytes]:
        return [bytes((byte,)) for byte in data] if in_bytes else [data] if data else []


@pytest.mark.parametrize("in_bytes", [False, True], ids=["one segment", "single bytes"])
@pytest.mark.parametrize("header", [LINE, BINARY], ids=["v1", "v2"])
async def test_header_and_hello(header: bytes, in_bytes: bool) -> None:
    """In one segment, and in segments of one byte."""
    service = Service()
    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK, tls=certificates.server()) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        assert await ByHand(conn).talk(header, in_bytes=in_bytes) == b"hello\n"
        assert service.addrs == [(CLIENT, SERVICE)]
        assert service.conns[0].tls is not None


async def test_no_header_no_handshake() -> None:
    async with tcp.listen(
        ANY, Service(), proxy_protocol=LOOPBACK, tls=certificates.server()
    ) as listener:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await tcp.connect(listener.local_addr, tls=certificates.client())
        assert listener.stats.refused == {"proxy_header": 1}


async def test_from_others_a_header_is_garbage() -> None:
    """TLS begins with the first byte there; nothing is believed, and no handler starts."""
    async with (
        tcp.listen(
            ANY, Service(), proxy_protocol=("10.0.0.0/8",), tls=certificates.server()
        ) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(LINE)
        with pytest.raises((ConnectionResetError, EOFError)):
            await conn.read(timeout=20)
        assert listener.stats.refused == {"not_tls": 1}
        assert listener.stats.accepted == 0


async def test_one_deadline_for_both() -> None:
    limits = Limits(handshake_timeout=0.05)
    async with tcp.listen(
        ANY, Service(), proxy_protocol=LOOPBACK, tls=certificates.server(), limits=limits
    ) as listener:
        with pytest.raises((ConnectionResetError, EOFError)):
            async with tcp.connect(listener.local_addr, proxy_header=HEADER) as conn:
                await conn.read(timeout=20)
        assert listener.stats.refused == {"handshake_timeout": 1}


async def test_a_failed_handshake_is_logged_with_the_clients_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        tcp.listen(ANY, Service(), proxy_protocol=LOOPBACK, tls=certificates.server()) as listener,
        tcp.connect(listener.local_addr, proxy_header=HEADER) as conn,
    ):
        await conn.write(b"hello, I do not speak TLS\n")
        with pytest.raises((ConnectionResetError, EOFError)):
            await conn.read(timeout=20)
        assert listener.stats.refused == {"not_tls": 1}
    assert f"refused {CLIENT}: not_tls" in caplog.text


async def test_a_client_of_tls_is_forwarded_with_what_was_negotiated() -> None:
    service = Service()

    async def forwards(conn: Conn) -> None:
        async with tcp.connect(inner.local_addr, proxy_header=conn) as upstream:
            await upstream.write(await conn.read(b"\n"))
            await conn.write(await upstream.read(b"\n"))

    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as inner,
        tcp.listen(ANY, forwards, tls=certificates.server(alpn=("h2",))) as outer,
        tcp.connect(
            outer.local_addr, tls=certificates.client(alpn=("h2",), server_name=certificates.NAME)
        ) as conn,
    ):
        await conn.write(b"hello\n")
        assert await conn.read(b"\n") == b"hello\n"
        assert conn.tls is not None
        assert service.addrs == [(conn.local_addr, outer.local_addr)]
        info = service.conns[0].proxy
    assert info is not None
    assert (info.authority, info.alpn) == (certificates.NAME, "h2")
    assert info.tls == ProxyTLS(version=conn.tls.version, cipher=conn.tls.cipher)


# ------------------------------------------------------------------------- one `Conn`


def pairs(server: tls.Server | None, client: tls.Client | None) -> Any:
    """A function that makes pairs: one end was accepted with a header."""

    async def pair() -> tuple[Any, Any]:
        conn, other = await tcp_pair(
            {"proxy_protocol": LOOPBACK, "tls": server},
            {"proxy_header": HEADER, "tls": client or False},
        )
        assert other.remote_addr == CLIENT
        other.write(b"x")
        assert await conn.read(1) == b"x"
        return other, conn

    return pair


@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "tls"])
async def test_it_is_a_connection_like_any_other(check: Any, is_encrypted: bool) -> None:
    if is_encrypted:
        pair = pairs(certificates.server(), certificates.client())
    else:
        pair = pairs(None, None)
    await run_check(check, pair)
