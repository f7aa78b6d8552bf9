"""What a client refuses, and what fails: an error that names the address; nothing is left."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest

from silly.net import tcp, tls
from silly.net.conn import Conn
from tests.net.tls import certificates
from tests.net.tls.peers import OLD, ONLY_1_2, Peer, server_context

ANY = "127.0.0.1:0"
BAD: dict[str, tuple[tuple[str, str], str]] = {
    "wrong name": (certificates.pair("other.test"), "certificate is not valid for 'server.test'"),
    "expired": (certificates.pair(expired=True), "certificate has expired"),
    "self-signed": (certificates.self_signed(), "self.signed certificate"),
    "unknown CA": (certificates.pair(ca="second"), "unable to get local issuer certificate"),
    "revoked": (certificates.pair("server.test", "revoked.test"), "certificate revoked"),
}


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    return certificates.ca_with_revoked(path, BAD["revoked"][0][0])


@pytest.mark.parametrize("name", BAD)
async def test_certificates_are_checked(name: str, ca: str) -> None:
    pair, expected = BAD[name]
    client = tls.Client(ca=ca, server_name=certificates.NAME)
    async with tcp.listen(ANY, echo, tls=tls.Server(*pair)) as listener:
        with pytest.raises(ssl.SSLCertVerificationError, match=expected) as caught:
            await tcp.connect(listener.local_addr, tls=client)
        assert listener.local_addr in str(caught.value)
        assert caught.value.verify_code != 0
        unchecked = tls.Client(verify=False, server_name=certificates.NAME)
        async with tcp.connect(listener.local_addr, tls=unchecked) as conn:
            await conn.write(b"x\n")
            assert await conn.read(b"\n") == b"x\n"
        await listener.close()
        assert listener.stats.refused == {"tls_alert": 1}
        assert listener.stats.handshakes == {"TLSv1.3": 1}


async def test_the_systems_authorities_are_trusted_and_no_others() -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        with pytest.raises(ssl.SSLCertVerificationError, match="local issuer"):
            await tcp.connect(listener.local_addr, tls=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_host_is_the_name_that_is_checked(host: str) -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        addr = listener.local_addr.replace("127.0.0.1", host)
        async with tcp.connect(addr, tls=certificates.client()) as conn:
            assert conn.tls is not None
            assert conn.tls.server_name == host


async def test_over_unix_sockets() -> None:
    async with tcp.listen("unix:@silly-tls-test", echo, tls=certificates.server()) as listener:
        with pytest.raises(ValueError, match="no name to check"):
            tcp.connect(listener.local_addr, tls=certificates.client())
        client = certificates.client(server_name=certificates.NAME)
        async with tcp.connect(listener.local_addr, tls=client) as conn:
            await conn.write(b"x\n")
            assert await conn.read(b"\n") == b"x\n"


# ---------------------------------------------------------------- servers that are none

Answer = Callable[[socket.socket], Awaitable[None]]


def sending(wire: bytes) -> Answer:
    async def answer(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_recv(sock, 65536)
        await loop.sock_sendall(sock, wire)

    return answer


def shaking(context: Callable[[], ssl.SSLContext]) -> Answer:
    async def answer(sock: socket.socket) -> None:
        peer = Peer(sock, context(), is_server=True)
        with pytest.raises(ssl.SSLError):
            await peer.handshake()

    return answer


def stopping(size: int) -> Answer:
    """Send the first bytes of a right answer, and finish."""

    async def answer(sock: socket.socket) -> None:
        peer = Peer(sock, server_context(), is_server=True)
        peer.incoming.write(await peer.loop.sock_recv(sock, 65536))
        with pytest.raises(ssl.SSLWantReadError):
            peer.object.do_handshake()
        await peer.send_wire(peer.outgoing.read()[:size])

    return answer


async def resetting(sock: socket.socket) -> None:
    await asyncio.get_running_loop().sock_recv(sock, 65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


FAILURES: dict[str, tuple[Answer, type[OSError], str]] = {
    "HTTP": (sending(b"HTTP/1.1 400 Bad\r\n\r\n"), ssl.SSLError, "does not speak TLS"),
    "a banner": (sending(b"220 mail.test ESMTP\r\n"), ssl.SSLError, "does not speak TLS"),
    "zeros": (sending(bytes(1000)), ssl.SSLError, "."),
    "an alert": (sending(b"\x15\x03\x03\0\2\2\x28"), ssl.SSLError, "the peer refused: handshake"),
    "garbage in a record": (sending(b"\x16\x03\x03\0\4\2\0\0\0"), ssl.SSLError, "."),
    "TLS 1.1": (
        shaking(lambda: server_context(OLD, ciphers="DEFAULT@SECLEVEL=0")),
        ssl.SSLError,
        "the peer refused: protocol version|no version of TLS in common",
    ),
    "no shared cipher": (
        shaking(lambda: server_context(ONLY_1_2, ciphers="AES128-SHA")),
        ssl.SSLError,
        "the peer refused: handshake failure",
    ),
    "an end": (sending(b""), ConnectionAbortedError, "before the handshake was complete"),
    "an end within": (stopping(500), ConnectionAbortedError, "before the handshake was complete"),
    "a reset": (resetting, ConnectionResetError, "."),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_handshakes_that_fail(name: str) -> None:
    answer, kind, expected = FAILURES[name]
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        addr = "{}:{}".format(*server.getsockname())
        task = asyncio.ensure_future(tcp.connect(addr, tls=certificates.client()))
        sock, _ = await loop.sock_accept(server)
        sock.setblocking(False)
        with sock:
            await answer(sock)
        with pytest.raises(kind, match=expected) as caught:
            await task
        assert type(caught.value) is kind
        assert addr in str(caught.value)


async def test_a_handshake_that_takes_too_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        addr = "{}:{}".format(*server.getsockname())
        with pytest.raises(TimeoutError, match=r"within 0\.05 seconds") as caught:
            await tcp.connect(addr, tls=certificates.client(), timeout=0.05)
        assert addr in str(caught.value)


async def test_a_handshake_that_is_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        addr = "{}:{}".format(*server.getsockname())
        task = asyncio.ensure_future(tcp.connect(addr, tls=certificates.client()))
        server.setblocking(False)
        sock, _ = await asyncio.get_running_loop().sock_accept(server)
        sock.setblocking(False)
        with sock:
            assert await asyncio.get_running_loop().sock_recv(sock, 65536)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(sock, 65536)


# ---------------------------------------------------------------------------- sessions


async def session_after_one(client: tls.Client, addr: str) -> bool:
    async with tcp.connect(addr, tls=client) as conn:
        await conn.write(b"x\n")
        assert await conn.read(b"\n") == b"x\n"
        assert conn.tls is not None
        return conn.tls.resumed


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_a_session_is_used_once(version: str) -> None:
    server = certificates.server()
    if version == "1.2":
        server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = certificates.client()
    async with tcp.listen(ANY, echo, tls=server) as listener:
        addr = listener.local_addr
        assert not await session_after_one(client, addr)
        assert await session_after_one(client, addr)
        assert len(client._sessions) == 1
        resumed = await asyncio.gather(*(session_after_one(client, addr) for _ in range(5)))
        assert sum(resumed) == 1
        assert len(client._sessions) == 1
        assert not await session_after_one(certificates.client(), addr)


async def test_sessions_of_many_servers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silly.net.tls.config.MAX_SESSIONS", 3)
    client = certificates.client()
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        port = listener.local_addr.rpartition(":")[2]
        for name in ("server.test", "localhost", "127.0.0.1"):
            client.server_name = name
            for host in ("127.0.0.1", "localhost"):
                await session_after_one(client, f"{host}:{port}")
        assert len(client._sessions) == 3


async def test_a_session_of_one_server_is_not_offered_to_another() -> None:
    client = certificates.client()
    async with (
        tcp.listen(ANY, echo, tls=certificates.server()) as one,
        tcp.listen(ANY, echo, tls=certificates.server()) as other,
    ):
        assert not await session_after_one(client, one.local_addr)
        assert not await session_after_one(client, other.local_addr)
        assert await session_after_one(client, one.local_addr)


async def test_a_server_that_has_forgotten_the_session() -> None:
    client = certificates.client()
    server = certificates.server()
    async with tcp.listen(ANY, echo, tls=server) as listener:
        assert not await session_after_one(client, listener.local_addr)
        assert server.reload()
        assert not await session_after_one(client, listener.local_addr)
        assert await session_after_one(client, listener.local_addr)
