"""The PROXY protocol on connections: whose header is required, read and believed."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly import streams
from silly.net import tcp
from silly.net.clients import attach
from silly.net.conn import StreamConn
from silly.net.preface import PrefaceError
from silly.net.proxy import ProxyHeader, ProxyTLS
from silly.net.proxy.preface import take_header
from silly.net.tcp import Conn, Limits, Listener
from silly.testing import memory_pair, run_virtual
from tests.engine.filters import Xor
from tests.net.proxy.test_header import ACCEPTED, REFUSED

ANY = "127.0.0.1:0"
LOOPBACK = ("127.0.0.0/8",)
CLIENT, SERVICE = "192.0.2.7:4711", "198.51.100.1:443"
LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"
BINARY = ProxyHeader(CLIENT, SERVICE, authority="a.example", has_checksum=True).encode()
HEADERS = pytest.mark.parametrize("header", [LINE, BINARY], ids=["v1", "v2"])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


class Service:
    """A handler that echoes, and what it saw."""

    def __init__(self) -> None:
        self.conns: list[Conn] = []

    async def __call__(self, conn: Conn) -> None:
        self.conns.append(conn)
        async for line in conn:
            await conn.write(line)

    @property
    def addrs(self) -> list[tuple[str, str]]:
        return [(conn.remote_addr, conn.local_addr) for conn in self.conns]


async def is_reset(conn: Conn) -> bool:
    """Whether the other end reset it, without a word."""
    try:
        async with asyncio.timeout(20):
            await conn.read()
    except ConnectionResetError:
        return True
    return False


# ------------------------------------------------------------------- required, believed


@HEADERS
async def test_the_client_has_the_address_in_the_header(header: bytes) -> None:
    service = Service()
    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(header + b"hello\n")  # in one segment
        assert await conn.read(b"\n") == b"hello\n"
        assert service.addrs == [(CLIENT, SERVICE)]
        info = service.conns[0].proxy
        assert info is not None
        assert (info.source, info.destination) == (CLIENT, SERVICE)
        assert info.via == conn.local_addr
        assert info.version == (1 if header is LINE else 2)
        assert info.authority == (None if header is LINE else "a.example")
        assert CLIENT in repr(service.conns[0])
        # The header is not the program's.
        stats = service.conns[0].stats
        assert (stats.bytes_in, stats.wire_bytes_in) == (6, 6)
    await until(lambda: listener.connections == 0)
    assert listener.stats.bytes_in == listener.stats.bytes_out == 6
    assert not listener.stats.refused
    assert not listener._course._tickets


@HEADERS
async def test_a_header_in_pieces_of_one_byte(header: bytes) -> None:
    service = Service()
    async with tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener:
        sock = socket.create_connection(("127.0.0.1", int(listener.local_addr.rpartition(":")[2])))
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in header + b"hello\n":
                sock.send(bytes((byte,)))
                await asyncio.sleep(0)
            await until(lambda: bool(service.conns) and service.conns[0].stats.bytes_out == 6)
            assert sock.recv(100) == b"hello\n"
        await until(lambda: listener.connections == 0)
    assert service.addrs == [(CLIENT, SERVICE)]


async def test_the_handler_waits_for_the_whole_header() -> None:
    service = Service()
    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(BINARY[:-1])
        await until(lambda: any(each.unread_bytes == 0 for each in listener._course.conns()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert (service.conns, listener.connections, listener.stats.accepted) == ([], 1, 0)
        await conn.write(BINARY[-1:])
        await until(lambda: bool(service.conns))


@pytest.mark.parametrize("name", ["LOCAL", "unknown", "unspecified"])
async def test_without_addresses_the_real_ones_are_kept(name: str) -> None:
    service = Service()
    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(ACCEPTED[name][0] + b"hello\n")
        assert await conn.read(b"\n") == b"hello\n"
        assert service.addrs == [(conn.local_addr, listener.local_addr)]
        info = service.conns[0].proxy
        assert info is not None
        assert info.command == ("LOCAL" if name == "LOCAL" else "PROXY")
        assert (info.source, info.via) == (None, conn.local_addr)


async def test_an_ipv4_address_in_ipv6_is_one_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of clients of a socket for both, which systemd may pass."""
    monkeypatch.setenv("SILLY_PROXY_PROTOCOL", "127.0.0.0/8")
    names: list[Any] = []

    def client_connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names.append(writer.get_extra_info("peername")[:2])
        writer.close()

    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind(("::", 0))
        except OSError:
            pytest.skip("no IPv6")
        addr = f"127.0.0.1:{sock.getsockname()[1]}"
        async with await streams.start_server(client_connected, sock=sock):
            async with tcp.connect(addr, proxy_header=ProxyHeader(CLIENT)) as conn:
                with pytest.raises(EOFError):
                    await conn.read()
    assert names == [("192.0.2.7", 4711)]


async def test_a_header_longer_than_the_read_limit() -> None:
    service = Service()
    header = ProxyHeader(CLIENT, SERVICE, tlvs=((0xE0, bytes(4000)),))
    async with tcp.listen(ANY, service, proxy_protocol=LOOPBACK, read_limit=8) as listener:
        for version in (1, 2):
            async with tcp.connect(
                listener.local_addr, proxy_header=header, proxy_version=version
            ) as conn:
                await conn.write(b"hello\n")
                assert await conn.read(b"\n") == b"hello\n"
        assert service.addrs == [(CLIENT, SERVICE)] * 2


async def test_unix_sockets(tmp_path: Path) -> None:
    service = Service()
    addr = f"unix:{tmp_path}/socket"
    async with tcp.listen(addr, service, proxy_protocol=("unix",)) as listener:
        async with tcp.connect(addr, proxy_header=ProxyHeader(CLIENT, SERVICE)) as conn:
            await conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
        header = ProxyHeader("unix:", "unix:/run/frontend.sock")
        async with tcp.connect(addr, proxy_header=header) as conn:
            await conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
        async with tcp.connect(addr) as conn:
            await conn.write(b"hello\n")
            with pytest.raises((ConnectionResetError, EOFError)):  # Unix sockets have no reset
                await conn.read()
        assert listener.stats.refused == {"proxy_header": 1}
    assert service.addrs == [(CLIENT, SERVICE), ("unix:", "unix:/run/frontend.sock")]
    assert [conn.proxy and conn.proxy.via for conn in service.conns] == ["unix:", "unix:"]


async def test_ipv6(loop_kind: str) -> None:
    service = Service()
    try:
        listener = tcp.listen("[::1]:0", service, proxy_protocol=("::1/128",))
    except OSError:
        pytest.skip("no IPv6")
    async with listener:
        header = ProxyHeader("[2001:db8::7]:4711", "[2001:db8::1]:443")
        async with tcp.connect(listener.local_addr, proxy_header=header) as conn:
            await conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
    assert service.addrs == [("[2001:db8::7]:4711", "[2001:db8::1]:443")]


# -------------------------------------------------------------------- not looked for


@pytest.mark.parametrize("networks", [("10.0.0.0/8", "::/0", "unix"), ()], ids=["others", "none"])
@HEADERS
async def test_from_others_a_header_is_data(networks: tuple[str, ...], header: bytes) -> None:
    service = Service()
    async with (
        tcp.listen(ANY, service, proxy_protocol=networks) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(header + b"\n")
        assert await conn.read(len(header) + 1) == header + b"\n"
        assert service.addrs == [(conn.local_addr, listener.local_addr)]
        assert service.conns[0].proxy is None
        assert listener.stats.bytes_in == len(header) + 1


async def test_tcp_is_not_unix(tmp_path: Path) -> None:
    """And the other way around: the network of all addresses has no Unix sockets."""
    service = Service()
    for addr, networks in ((ANY, ("unix",)), (f"unix:{tmp_path}/x", ("0.0.0.0/0", "::/0"))):
        async with (
            tcp.listen(addr, service, proxy_protocol=networks) as listener,
            tcp.connect(listener.local_addr) as conn,
        ):
            await conn.write(LINE)
            assert await conn.read(b"\n") == LINE
            assert service.conns.pop().proxy is None


async def test_a_client_without_a_header_costs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    monkeypatch.setattr("silly.net.course.run_prefaces", None)
    async with (
        tcp.listen(ANY, service, proxy_protocol=("10.0.0.0/8",)) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(b"hello\n")
        assert await conn.read(b"\n") == b"hello\n"
        assert not listener._course._tickets


@HEADERS
async def test_only_one_header_is_read(header: bytes) -> None:
    """What follows is the client's, who could write anything there."""
    forged = ProxyHeader("203.0.113.66:1", SERVICE).encode(1)
    service = Service()
    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(header + forged)
        assert await conn.read(b"\n") == forged
        assert service.addrs == [(CLIENT, SERVICE)]


# --------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",  # TLS
        b"h",
        b"\r\n\r\nhello",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n",
        b"PROXY \xff\n",
        b"PROXY UNKNOWN".ljust(108, b"x"),
        BINARY[:12] + b"\x22",
        *(header for header, _ in (REFUSED["a wrong checksum"], REFUSED["UDP over IPv4"])),
    ],
)
async def test_anything_else_is_reset_at_once(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """As soon as it is certain, without waiting for the deadline."""
    service = Service()
    limits = Limits(handshake_timeout=60)
    sent = sent.ljust(16, b"\0") if len(sent) == 13 else sent
    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK, limits=limits) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(sent)
        assert await is_reset(conn)
        await until(lambda: listener.connections == 0)
        assert listener.stats.refused == {"proxy_header": 1}
        assert (listener.stats.accepted, service.conns) == (0, [])
    assert f"refused {conn.local_addr}: proxy_header (" in caplog.text


@pytest.mark.parametrize("sent", [b"", b"PRO", LINE[:-1], BINARY[:5], BINARY[:14], BINARY[:-1]])
async def test_a_late_header_is_refused(sent: bytes) -> None:
    limits = Limits(handshake_timeout=0.05)
    async with (
        tcp.listen(ANY, Service(), proxy_protocol=LOOPBACK, limits=limits) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        with pytest.raises(ConnectionResetError):
            await conn.write(sent)
            await conn.read(timeout=20)
        await until(lambda: listener.connections == 0)
        assert listener.stats.refused == {"handshake_timeout": 1}


@pytest.mark.parametrize("sent", [b"", b"PRO", LINE[:-1], BINARY[:14], BINARY[:-1]])
async def test_a_header_that_ends_early_is_refused(sent: bytes) -> None:
    async with (
        tcp.listen(ANY, Service(), proxy_protocol=LOOPBACK) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(sent)
        conn.close_write()
        with pytest.raises((ConnectionResetError, EOFError)):
            await conn.read()
        await until(lambda: listener.connections == 0)
        assert listener.stats.refused == {"handshake": 1}


async def test_a_flood_of_bad_headers_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener,
        tcp.connect(listener.local_addr, proxy_header=ProxyHeader(CLIENT, SERVICE)) as honest,
    ):
        for _ in range(30):
            async with tcp.connect(listener.local_addr) as conn:
                await conn.write(b"GET / HTTP/1.1\r\n\r\n")
                assert await is_reset(conn)
            await honest.write(b"hello\n")
            assert await honest.read(b"\n") == b"hello\n"
        await until(lambda: listener.connections == 1)
    assert listener.stats.refused == {"proxy_header": 30}
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "refused 29 more connections: proxy_header (the PROXY header" in warnings[1].getMessage()


async def test_what_a_client_chose_is_escaped_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = ProxyHeader("unix:/tmp/\x1b[2J\nforged", "unix:/run/x.sock")

    async def fails(conn: Conn) -> None:
        raise RuntimeError("seen")

    async with tcp.listen(ANY, fails, proxy_protocol=LOOPBACK, access_log=True) as listener:
        caplog.set_level(logging.INFO)
        async with tcp.connect(listener.local_addr, proxy_header=header) as conn:
            with pytest.raises(EOFError):
                await conn.read()
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(b"PROXY \x1b[2J\r\n")
            assert await is_reset(conn)
        await until(lambda: listener.connections == 0)
    messages = [record.getMessage() for record in caplog.records]
    assert any(r"unix:/tmp/\x1b[2J\x0aforged to unix:/run/x.sock" in each for each in messages)
    assert not any("\x1b" in each or "\n" in each for each in messages)


# ----------------------------------------------------------------------------- limits


async def test_limits_count_the_client() -> None:
    service = Service()
    limits = Limits(max_per_client=2, exempt_networks=())

    async def dial(host: str) -> Conn:
        header = ProxyHeader(f"{host}:1", SERVICE)
        conn = await tcp.connect(listener.local_addr, proxy_header=header)
        conn.write(b"hello\n")
        return conn

    async with tcp.listen(ANY, service, proxy_protocol=LOOPBACK, limits=limits) as listener:
        # The proxy may have more than 2; of each client there may be 2.
        conns = [await dial(host) for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3")]
        for conn in conns:
            assert await conn.read(b"\n") == b"hello\n"
        extra = await dial("192.0.2.1")
        assert await is_reset(extra)
        mapped = await dial("[::ffff:192.0.2.1]")
        assert await is_reset(mapped)
        assert listener.stats.refused == {"max_per_client": 2}
        for conn in (*conns, extra, mapped):
            conn.abort()
        await until(lambda: listener.connections == 0)
        assert not listener._course.gate._clients


async def test_proxies_are_not_limited_while_their_headers_are_on_the_way() -> None:
    limits = Limits(max_per_client=1, exempt_networks=())
    async with tcp.listen(ANY, Service(), proxy_protocol=LOOPBACK, limits=limits) as listener:
        conns = [await tcp.connect(listener.local_addr) for _ in range(10)]
        await until(lambda: listener.connections == 10)
        for number, conn in enumerate(conns):
            await conn.write(ProxyHeader(f"192.0.2.{number}:1", SERVICE).encode() + b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
        checks = [await tcp.connect(listener.local_addr) for _ in range(3)]
        for conn in checks:  # the proxy's own
            await conn.write(ProxyHeader(command="LOCAL").encode() + b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
        for conn in (*conns, *checks):
            conn.abort()
        await until(lambda: listener.connections == 0)
        assert not listener.stats.refused
        assert not listener._course.gate._clients


async def test_a_silent_client_behind_a_proxy_meets_its_deadline() -> None:
    limits = Limits(first_byte_timeout=0.05)
    header = ProxyHeader(CLIENT, SERVICE)
    async with (
        tcp.listen(ANY, Service(), proxy_protocol=LOOPBACK, limits=limits) as listener,
        tcp.connect(listener.local_addr, proxy_header=header) as conn,
    ):
        with pytest.raises((ConnectionResetError, EOFError)):
            await asyncio.wait_for(conn.read(), 20)
        await until(lambda: listener.connections == 0)
        assert listener.stats.ended == {"first_byte_timeout": 1}


async def test_observers_see_the_client() -> None:
    seen: list[str] = []

    class Observer:
        def opened(self, conn: Conn, listener: Listener) -> None:
            seen.append(conn.remote_addr)

        def closed(self, conn: Conn, listener: Listener, ending: Any) -> None:
            seen.append(f"{conn.remote_addr} {ending.how}")

    async with tcp.listen(ANY, Service(), proxy_protocol=LOOPBACK, observer=Observer()) as listener:
        async with tcp.connect(listener.local_addr, proxy_header=ProxyHeader(CLIENT)) as conn:
            await conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
            assert seen == [CLIENT]
        await until(lambda: len(seen) == 2)
    assert seen[1] == f"{CLIENT} peer_finished"


@HEADERS
async def test_other_prefaces_follow(header: bytes) -> None:
    """As a TLS handshake does; its first bytes come in one segment with the header."""
    service = Service()

    async def encrypts(conn: StreamConn) -> None:
        assert conn.remote_addr == CLIENT
        conn._put_filter(Xor(1))
        await conn._wait_ready()

    async with tcp.listen(ANY, service, proxy_protocol=LOOPBACK, preface=encrypts) as listener:
        async with tcp.connect(
            listener.local_addr,
            proxy_header=ProxyHeader(CLIENT, SERVICE),
            proxy_version=1 if header is LINE else 2,
        ) as conn:
            secret: Any = conn
            secret._put_filter(Xor(1))
            await secret._wait_ready()
            await conn.write(b"hidden\n")
            assert await conn.read(b"\n") == b"hidden\n"
            assert service.addrs == [(CLIENT, SERVICE)]
        await until(lambda: listener.connections == 0)
    assert listener.stats.bytes_in == listener.stats.bytes_out == 7


# ---------------------------------------------------------------------------- reading


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Any, Any]]:
    near, far = memory_pair()
    try:
        yield near, far
    finally:
        near.abort()
        far.abort()


def splits(header: bytes) -> list[list[bytes]]:
    """In two pieces, cut at each byte, and byte by byte."""
    length = len(header)
    if length > 300:  # padding: it is read as one piece
        cuts = [*range(1, 40), *range(40, length - 10, 500), *range(length - 10, length + 1)]
        return [[header[:cut], header[cut:]] for cut in cuts]
    pieces = [[header[:cut], header[cut:]] for cut in range(1, length + 1)]
    return [*pieces, [header[at : at + 1] for at in range(length)]]


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.heavy
async def test_every_split_of_every_header() -> None:
    """On one connection: each header is read to its last byte, and no byte of what follows."""
    near, far = socket.socketpair()
    near.setblocking(False)
    conn = await attach(asyncio.get_running_loop(), near)
    with far:
        for name, (header, ends) in ACCEPTED.items():
            for pieces in splits(header):
                reading = asyncio.create_task(take_header(conn))
                for piece in pieces[:-1]:
                    far.send(piece)
                    await settle()
                    assert not reading.done() or piece == header, (name, pieces)
                far.send(pieces[-1] + b"rest")
                await asyncio.wait_for(reading, 20)
                info = conn.proxy
                assert info is not None
                assert (info.source, info.destination) == ends, (name, pieces)
                assert await conn.read(4) == b"rest", (name, pieces)
                conn._discount(4)
                assert conn.stats.bytes_in == 0
    conn.abort()


@pytest.mark.no_engine
@given(st.sampled_from(sorted(ACCEPTED)), st.sets(st.integers(1, 120), max_size=20))
def test_headers_in_several_pieces(name: str, cuts: set[int]) -> None:
    header, ends = ACCEPTED[name]
    places = [0, *sorted(cut for cut in cuts if cut < len(header) + 5), len(header) + 5]

    async def read() -> None:
        async with pair() as (near, far):
            reading = asyncio.create_task(take_header(near))
            for start, stop in itertools.pairwise(places):
                far.write((header + b"rest.")[start:stop])
                await settle()
            await reading
            assert (near.proxy.source, near.proxy.destination) == ends
            assert await near.read(5) == b"rest."

    run_virtual(read())


async def test_every_malformed_header_is_refused() -> None:
    for name, (header, _) in REFUSED.items():
        if name == "two lines":  # the first one is a header
            continue
        async with pair() as (near, far):
            reading = asyncio.create_task(take_header(near))
            far.write(header)
            await settle()
            far.close_write()
            done, _ = await asyncio.wait((reading,), timeout=20)
            assert done, name
            error = reading.exception()
            reason = error.reason if isinstance(error, PrefaceError) else None
            assert reason == "proxy_header" or isinstance(error, EOFError), (name, error)
            assert near.proxy is None


# ---------------------------------------------------------------------------- sending


@pytest.mark.parametrize("version", [1, 2])
async def test_a_client_is_forwarded(version: int) -> None:
    """Through two proxies of ours to a service, which sees the client."""
    service = Service()

    async def forwards(conn: Conn) -> None:
        async with tcp.connect(
            inner.local_addr, proxy_header=conn, proxy_version=version
        ) as upstream:
            async for line in conn:
                await upstream.write(line)
                await conn.write(await upstream.read(b"\n"))

    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as inner,
        tcp.listen(ANY, forwards, proxy_protocol=LOOPBACK) as outer,
        tcp.listen(ANY, forwards) as plain,
    ):
        header = ProxyHeader(
            CLIENT,
            SERVICE,
            authority="a.example",
            alpn="h2",
            unique_id=b"7",
            tls=ProxyTLS(version="TLSv1.3"),
            tlvs=((0xE0, b"custom"),),
        )
        async with tcp.connect(outer.local_addr, proxy_header=header) as conn:
            await conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
        async with tcp.connect(plain.local_addr) as conn:
            await conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
            client = conn.local_addr
    assert service.addrs == [(CLIENT, SERVICE), (client, plain.local_addr)]
    first, second = (conn.proxy for conn in service.conns)
    assert first is not None
    assert second is not None
    assert (first.version, second.version) == (version, version)
    if version == 2:
        for name in ("authority", "alpn", "unique_id", "tls", "tlvs"):
            assert getattr(first, name) == getattr(header, name)


async def test_the_destination_is_the_peer_if_none_is_given() -> None:
    service = Service()
    async with (
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener,
        tcp.connect(listener.local_addr, proxy_header=ProxyHeader(CLIENT)) as conn,
    ):
        assert conn.proxy is None
        await conn.write(b"hello\n")
        await conn.read(b"\n")
        assert service.addrs == [(CLIENT, listener.local_addr)]


async def test_a_connection_in_memory_is_forwarded_without_addresses() -> None:
    service = Service()
    async with (
        pair() as (near, _),
        tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener,
        tcp.connect(listener.local_addr, proxy_header=near) as conn,
    ):
        await conn.write(b"hello\n")
        await conn.read(b"\n")
        assert service.addrs == [(conn.local_addr, listener.local_addr)]


async def test_no_header_is_received_by_a_server_that_speaks_first() -> None:
    async def greets(conn: Conn) -> None:
        await conn.write(f"welcome {conn.remote_addr}\n".encode())

    async with (
        tcp.listen(ANY, greets, proxy_protocol=LOOPBACK) as listener,
        tcp.connect(listener.local_addr, proxy_header=ProxyHeader(CLIENT)) as conn,
    ):
        assert await conn.read(b"\n") == f"welcome {CLIENT}\n".encode()


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ({"proxy_header": CLIENT}, TypeError, "proxy_header must be a Conn or a ProxyHeader"),
        ({"proxy_header": True}, TypeError, "proxy_header must be a Conn or a ProxyHeader"),
        ({"proxy_header": ProxyHeader("unix:")}, ValueError, "are of two kinds"),
        ({"proxy_header": ProxyHeader(), "proxy_version": 3}, ValueError, "must be 1 or 2, not 3"),
        ({"proxy_version": 0}, ValueError, "proxy_version must be 1 or 2, not 0"),
    ],
)
async def test_mistakes_of_clients(
    arguments: dict[str, Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        tcp.connect("127.0.0.1:1", **arguments)


@pytest.mark.parametrize(
    ("networks", "error", "why"),
    [
        ("10.0.0.0/8", TypeError, r"proxy_protocol must be a tuple .* such as \('10.0.0.0/8', 'u"),
        (True, TypeError, "proxy_protocol must be a tuple of networks"),
        ((10,), TypeError, "proxy_protocol must be a tuple of networks"),
        (("10.0.0.1/8",), ValueError, "proxy_protocol: 10.0.0.1/8 has host bits set; expected"),
        (("10.0.0.0/33",), ValueError, "proxy_protocol: .*; expected a network such as '10.0.0.0"),
        (("localhost",), ValueError, "proxy_protocol: 'localhost' does not appear to be an IPv4"),
        (("unix:/run/x",), ValueError, "proxy_protocol: 'unix:/run/x' does not .* or 'unix'"),
    ],
)
async def test_mistakes_of_servers(networks: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        tcp.listen(ANY, Service(), proxy_protocol=networks)


async def test_every_connection_tells_that_it_has_no_proxy() -> None:
    async with pair() as (near, far):
        assert near.proxy is far.proxy is None


# ------------------------------------------------------------------------- environment


async def test_the_variable_is_for_listeners_that_do_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service()
    monkeypatch.setenv("SILLY_PROXY_PROTOCOL", "127.0.0.0/8, unix")
    async with (
        tcp.listen(ANY, service) as by_variable,
        tcp.listen(ANY, service, proxy_protocol=()) as by_code,
    ):
        for listener, is_believed in ((by_variable, True), (by_code, False)):
            async with tcp.connect(listener.local_addr, proxy_header=ProxyHeader(CLIENT)) as conn:
                await conn.write(b"\n")
                await conn.read(b"\n")
                expected = CLIENT if is_believed else conn.local_addr
                assert service.conns.pop().remote_addr == expected
    monkeypatch.setenv("SILLY_PROXY_PROTOCOL", "10.0.0.1/8")
    with pytest.raises(ValueError, match=r"SILLY_PROXY_PROTOCOL: '10.0.0.1/8' is not a list of"):
        tcp.listen(ANY, service)


async def test_streams_like_asyncios(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their servers have no argument for it, but the flag and the variable."""
    monkeypatch.setenv("SILLY_PROXY_PROTOCOL", "127.0.0.0/8")
    names: list[Any] = []

    async def client_connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names.extend(writer.get_extra_info(each) for each in ("peername", "sockname"))
        writer.write(await reader.readline())
        writer.close()

    server: Any = await streams.start_server(client_connected, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        header = ProxyHeader("[2001:db8::7]:4711", "[2001:db8::1]:443")
        async with tcp.connect(f"127.0.0.1:{port}", proxy_header=header) as conn:
            await conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
    assert names == [("2001:db8::7", 4711, 0, 0), ("2001:db8::1", 443, 0, 0)]
