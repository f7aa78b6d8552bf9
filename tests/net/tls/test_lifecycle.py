"""Handshakes and encrypted connections that are cancelled, drained, or freed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
from collections.abc import Iterator

import pytest

from silly.net import tcp
from silly.net.conn import Conn
from silly.net.tcp import Limits
from tests.net.tls import certificates, peers
from tests.net.tls.peers import Peer, client, client_context, connected
from tests.test_forks import Child

ANY = "127.0.0.1:0"


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def until(condition: object) -> None:
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def half(listener: tcp.Listener) -> Peer:
    """A client in the middle of its handshake: it has the server's answer."""
    peer = await client(listener.local_addr)
    with pytest.raises(ssl.SSLWantReadError):
        peer.object.do_handshake()
    await peer.send_wire(peer.outgoing.read())
    peer.incoming.write(await peer.loop.sock_recv(peer.sock, 65536))
    return peer


# ---------------------------------------------------------------------------- draining


async def test_a_handshake_in_progress_is_completed_while_the_listener_drains() -> None:
    listener = tcp.listen(ANY, echo, tls=certificates.server())
    peer = await half(listener)
    with peer.sock:
        closing = listener.close(grace=30)
        await peer.handshake()
        await peer.send(b"hello\n")
        assert await peer.read() == b"hello\n"
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.object.unwrap()
        await peer.send()
        assert await peer.do(peer.object.unwrap) is None
    await closing
    assert listener.stats.accepted == 1


@pytest.mark.parametrize("grace", [0, 0.05])
async def test_a_handshake_that_stalls_ends_with_the_grace_period(grace: float) -> None:
    listener = tcp.listen(ANY, echo, tls=certificates.server())
    peer, silent = await half(listener), await connected(listener.local_addr)
    with peer.sock, silent:
        await until(lambda: listener.connections == 2)
        await listener.close(grace=grace)
        assert listener.connections == 0
        with pytest.raises(ConnectionResetError):
            await peer.handshake()
    assert listener.stats.accepted == 0


async def test_handshakes_that_wait_for_their_turn_end_with_the_listener() -> None:
    limits = Limits(max_handshakes_per_client=1)
    listener = tcp.listen(ANY, echo, tls=certificates.server(), limits=limits)
    peer = await half(listener)
    others = [await peers.client(listener.local_addr) for _ in range(5)]
    for other in others:
        with pytest.raises(ssl.SSLWantReadError):
            other.object.do_handshake()
        await other.send()
    await until(lambda: listener.connections == 6)
    await listener.close(grace=0)
    assert listener.connections == 0
    for each in (peer, *others):
        each.sock.close()


async def test_a_client_with_too_many_handshakes_waits() -> None:
    limits = Limits(max_handshakes_per_client=1)
    async with tcp.listen(ANY, echo, tls=certificates.server(), limits=limits) as listener:
        peer = await half(listener)
        with peer.sock:
            task = asyncio.ensure_future(
                tcp.connect(listener.local_addr, tls=certificates.client())
            )
            await until(lambda: listener.connections == 2)
            for _ in range(50):
                await asyncio.sleep(0)
            assert not task.done()
        async with await task as conn:  # the other one is over
            await conn.write(b"x\n")
            assert await conn.read(b"\n") == b"x\n"


async def test_clients_that_leave_while_they_wait_hold_up_nobody() -> None:
    limits = Limits(max_handshakes_per_client=1)
    async with tcp.listen(ANY, echo, tls=certificates.server(), limits=limits) as listener:
        peer = await half(listener)
        for _ in range(5):
            other = await peers.client(listener.local_addr)
            with pytest.raises(ssl.SSLWantReadError):
                other.object.do_handshake()
            await other.send()
            await until(lambda: listener.connections == 2)
            other.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            other.sock.close()
            await until(lambda: listener.connections == 1)
        peer.sock.close()
        async with await tcp.connect(listener.local_addr, tls=certificates.client()) as conn:
            await conn.write(b"x\n")
            assert await conn.read(b"\n") == b"x\n"
        assert listener.stats.refused == {"handshake": 6}


async def test_a_handshake_has_no_task() -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        before = asyncio.all_tasks()
        peer = await half(listener)
        with peer.sock:
            assert asyncio.all_tasks() == before
            assert listener.connections == 1


async def test_a_first_message_longer_than_the_read_limit() -> None:
    limits = Limits(read_limit=64)
    async with tcp.listen(ANY, echo, tls=certificates.server(), limits=limits) as listener:
        peer = await peers.client(listener.local_addr)
        with peer.sock:
            with pytest.raises(ssl.SSLWantReadError):
                peer.object.do_handshake()
            hello = peer.outgoing.read()
            assert len(hello) > 2 * 64 + 100
            await peer.send_wire(hello[:100])
            await until(lambda: listener.stats.bytes_in >= 100)
            await peer.send_wire(hello[100:])
            await peer.handshake()
            await peer.send(b"x\n")
            assert await peer.read() == b"x\n"


# -------------------------------------------------------------------------- cancelling


@pytest.mark.parametrize("role", ["server", "client"])
async def test_start_tls_is_cancelled(role: str) -> None:
    accepted: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    async def handler(conn: Conn) -> None:
        accepted.set_result(conn)
        await conn.wait_closed()

    async with tcp.listen(ANY, handler) as listener:
        one = await tcp.connect(listener.local_addr)
        other = await accepted
        if role == "server":
            task = asyncio.ensure_future(one.start_tls(certificates.server()))
        else:
            task = asyncio.ensure_future(one.start_tls(certificates.client()))
            assert await other.read(1) == b"\x16"
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not one.is_alive
        with pytest.raises(ConnectionResetError):
            while True:
                await other.read()


async def test_a_reader_is_cancelled_and_nothing_is_lost() -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        conn = await tcp.connect(listener.local_addr, tls=certificates.client())
        for number in range(20):
            await conn.write(b"%d\n" % number)
            reading = asyncio.ensure_future(conn.read(b"\n"))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            if reading.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await reading
                assert await conn.read(b"\n") == b"%d\n" % number
            else:
                assert await reading == b"%d\n" % number
        conn.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
async def test_a_forked_child_does_not_end_its_parents_connections() -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        conn = await tcp.connect(listener.local_addr, tls=certificates.client())
        peer = await half(listener)  # its handshake is in progress
        with peer.sock:

            def act() -> None:
                with contextlib.suppress(OSError):
                    conn.write(b"not sent\n")
                conn.close()
                conn.abort()

            assert Child(act).end() == 0
            await peer.handshake()
            for number in range(3):
                await conn.write(b"%d\n" % number)
                assert await conn.read(b"\n") == b"%d\n" % number
        conn.close()


# ----------------------------------------------------------------------------- freeing


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def objects() -> int:
    return sum(isinstance(each, ssl.SSLObject) for each in gc.get_objects())


async def whole(addr: str) -> None:
    async with tcp.connect(addr, tls=certificates.client()) as conn:
        await conn.write(b"x\n")
        assert await conn.read(b"\n") == b"x\n"


async def distrusting(addr: str) -> None:
    ours = peers.client_context()
    ours.verify_mode = ssl.CERT_REQUIRED
    with pytest.raises(ssl.SSLCertVerificationError):
        await tcp.connect(addr, tls=ours)


async def without_cipher(addr: str) -> None:
    peer = await client(addr, client_context(peers.ONLY_1_2, ciphers="AES128-SHA"))
    with peer.sock, pytest.raises(ssl.SSLError):
        await peer.handshake()


async def leaving(addr: str) -> None:
    peer = await client(addr)
    with peer.sock:
        with pytest.raises(ssl.SSLWantReadError):
            peer.object.do_handshake()
        await peer.send()


async def forging(addr: str) -> None:
    peer = await client(addr)
    with peer.sock:
        await peer.handshake()
        await peer.send_wire(b"\x17\x03\x03\x00\x20" + bytes(32))
        await peers.receive_all(peer.sock)


async def aborting(addr: str) -> None:
    conn = await tcp.connect(addr, tls=certificates.client())
    conn.abort()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("visit", [whole, distrusting, without_cipher, leaving, forging, aborting])
async def test_no_session_of_openssl_is_left(visit: object) -> None:
    """Also before the garbage collector runs: it does not know how large they are."""
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        await visit(listener.local_addr)  # type: ignore[operator]
        await until(lambda: not listener.connections)
        await asyncio.sleep(0)
        before = objects()
        for _ in range(5):
            await visit(listener.local_addr)  # type: ignore[operator]
        await until(lambda: not listener.connections)
        for _ in range(5):
            await asyncio.sleep(0)
        assert objects() <= before
