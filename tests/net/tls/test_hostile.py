"""Peers that misbehave after the handshake: bounded memory, clear errors, the truth about ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silly.errors import ConnectionClosed, EndOfStream, TruncatedStream
from silly.net import tcp
from silly.net.conn import Conn
from tests.net.tls import certificates, peers
from tests.net.tls.peers import ONLY_1_2, ONLY_1_3, Peer, client_context, server_context

ANY = "127.0.0.1:0"
BOTH = pytest.mark.parametrize("versions", [ONLY_1_2, ONLY_1_3], ids=["1.2", "1.3"])


@contextlib.asynccontextmanager
async def served(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Any, Peer]]:
    """A connection of a listener, and its client over a bare socket."""
    accepted: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    over = asyncio.Event()

    async def handler(conn: Conn) -> None:
        accepted.set_result(conn)
        await over.wait()

    async with tcp.listen(ANY, handler, tls=certificates.server()) as listener:
        peer = await peers.client(listener.local_addr, context)
        with peer.sock:
            await peer.handshake()
            conn = await accepted
            try:
                yield conn, peer
            finally:
                conn.abort()
                over.set()


@contextlib.asynccontextmanager
async def connected(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Any, Peer]]:
    """A connection that was made to a server over a bare socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        loop = asyncio.get_running_loop()
        host, port = server.getsockname()
        task = asyncio.ensure_future(tcp.connect(f"{host}:{port}", tls=certificates.client()))
        sock, _ = await loop.sock_accept(server)
        peer = Peer(sock, context or server_context(), is_server=True)
        with peer.sock:
            await peer.handshake()
            conn = await task
            try:
                yield conn, peer
            finally:
                conn.abort()


Linked = contextlib.AbstractAsyncContextManager[tuple[Any, Peer]]
ROLES: dict[str, tuple[Callable[..., Linked], Any]] = {
    "server": (served, client_context),
    "client": (connected, server_context),
}
BY_ROLE = pytest.mark.parametrize("role", ROLES)


def linked(role: str, versions: peers.Versions | None = None) -> Linked:
    """A connection in the *role*, and its peer."""
    connect, context = ROLES[role]
    return connect(context(versions))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


# ------------------------------------------------------------------------------- ends


@BY_ROLE
@BOTH
async def test_a_stream_that_ends_within_its_last_record_is_cut_off(
    role: str, versions: peers.Versions
) -> None:
    for size in itertools.count():
        async with linked(role, versions) as (conn, peer):
            await peer.send(b"line\nrest")
            with pytest.raises(ssl.SSLWantReadError):
                peer.object.unwrap()
            closing = peer.outgoing.read()
            whole = len(closing)
            sent = size if size < 6 else whole - 1 if size == 6 else whole
            await peer.send_wire(closing[:sent])
            peer.sock.shutdown(socket.SHUT_WR)
            assert await conn.read(b"\n") == b"line\n"
            with pytest.raises(EndOfStream) as caught:
                await conn.read(b"\n")
            assert caught.value.partial == b"rest"
            assert isinstance(caught.value, TruncatedStream) == (sent < whole)
            assert await conn.read() == b"rest"
        if sent == whole:
            break


@BY_ROLE
async def test_data_after_the_announced_end_is_not_read(role: str) -> None:
    async with linked(role) as (conn, peer):
        before = peer.seal(b"before")
        with pytest.raises(ssl.SSLWantReadError):
            peer.object.unwrap()
        await peer.send_wire(before + peer.outgoing.read() + before)
        assert await conn.read(6) == b"before"
        with pytest.raises(EndOfStream) as caught:
            await conn.read(1)
        assert not isinstance(caught.value, TruncatedStream)
        await peer.send_wire(before * 100)
        await conn.write(b"answer")  # writing still works
        assert await peer.read() == b"answer"
        assert conn.unread_bytes == 0


@BY_ROLE
@BOTH
async def test_reading_goes_on_after_close_write(role: str, versions: peers.Versions) -> None:
    async with linked(role, versions) as (conn, peer):
        await conn.write(b"all")
        conn.close_write()
        assert await peer.read() == b"all"
        assert await peer.read() == b""
        for data in (b"x" * 100_000, b"\n"):
            await peer.send(data)
        assert await conn.read(b"\n") == b"x" * 100_000 + b"\n"
        with pytest.raises(ConnectionClosed):
            conn.write(b"x")


@BY_ROLE
@BOTH
async def test_an_alert_ends_the_connection(role: str, versions: peers.Versions) -> None:
    """The peer's OpenSSL sends one because of a byte that was changed."""
    async with linked(role, versions) as (conn, peer):
        await peer.send(b"first")
        conn.write(b"tampered with")
        await asyncio.sleep(0)
        wire = bytearray(await peer.loop.sock_recv(peer.sock, 65536))
        wire[-1] ^= 1
        peer.incoming.write(wire)
        with pytest.raises(ssl.SSLError):
            await peer.read()
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: not conn.is_alive)
        assert await conn.read(5) == b"first"
        with pytest.raises(ssl.SSLError, match="the peer refused: bad record mac") as caught:
            await conn.read(1)
        assert conn.remote_addr in str(caught.value)
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            conn.write(b"x")


@BY_ROLE
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_forged_record_ends_the_connection(role: str, at_once: bool) -> None:
    async with linked(role) as (conn, peer):
        good, forged = peer.seal(b"good"), bytearray(peer.seal(b"forged"))
        forged[-1] ^= 1
        if at_once:
            await peer.send_wire(good + forged)
        else:
            await peer.send_wire(good)
            await until(lambda: conn.unread_bytes == 4)
            await peer.send_wire(bytes(forged))
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: not conn.is_alive)
        assert await conn.read(4) == b"good"
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            await conn.read(1)
        with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
            await peer.read()  # the alert


@BY_ROLE
async def test_what_follows_a_forged_record_changes_nothing(role: str) -> None:
    async with linked(role) as (conn, peer):
        conn.read_limit = 4096
        forged = bytearray(peer.seal(b"forged"))
        forged[-1] ^= 1
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2_000_000)
        await peer.send_wire(bytes(forged) + bytes(500_000))
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: not conn.is_alive)
        for _ in range(1000):
            await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(ssl.SSLError, match="bad record mac"):
                await conn.read(1)


@BY_ROLE
async def test_plaintext_after_the_handshake_is_no_data(role: str) -> None:
    async with linked(role) as (conn, peer):
        await peer.send_wire(b"QUIT\r\n" * 10)
        with pytest.raises(ssl.SSLError):
            await conn.read(1)
        assert not conn.is_alive


# ------------------------------------------------------------------------------- floods


@BY_ROLE
async def test_empty_records_without_end_are_refused(role: str) -> None:
    async with linked(role, ONLY_1_2) as (conn, peer):
        wire = peer.seal(b"x")
        assert len(wire) > 5
        for _ in range(100):
            await peer.send_wire(b"\x17\x03\x03\x00\x00" * 100)
            if not conn.is_alive:
                break
        with pytest.raises(ssl.SSLError):
            await conn.read(1)


async def flood(conn: Any, peer: Peer, message: Callable[[], bytes]) -> None:
    """Send until the connection ends, and take nothing."""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while conn.is_alive:
                await peer.send_wire(message())
                await asyncio.sleep(0)  # sending does not wait as long as the kernel has room
                assert conn.unsent_bytes < conn.max_unsent + 300_000


@BY_ROLE
async def test_key_updates_whose_answers_are_not_taken(role: str) -> None:
    async with linked(role) as (conn, peer):
        conn.max_unsent = 10_000
        conn.linger = 0.01
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.socket(fileno=conn._fileno) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.detach()

        def updates() -> bytes:
            for _ in range(100):
                peer.update_key(requested=True)
                peer.object.write(b"x")
            return peer.seal()

        reading = asyncio.ensure_future(_read_all(conn))
        await flood(conn, peer, updates)
        with pytest.raises(ConnectionAbortedError, match="does not take what it asks for"):
            await reading
        await conn.wait_closed()


async def _read_all(conn: Conn) -> None:
    while True:
        await conn.read()


@BY_ROLE
async def test_key_updates_whose_answers_are_taken(role: str) -> None:
    async with linked(role) as (conn, peer):
        conn.max_unsent = 1000
        for number in range(500):
            peer.update_key(requested=True)
            await peer.send(b"%d\n" % number)
            assert await conn.read(b"\n") == b"%d\n" % number
            await conn.write(b"%d\n" % number)
            assert await peer.read() == b"%d\n" % number


# ------------------------------------------------------------------------- any cut of the wire


@settings(max_examples=20)
@given(
    st.lists(st.binary(max_size=50).map(lambda data: data.replace(b"\n", b".")), max_size=8),
    st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=16),
)
@pytest.mark.parametrize("role", ROLES)
def test_any_cut_of_the_wire_gives_the_same_lines(
    role: str, lines: list[bytes], cuts: list[tuple[int, bool]]
) -> None:
    async def main() -> None:
        async with linked(role) as (conn, peer):
            wire = b"".join(peer.seal(line + b"\n") for line in lines) + peer.seal(b"x" * 20_000)
            with pytest.raises(ssl.SSLWantReadError):
                peer.object.unwrap()
            wire += peer.outgoing.read()

            async def send() -> None:
                left = wire
                for cut, pause in [*cuts, (len(wire), False)]:
                    await peer.send_wire(left[:cut])
                    left = left[cut:]
                    if pause:
                        await asyncio.sleep(0)

            sending = asyncio.ensure_future(send())
            assert [line async for line in conn] == [line + b"\n" for line in lines] + [
                b"x" * 20_000
            ]
            await sending

    asyncio.run(main())


@BY_ROLE
async def test_a_record_of_the_greatest_length_byte_by_byte(role: str) -> None:
    async with linked(role) as (conn, peer):
        wire = peer.seal(b"x" * 16_384)

        async def send() -> None:
            for at in range(len(wire)):
                await peer.send_wire(wire[at : at + 1])
                if at % 8 == 0:
                    await asyncio.sleep(0)

        sending = asyncio.ensure_future(send())
        assert await conn.read(16_384) == b"x" * 16_384
        await sending


@BY_ROLE
async def test_a_record_that_is_too_long(role: str) -> None:
    async with linked(role) as (conn, peer):
        await peer.send_wire(b"\x17\x03\x03\x48\x00" + bytes(0x4800))
        with pytest.raises(ssl.SSLError, match="length"):
            await conn.read(1)
