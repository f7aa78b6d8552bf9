"""A connection with TLS is a connection: `check_conn`, ends, counts, upgrades."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

import silly
from silly.errors import ConcurrentRead, EndOfStream, TruncatedStream
from silly.net import tcp, tls
from silly.net.conn import Conn
from silly.testing import CONN_CHECKS, memory_pair, run_check, run_virtual
from tests.garbage import collecting
from tests.net.tls import certificates, peers
from tests.pairs import tcp_pair

ANY = "127.0.0.1:0"


async def _pair(server: tls.Server | None, client: tls.Client | None) -> tuple[Any, Any]:
    return await tcp_pair({"tls": server}, {"tls": client or False})


async def tls_pair() -> tuple[Any, Any]:
    return await _settled(*await _pair(certificates.server(), certificates.client()))


async def _settled(one: Conn, other: Conn) -> tuple[Conn, Conn]:
    """The pair, once the other has acknowledged all that the one has sent for the handshake."""
    other.write(b"x")
    assert await one.read(1) == b"x"
    return one, other


async def upgraded_pair() -> tuple[Any, Any]:
    """A pair that spoke in the clear before, as with STARTTLS; the server's end comes first."""
    client, server = await _pair(None, None)
    client.write(b"STARTTLS\r\n")
    assert await server.read(b"\n") == b"STARTTLS\r\n"
    server.write(b"220 go ahead\r\n")
    assert await client.read(b"\n") == b"220 go ahead\r\n"
    await _upgrade(server, client)
    return await _settled(server, client)


async def memory() -> tuple[Any, Any]:
    server, client = memory_pair()
    await _upgrade(server, client)
    return server, client


async def _upgrade(server: Conn, client: Conn) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(server.start_tls(certificates.server()))
        group.create_task(client.start_tls(certificates.client(), server_name=certificates.NAME))


@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
async def test_it_is_a_connection(check: Any) -> None:
    await run_check(check, tls_pair)


@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
async def test_it_is_one_after_starttls(check: Any) -> None:
    await run_check(check, upgraded_pair)


@pytest.mark.no_engine
@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
def test_it_is_one_in_memory(check: Any) -> None:
    run_virtual(run_check(check, memory))


async def test_what_was_negotiated() -> None:
    accepted: list[tls.TLSInfo | None] = []

    async def handler(conn: Conn) -> None:
        accepted.append(conn.tls)
        await conn.write(b"hello\n")

    server = certificates.server(alpn=("h2", "chat/1"))
    async with tcp.listen(ANY, handler, tls=server) as listener:
        assert listener.stats.certificate_expires_at == server.expires_at
        client = certificates.client(alpn=("chat/1",), server_name=certificates.NAME)
        async with tcp.connect(listener.local_addr, tls=client) as conn:
            assert await conn.read(b"\n") == b"hello\n"
            theirs = conn.tls
        async with tcp.connect(listener.local_addr, tls=client) as conn:
            assert await conn.read(b"\n") == b"hello\n"
            again = conn.tls
        stats = listener.stats
    [ours, _] = accepted
    assert ours is not None
    assert theirs is not None
    assert again is not None
    for info in (ours, theirs):
        assert (info.version, info.cipher[:4]) == ("TLSv1.3", "TLS_")
        assert (info.alpn, info.server_name) == ("chat/1", certificates.NAME)
        assert not info.resumed
    der = ssl.PEM_cert_to_DER_cert(Path(certificates.pair()[0]).read_text())
    assert (ours.peer_certificate, theirs.peer_certificate) == (None, der)
    assert again.resumed
    assert stats.handshakes == {"TLSv1.3": 1, "TLSv1.3 resumed": 1}


async def test_it_is_known_after_the_connection_failed() -> None:
    one, other = await tls_pair()
    with socket.socket(fileno=other._fileno) as sock:
        sock.sendall(b"no record")
        sock.detach()
    with pytest.raises(ssl.SSLError):
        await one.read()
    assert one.tls is not None
    assert one.tls.version == "TLSv1.3"
    other.abort()


async def test_a_silent_client_meets_the_deadline_for_its_first_byte() -> None:
    """Its handshake is not what the handler waits for."""

    async def handler(conn: Conn) -> None:
        async for line in conn:
            await conn.write(line)

    limits = tcp.Limits(first_byte_timeout=0.05)
    async with (
        tcp.listen(ANY, handler, tls=certificates.server(), limits=limits) as listener,
        tcp.connect(listener.local_addr, tls=certificates.client()) as conn,
    ):
        with pytest.raises((EndOfStream, OSError)):
            await conn.read(timeout=20)
        assert listener.stats.ended == {"first_byte_timeout": 1}


async def test_a_plain_connection_has_none() -> None:
    one, other = await _pair(None, None)
    assert one.tls is None is other.tls
    one.abort()
    other.abort()


async def test_bytes_of_the_program_and_of_the_wire_are_counted_apart() -> None:
    one, other = await _pair(certificates.server(), certificates.client())
    await one.write(b"hello\n")
    assert await other.read(b"\n") == b"hello\n"
    assert (one.stats.bytes_out, other.stats.bytes_in) == (6, 6)
    assert one.stats.wire_bytes_out == other.stats.wire_bytes_in > 500
    assert other.unread_bytes == 0
    one.abort()
    other.abort()


async def test_an_end_that_was_announced_is_the_end() -> None:
    one, other = await tls_pair()
    await one.write(b"first\nsecond")
    one.close_write()
    assert [line async for line in other] == [b"first\n", b"second"]
    with pytest.raises(EndOfStream) as caught:
        await other.read(1)
    assert not isinstance(caught.value, TruncatedStream)
    await other.write(b"still open\n")
    assert await one.read(b"\n") == b"still open\n"
    one.abort()
    other.abort()


async def test_an_end_that_was_not_announced_is_a_truncation() -> None:
    one, other = await tls_pair()
    await one.write(b"first\nsecond")
    assert await other.read(b"\n") == b"first\n"
    with socket.socket(fileno=one._fileno) as sock:  # a FIN that TLS does not know of
        sock.shutdown(socket.SHUT_WR)
        sock.detach()
    with pytest.raises(TruncatedStream) as caught:
        async for _ in other:
            pass
    assert caught.value.partial == b"second"
    one.abort()
    other.abort()


async def test_starttls_with_contexts_of_the_programs_own() -> None:
    client, server = await _pair(None, None)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.start_tls(certificates.server().context))
        group.create_task(
            client.start_tls(certificates.client().context, server_name=certificates.NAME)
        )
    await client.write(b"hello\n")
    assert await server.read(b"\n") == b"hello\n"
    client.abort()
    server.abort()


async def test_it_can_be_listened_for_and_connected_to_by_name() -> None:
    async def hello(conn: Conn) -> None:
        await conn.write(b"hello\n")

    async with tls.listen(ANY, hello, tls=certificates.server()) as listener:
        host = listener.local_addr.replace("127.0.0.1", "localhost")
        with pytest.raises(ssl.SSLCertVerificationError):  # of the system's authorities
            await tls.connect(host)
        async with tls.connect(host, tls=certificates.client()) as conn:
            assert conn.tls is not None
            assert await conn.read(b"\n") == b"hello\n"


def test_a_first_message_that_comes_in_pieces() -> None:
    async def main() -> None:
        server, relay = memory_pair()
        other, client = memory_pair()
        serving = asyncio.create_task(server.start_tls(certificates.server()))
        asking = asyncio.create_task(
            client.start_tls(certificates.client(), server_name=certificates.NAME)
        )
        hello = await other.read()
        for at in range(0, len(hello), 50):
            relay.write(hello[at : at + 50])
            await asyncio.sleep(0.1)
        other.write(await relay.read())
        await asking
        relay.write(await other.read())
        await serving
        assert server.tls is not None
        assert server.tls.server_name == certificates.NAME
        for conn in (server, relay, other, client):
            conn.abort()

    run_virtual(main())


async def test_what_was_injected_before_starttls_is_never_read() -> None:
    client, server = await _pair(None, None)
    client.write(b"STARTTLS\r\nRCPT TO: everybody\r\n")  # the second line is the attacker's
    assert await server.read(b"\n") == b"STARTTLS\r\n"
    task = asyncio.create_task(client.start_tls(certificates.client(), server_name="server.test"))
    with pytest.raises(ssl.SSLError, match="does not speak TLS"):
        await server.start_tls(certificates.server())
    assert not server.is_alive
    with pytest.raises(OSError):  # noqa: PT011 - it depends on what the client still sent
        await task
    assert not client.is_alive


async def test_starttls_leaves_the_connection_alone_if_it_is_called_wrongly() -> None:
    client, server = await _pair(None, None)
    reading = asyncio.create_task(client.read(1))
    await asyncio.sleep(0)
    with pytest.raises(ConcurrentRead):
        await client.start_tls(certificates.client())
    with pytest.raises(TypeError, match="tls must be True, a tls"):
        await client.start_tls("yes")
    with pytest.raises(ValueError, match="server_name is for clients"):
        await server.start_tls(certificates.server(), server_name="x")
    server.write(b"x")
    assert await reading == b"x"
    await _upgrade(server, client)
    with pytest.raises(RuntimeError, match="encrypted already"):
        await client.start_tls(certificates.client())
    await client.write(b"fine\n")
    assert await server.read(b"\n") == b"fine\n"
    client.abort()
    server.abort()


async def test_starttls_checks_the_host_that_was_connected_to() -> None:
    async def handler(conn: Conn) -> None:
        await conn.start_tls(certificates.server())
        await conn.write(b"hello\n")

    async with tcp.listen(ANY, handler) as listener:
        port = listener.local_addr.rpartition(":")[2]
        conn = await tcp.connect(f"localhost:{port}")
        await conn.start_tls(certificates.client())
        assert conn.tls is not None
        assert conn.tls.server_name == "localhost"
        assert await conn.read(b"\n") == b"hello\n"
        conn.abort()


async def test_the_listener_counts_what_starttls_has_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(conn: Conn) -> None:
        await conn.start_tls(certificates.server(), timeout=float(await conn.read(b"\n")))

    async with tcp.listen(ANY, handler) as listener:

        async def client() -> Conn:
            return await tcp.connect(listener.local_addr)

        async with await client() as conn:
            conn.write(b"10\n")
            await conn.start_tls(certificates.client(), server_name=certificates.NAME)
            with pytest.raises(EndOfStream):
                await conn.read()
        for timeout, then in (("10", b"neither\n"), ("10", b""), ("0.01", None)):
            async with await client() as conn:
                conn.write(f"{timeout}\n".encode())
                if then:
                    conn.write(then)
                if then is not None:
                    conn.close_write()
                with contextlib.suppress(OSError, EOFError):
                    await conn.read(b"never")
        while listener.connections:
            await asyncio.sleep(0)
        stats = listener.stats
    assert stats.handshakes == {"TLSv1.3": 1}
    assert stats.failed_handshakes == {"not_tls": 1, "handshake": 1, "handshake_timeout": 1}
    assert (stats.accepted, stats.refused, stats.handler_errors) == (4, {}, 0)
    logged = [each.getMessage() for each in caplog.records if "no TLS with" in each.getMessage()]
    assert [line.partition(" (")[0].rpartition(": ")[2] for line in logged] == list(
        stats.failed_handshakes
    )


@pytest.mark.parametrize("then", [b"neither\n", b"", None], ids=["not TLS", "ends", "late"])
async def test_starttls_that_fails_leaves_nothing_to_the_collector(then: bytes | None) -> None:
    async def handler(conn: Conn) -> None:
        await conn.start_tls(certificates.server(), timeout=10 if then is not None else 0.001)

    async def visit(listener: tcp.Listener) -> None:
        reader, writer = await asyncio.open_connection(*listener.local_addr.rsplit(":", 1))
        if then is not None:
            writer.write(then)
            writer.write_eof()
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()
        while listener.connections:
            await asyncio.sleep(0)

    async with tcp.listen(ANY, handler) as listener:
        await visit(listener)  # what is kept is made
        with collecting() as left:
            for _ in range(3):
                await visit(listener)
            assert not left()


async def test_starttls_has_a_deadline() -> None:
    client, server = await _pair(None, None)
    with pytest.raises(TimeoutError, match=r"No TLS within 0\.01 seconds"):
        await server.start_tls(certificates.server(), timeout=0.01)
    assert not server.is_alive
    client.abort()


@pytest.mark.no_engine
def test_what_cannot_be_encrypted_says_so() -> None:
    class Other:
        """A kind of connection that has only what `Conn` gives it."""

    other: Any = Other()
    with pytest.raises(OSError, match="Other cannot be encrypted"):
        asyncio.run(Conn.start_tls(other, True))


@pytest.mark.skipif(silly.engine() != "native", reason="native engine only")
async def test_the_end_of_the_handshake_leaves_with_the_first_reply(loop_kind: str) -> None:
    accepted: list[Any] = []

    async def echo(conn: Conn) -> None:
        accepted.append(conn)
        async for line in conn:
            await conn.write(line)

    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        peer = await peers.client(listener.local_addr, peers.client_context(peers.ONLY_1_3))
        with peer.sock:
            while True:
                try:
                    peer.object.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await peer.send_wire(peer.outgoing.read())
                    peer.incoming.write(await peer.loop.sock_recv(peer.sock, 65536))
            await peer.send(b"x\n")  # together with the client's last message
            assert await peer.read() == b"x\n"
            [conn] = accepted
            with socket.socket(fileno=os.dup(conn._fileno)) as sock:
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
            segments = int.from_bytes(info[156:160], sys.byteorder)  # with data; see tcp(7)
            # The handshake; a ticket for the next one, and the reply, if its handler began at once.
            assert segments == 2 or (segments == 3 and loop_kind != "inside")
