"""UDP sockets, on both engines: what they promise, and that every datagram is counted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pickle
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import silly
from silly import task
from silly._loop.live import Live
from silly.errors import ConcurrentRead, ConnectionClosed, WriteQueueFull
from silly.net import udp
from silly.net.datagrams import EngineSocket
from silly.net.opening import totals

ANY = "127.0.0.1:0"
DEADLINE = 20.0

has_ipv6 = socket.has_ipv6 and os.path.exists("/proc/net/if_inet6")  # noqa: PTH110


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[udp.Socket, udp.Socket]]:
    """A bound socket with *options*, and one that is connected to it."""
    async with udp.bind(ANY, **options) as sock, udp.connect(sock.local_addr) as client:
        yield sock, client


def arrived(stats: udp.SocketStats) -> int:
    """How many datagrams reached the socket, by all counts."""
    assert stats.dropped_by_kernel is not None
    return (
        stats.received
        + stats.unread
        + stats.dropped_by_kernel
        + stats.dropped_by_queue
        + stats.truncated
    )


# ---------------------------------------------------------------------- both ways


async def test_it_is_bound_on_return_and_echoes() -> None:
    async with udp.bind(ANY) as sock:
        port = int(sock.local_addr.rpartition(":")[2])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.bind(("127.0.0.1", 0))
            client.sendto(b"hello", ("127.0.0.1", port))
            data, peer = await sock.recv(timeout=DEADLINE)
            assert data == b"hello"
            assert str(peer) == f"127.0.0.1:{client.getsockname()[1]}"
            assert (peer.host, peer.port) == client.getsockname()
            sock.send(data, peer)
            await until(lambda: sock.stats.sent == 1)
            assert client.recvfrom(100) == (b"hello", ("127.0.0.1", port))
        assert sock.is_bound
        assert sock.peer is None


async def test_a_loop_answers_many_clients_in_order() -> None:
    async with udp.bind(ANY) as sock:

        async def echo() -> None:
            async for data, peer in sock:
                sock.send(data, peer)

        serving = asyncio.create_task(echo())
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(udp.connect(sock.local_addr)) for _ in range(10)
            ]
            for number in range(20):
                for client in clients:
                    await client.send(b"%d" % number)
                for client in clients:
                    data, peer = await client.recv(timeout=DEADLINE)
                    assert data == b"%d" % number
                    assert peer == client.peer
        sock.close()
        await serving
        stats = sock.stats
        assert stats.received == stats.sent == 200
        assert stats.bytes_in == stats.bytes_out == 10 * (10 * 1 + 10 * 2)


async def test_an_empty_datagram_is_one_and_the_longest_arrives_whole() -> None:
    async with pair() as (sock, client):
        client.send(b"")
        client.send(bytearray(b"x") * 65507)
        client.send(memoryview(b"end"))
        assert (await sock.recv(timeout=DEADLINE))[0] == b""
        assert (await sock.recv(timeout=DEADLINE))[0] == b"x" * 65507
        assert (await sock.recv(timeout=DEADLINE))[0] == b"end"
        assert sock.stats.received == 3


async def test_what_is_sent_in_one_turn_arrives_in_order() -> None:
    async with pair() as (sock, client):
        for number in range(150):
            client.send(b"%d" % number)
        got = [(await sock.recv(timeout=DEADLINE))[0] for _ in range(150)]
        assert got == [b"%d" % number for number in range(150)]
        assert client.stats.sent == 150
        assert client.stats.unsent == 0


async def test_it_works_from_a_forked_task_a_plain_task_and_a_callback() -> None:
    async with pair() as (sock, client):
        reading = task.fork(sock.recv())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(client.send, b"one")
        assert (await reading)[0] == b"one"
        plain = asyncio.create_task(sock.recv())
        client.send(b"two")
        assert (await plain)[0] == b"two"


# -------------------------------------------------------------------------- peers


async def test_peers_are_hashable_comparable_and_have_text() -> None:
    async with udp.bind(ANY) as sock, udp.bind(ANY) as one, udp.bind(ANY) as two:
        for sender in (one, two, one):
            sender.send(b"x", sock.local_addr)
            await until(lambda: sock.stats.unread > 0)
        first, second, third = [(await sock.recv(timeout=DEADLINE))[1] for _ in range(3)]
        assert first == third
        assert hash(first) == hash(third)
        assert first != second
        assert first != "127.0.0.1"
        assert len({first, second, third}) == 2
        assert str(first) == f"{first}" == one.local_addr
        assert repr(first) == f"<Peer {one.local_addr}>"
        assert pickle.loads(pickle.dumps(first)) == first
        assert await sock.resolve(one.local_addr) == first
        assert isinstance(first, udp.Peer)


@pytest.mark.skipif(not has_ipv6, reason="no IPv6")
async def test_ipv6_peers_have_text() -> None:
    async with udp.bind(":0") as both, udp.bind(ANY) as sock:
        peers = [await both.resolve(f"[{host}]:53") for host in ("2001:db8::7", "::1")]
        assert [str(peer) for peer in peers] == ["[2001:db8::7]:53", "[::1]:53"]
        assert [peer.host for peer in peers] == ["2001:db8::7", "::1"]
        assert pickle.loads(pickle.dumps(peers)) == peers
        for peer in peers:
            with pytest.raises(ValueError, match="is an IPv6 address"):
                sock.send(b"x", peer)


@pytest.mark.skipif(not has_ipv6, reason="no IPv6")
async def test_a_peer_of_one_socket_is_answered_from_another() -> None:
    async with udp.bind(":0") as both, udp.bind(ANY) as other, udp.bind(ANY) as client:
        port = both.local_addr.rpartition(":")[2]
        client.send(b"x", f"127.0.0.1:{port}")
        _, peer = await both.recv(timeout=DEADLINE)
        other.send(b"y", peer)
        data, sender = await client.recv(timeout=DEADLINE)
        assert (data, str(sender)) == (b"y", other.local_addr)
        both.send(b"z", sender)
        assert (await other.recv(timeout=DEADLINE))[0] == b"z"


@pytest.mark.skipif(not has_ipv6, reason="no IPv6")
async def test_all_interfaces_are_ipv4_and_ipv6_on_one_socket() -> None:
    async with udp.bind(":0") as sock:
        assert sock.local_addr.startswith(":")
        port = sock.local_addr.removeprefix(":")
        for host in ("127.0.0.1", "127.0.0.3", "[::1]"):
            async with udp.connect(f"{host}:{port}") as client:
                client.send(b"question")
                _, peer = await sock.recv(timeout=DEADLINE)
                assert str(peer) == client.local_addr
                sock.send(b"answer", peer)  # leaves from *host*, or the client would not get it
                assert (await client.recv(timeout=DEADLINE))[0] == b"answer"
                sock.send(b"text", client.local_addr)
                if host != "127.0.0.3":
                    assert (await client.recv(timeout=DEADLINE))[0] == b"text"
                else:  # from 127.0.0.1, which is not the client's peer
                    await until(lambda: sock.stats.unsent == 0)
                assert await sock.resolve(client.local_addr) == peer
                async with udp.bind(client.local_addr.rpartition(":")[0] + ":0") as other:
                    other.send(b"same", f"{host}:{port}")
                    assert (await sock.recv(timeout=DEADLINE))[1].host == peer.host


async def test_answers_leave_from_where_the_question_came_to() -> None:
    async with udp.bind("0.0.0.0:0") as sock:
        port = sock.local_addr.rpartition(":")[2]
        async with udp.connect(f"127.0.0.7:{port}") as client:
            client.send(b"question")
            data, peer = await sock.recv(timeout=DEADLINE)
            sock.send(data, peer)
            answer, server = await client.recv(timeout=DEADLINE)
            assert answer == b"question"
            assert server == client.peer


async def test_what_to_send_is_checked() -> None:
    async def data() -> bytes:
        return b""

    async with udp.bind(ANY) as sock:
        not_awaited: Any = data()
        for wrong, text in (("text", "not str"), (not_awaited, "await"), (7, "bytes")):
            with pytest.raises(TypeError, match=text):
                sock.send(wrong, sock.local_addr)  # type: ignore[arg-type]
        not_awaited.close()


async def test_where_to_send_is_checked() -> None:
    async with pair() as (sock, client):
        for peer, error, text in (
            (None, TypeError, "peer is missing"),
            (7, TypeError, "peer must be the sender"),
            ("localhost:1", ValueError, "await sock.resolve"),
            ("127.0.0.1:0", ValueError, "port 0"),
            ("unix:/x", ValueError, "no UDP"),
            ("[::1]:9", ValueError, "IPv6"),
        ):
            with pytest.raises(error, match=text):
                sock.send(b"x", peer)  # type: ignore[arg-type]
        for data in ("text", 7, None):
            with pytest.raises(TypeError, match="data must be bytes"):
                client.send(data)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="65,507 bytes at most"):
            client.send(bytes(65508))
        with pytest.raises(ValueError, match="connected to"):
            client.send(b"x", "127.0.0.1:9")
        client.send(b"to its peer", sock.local_addr)
        assert (await sock.recv(timeout=DEADLINE))[0] == b"to its peer"
        assert sock.stats.sent == 0


async def test_names_are_resolved() -> None:
    async with udp.bind("localhost:0") as sock, udp.connect(sock.local_addr) as client:
        client.send(b"x")
        assert (await sock.recv(timeout=DEADLINE))[0] == b"x"
        peer = await sock.resolve("localhost:" + sock.local_addr.rpartition(":")[2])
        assert str(peer) == sock.local_addr


async def test_names_that_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: object) -> Any:
        await asyncio.Event().wait()

    async def late(_: object) -> Any:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")  # of the system's resolver

    def unknown(*_: object, **named: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def unknown_soon(*_: object, **named: object) -> Any:
        unknown()

    async with udp.bind(ANY) as sock:
        with pytest.raises(OSError, match=r"no address of the family of 127\.0\.0\.1") as told:
            await sock.resolve("[::1]:9")
        assert told.value.errno == errno.EAFNOSUPPORT
    monkeypatch.setattr("silly.net.binding.getaddrinfo_now", unknown)
    with pytest.raises(socket.gaierror, match=r"Name or service not known: 'a\.test:9'"):
        udp.bind("a.test:9")
    with monkeypatch.context() as patch:
        patch.setattr("silly.net.binding.getaddrinfo", unknown_soon)
        with pytest.raises(socket.gaierror, match=r"Name or service not known: 'a\.test:9'"):
            await udp.connect("a.test:9")
    monkeypatch.setattr("silly.net.opening.find", late)
    with pytest.raises(TimeoutError, match="Connection timed out"):
        await udp.connect("a.test:9", timeout=None)
    monkeypatch.setattr("silly.net.opening.find", never)
    with pytest.raises(TimeoutError, match=r"Not resolved within 0\.01 seconds: 'a\.test:9'"):
        await udp.connect("a.test:9", timeout=0.01)


# ------------------------------------------------------------------ ends of reads


async def test_a_timeout_loses_nothing() -> None:
    async with pair() as (sock, client):
        with pytest.raises(TimeoutError, match=r"No datagram within 0\.01 seconds: '127") as caught:
            await sock.recv(timeout=0.01)
        assert caught.value.filename == sock.local_addr
        with pytest.raises(TimeoutError, match="within 0 seconds"):
            await sock.recv(timeout=0)
        client.send(b"late")
        await until(lambda: sock.stats.unread == 1)
        assert (await sock.recv(timeout=0))[0] == b"late"
        with pytest.raises(ValueError, match="timeout must be"):
            await sock.recv(timeout=-1)


async def test_cancellation_loses_nothing() -> None:
    async with pair() as (sock, client):
        for number in range(30):
            reading = asyncio.create_task(sock.recv())
            await asyncio.sleep(0)
            client.send(b"%d" % number)
            for _ in range(number % 4):
                await asyncio.sleep(0)
            reading.cancel()
            try:
                data, _ = await reading
            except asyncio.CancelledError:
                data, _ = await sock.recv(timeout=DEADLINE)
            assert data == b"%d" % number


async def test_one_task_receives() -> None:
    async with pair() as (sock, client):
        reading = asyncio.create_task(sock.recv())
        await asyncio.sleep(0)
        with pytest.raises(ConcurrentRead, match="another task is receiving"):
            await sock.recv()
        with pytest.raises(ConcurrentRead):
            async for _ in sock:
                pass
        client.send(b"x")
        assert (await reading)[0] == b"x"
        with pytest.warns(RuntimeWarning, match=r"'Socket.recv' was never awaited"):
            sock.recv()  # type: ignore[unused-coroutine]
        if silly.engine() == "native":  # where warnings are errors, it is none of the caller's
            with warnings.catch_warnings(action="error"):
                sock.recv()  # type: ignore[unused-coroutine]


async def test_close_ends_what_waits() -> None:
    async with pair() as (sock, client):

        async def loop() -> str:
            async for _ in sock:
                pass
            return "ended"

        iterating = asyncio.create_task(loop())
        reading = asyncio.create_task(client.recv())
        waiting = asyncio.create_task(sock.wait_closed())
        await asyncio.sleep(0)
        sock.close()
        sock.close()
        client.close()
        assert await iterating == "ended"
        await waiting
        with pytest.raises(ConnectionClosed, match="socket closed") as caught:
            await reading
        assert caught.value.address == sock.local_addr
        with pytest.raises(ConnectionClosed):
            sock.send(b"x", client.local_addr)
        with pytest.raises(ConnectionClosed):
            await sock.recv()
        async for _ in sock:
            raise AssertionError
        assert not sock.is_open
        assert "closed" in repr(sock)
        async with udp.bind(sock.local_addr):  # the port is free
            pass


async def test_what_was_sent_before_close_leaves_and_what_is_unread_is_counted() -> None:
    async with pair() as (sock, client):
        for number in range(10):
            client.send(b"%d" % number)
        client.close()
        assert client.stats.sent == 10
        await sock.recv(timeout=DEADLINE)
        sock.close()
        stats = sock.stats
        assert (stats.received, stats.dropped_by_queue, stats.unread) == (1, 9, 0)


async def test_a_socket_is_closed_by_its_own_loop() -> None:
    async with pair() as (sock, client):
        client.send(b"1")
        client.send(b"2")
        await until(lambda: sock.stats.unread == 2)
        got = []
        async for data, _ in sock:
            got.append(data)
            sock.close()
        assert got == [b"1"]
        assert sock.stats.dropped_by_queue == 1


async def test_errors_of_the_network_are_raised_once_and_counted() -> None:
    async with udp.bind(ANY) as gone:
        address = gone.local_addr
    async with udp.connect(address) as client:
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError) as caught:
            await client.recv(timeout=DEADLINE)
        assert caught.value.filename == address
        async with udp.bind(address) as sock:
            client.send(b"y")
            data, peer = await sock.recv(timeout=DEADLINE)
            sock.send(data, peer)
            assert (await client.recv(timeout=DEADLINE))[0] == b"y"
        assert client.stats.receive_errors == {"ECONNREFUSED": 1}
        client.send(b"1")
        client.send(b"2")  # sending may be told first; this is sent nevertheless
        await asyncio.sleep(0)
        client.send(b"3")
        with pytest.raises(ConnectionRefusedError):
            await client.recv(timeout=DEADLINE)
        await until(lambda: client.stats.unsent == 0)
        assert client.stats.sent == 5
        assert not client.stats.send_errors


async def test_a_waiting_reader_learns_of_an_error_that_sending_was_told() -> None:
    async with udp.bind(ANY) as gone:
        address = gone.local_addr
    async with udp.connect(address) as client:
        reading = asyncio.create_task(client.recv(timeout=DEADLINE))
        await asyncio.sleep(0)
        for _ in range(200):  # some are told what became of those before
            client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            await reading
        await until(lambda: client.stats.unsent == 0)
        assert client.stats.sent == 200
        assert not client.stats.send_errors


# --------------------------------------------------------------- bounds and counts


async def test_the_receive_queue_is_bounded_in_datagrams() -> None:
    async with pair(max_queued=10) as (sock, client):
        for number in range(50):
            await client.send(b"%d" % number)
        await until(lambda: arrived(sock.stats) == 50)
        assert (sock.stats.unread, sock.stats.dropped_by_queue) == (10, 40)
        got = [(await sock.recv(timeout=0))[0] for _ in range(10)]
        assert got == [b"%d" % number for number in range(10)]
        client.send(b"again")
        assert (await sock.recv(timeout=DEADLINE))[0] == b"again"


async def test_the_receive_queue_is_bounded_in_bytes() -> None:
    async with pair(read_limit=1000) as (sock, client):
        client.send(bytes(5000))  # an empty queue takes one of any length
        for _ in range(10):
            client.send(bytes(400))
        await until(lambda: arrived(sock.stats) == 11)
        assert (sock.stats.unread, sock.stats.unread_bytes) == (1, 5000)
        assert len((await sock.recv())[0]) == 5000
        for _ in range(10):
            client.send(bytes(400))
        await until(lambda: arrived(sock.stats) == 21)
        assert (sock.stats.unread, sock.stats.unread_bytes) == (2, 800)


async def test_longer_datagrams_are_dropped_and_counted() -> None:
    async with pair(max_datagram=100) as (sock, client):
        for length in (100, 101, 5000, 65507, 99):
            client.send(bytes(length))
        assert len((await sock.recv(timeout=DEADLINE))[0]) == 100
        assert len((await sock.recv(timeout=DEADLINE))[0]) == 99
        assert sock.stats.truncated == 3
        assert arrived(sock.stats) == 5


async def test_what_the_kernel_drops_is_counted() -> None:
    async with udp.bind(ANY, receive_buffer=1) as sock:
        host, port = sock.local_addr.split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(1000):
                client.sendto(b"x" * 100, (host, int(port)))
        await until(lambda: arrived(sock.stats) == 1000)
        stats = sock.stats
        assert stats.dropped_by_kernel
        assert stats.unread > 0
    assert arrived(sock.stats) == 1000  # also afterwards


@pytest.mark.heavy
async def test_a_flood_of_ten_times_what_is_served_is_bounded_and_counted() -> None:
    async with pair(max_queued=500, read_limit=200_000) as (sock, client):
        served = most = 0
        for number in range(3000):
            for _ in range(10):
                await client.send(bytes(1000))
            if number % 2:
                await asyncio.sleep(0)
            stats = sock.stats
            most = max(most, stats.unread_bytes)
            assert stats.unread <= 500
            if stats.unread:
                await sock.recv()
                served += 1
        await until(lambda: client.stats.sent == 30_000)
        await until(lambda: arrived(sock.stats) == 30_000)
        assert served > 1000
        assert 100_000 < most <= 200_000
        assert sock.stats.dropped_by_queue + (sock.stats.dropped_by_kernel or 0) > 20_000
        assert sock.stats.received == served


async def test_what_the_system_refuses_to_send_is_counted_by_error() -> None:
    async with udp.bind(ANY) as sock, udp.bind(ANY) as other:
        sock.send(b"1", other.local_addr)
        sock.send(b"lost", "255.255.255.255:9")  # EACCES: broadcast is not asked for
        sock.send(b"2", other.local_addr)
        assert (await other.recv(timeout=DEADLINE))[0] == b"1"
        assert (await other.recv(timeout=DEADLINE))[0] == b"2"
        (error,) = sock.stats.send_errors
        assert error in {"EACCES", "ENETUNREACH", "EINVAL"}
        assert sock.stats.sent == 2
        assert sock.stats.unsent_bytes == 0


class Full:
    """A socket of the engine whose operating system takes nothing more, and its other end.

    A Unix socket: unlike loopback, it has a bounded queue, which stops its sender. The
    portable engine's needs an address of the form that it knows.
    """

    def __init__(self, *, max_queued: int, max_unsent: int = 1 << 20, strict: bool = False) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        self.theirs.setblocking(False)
        if silly.engine() == "portable":
            ours = _Named(fileno=ours.detach())
        loop = asyncio.get_running_loop()
        limits = (65535, max_queued, 1 << 20, max_unsent, strict)
        live = Live.of(loop)
        self.sock: udp.Socket = EngineSocket(ours, loop, live, limits=limits)
        self.sock._is_dual = False
        live.add_socket(self.sock)

    def take(self) -> list[bytes]:
        taken = []
        with contextlib.suppress(BlockingIOError):
            while True:
                taken.append(self.theirs.recv(1000))
        return taken

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()
        self.theirs.close()


class _Named(socket.socket):
    def getsockname(self) -> Any:
        return ("127.0.0.1", 1)

    getpeername = getsockname


@pytest.mark.parametrize("most", [100, 1000])
async def test_a_full_send_queue_drops_and_counts(most: int) -> None:
    async with Full(max_queued=most) as full:
        sock = full.sock
        for number in range(3000):
            sock.send(b"%04d" % number)
        await asyncio.sleep(0)
        stats = sock.stats
        assert stats.unsent == most
        assert stats.unsent_bytes == 4 * most
        assert stats.sent + stats.unsent + stats.send_dropped == 3000
        taken = full.take()
        async with asyncio.timeout(DEADLINE):
            while sock.stats.unsent:
                await asyncio.sleep(0)
                taken += full.take()
        taken += full.take()
        assert taken == [b"%04d" % number for number in range(stats.sent + most)]
        assert sock.stats.sent == stats.sent + most


async def test_strict_raises_instead() -> None:
    async with Full(max_queued=5) as full:
        with pytest.raises(WriteQueueFull, match="5 datagrams"):
            for _ in range(1000):
                full.sock.send(b"x", strict=True)
        dropped = full.sock.stats.send_dropped
        full.sock.send(b"x")
        assert full.sock.stats.send_dropped == dropped + 1
    async with Full(max_queued=5, strict=True) as full:
        with pytest.raises(WriteQueueFull):
            for _ in range(1000):
                full.sock.send(b"x")
        full.sock.send(b"x", strict=False)
    async with Full(max_queued=1000, max_unsent=100) as full:
        with pytest.raises(WriteQueueFull, match="bytes"):
            for _ in range(1000):
                full.sock.send(b"x" * 60, strict=True)
        assert full.sock.stats.unsent == 1


async def test_awaiting_send_waits_for_room_and_loses_nothing() -> None:
    async with Full(max_queued=20) as full:
        taken: list[bytes] = []

        async def send() -> None:
            for number in range(500):
                await full.sock.send(b"%03d" % number)

        sending = asyncio.create_task(send())
        async with asyncio.timeout(DEADLINE):
            while len(taken) < 500:
                await asyncio.sleep(0)
                taken += full.take()
        await sending
        assert taken == [b"%03d" % number for number in range(500)]
        assert full.sock.stats.send_dropped == 0


async def test_a_wait_for_room_ends_with_the_socket() -> None:
    async with Full(max_queued=20) as full:

        async def send() -> None:
            while True:
                await full.sock.send(b"x")

        sending = asyncio.create_task(send())
        await until(lambda: full.sock.stats.unsent > 10)
        await asyncio.sleep(0)
        full.sock.close()
        with pytest.raises(ConnectionClosed):
            await sending
        stats = full.sock.stats
        assert stats.unsent == 0
        assert stats.send_dropped > 10


class Turns:
    """Counts the turns that another task gets."""

    def __init__(self) -> None:
        self.count = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._task.cancel()


async def test_sending_without_end_lets_others_run() -> None:
    async with pair() as (_, client):
        turns = Turns()
        for _ in range(5000):
            await client.send(b"x")
        assert turns.count > 2
        turns.stop()


async def test_receiving_without_end_lets_others_run() -> None:
    async with pair() as (sock, client):
        for _ in range(2500):
            client.send(b"x")
            await until(lambda: client.stats.unsent == 0)
        await until(lambda: arrived(sock.stats) == 2500)
        unread = sock.stats.unread
        turns = Turns()
        for _ in range(unread):
            await sock.recv()
        assert unread < 1100 or turns.count >= 1
        turns.stop()


@pytest.mark.heavy
@settings(max_examples=30)
@given(
    actions=st.lists(
        st.tuples(st.sampled_from(["send", "send long", "read", "turn", "cancel"]),
                  st.integers(1, 40)),
        max_size=30,
    ),
    max_queued=st.integers(1, 50),
    read_limit=st.integers(1, 3000),
)  # fmt: skip
def test_every_datagram_is_counted_once_and_order_is_kept(
    actions: list[tuple[str, int]], max_queued: int, read_limit: int
) -> None:
    async def main() -> None:
        async with pair(max_queued=max_queued, read_limit=read_limit, max_datagram=500) as (
            sock,
            client,
        ):
            sent = 0
            got: list[int] = []

            async def read(count: int) -> None:
                for _ in range(count):
                    data, _ = await sock.recv(timeout=0)
                    got.append(int(data))

            for action, count in actions:
                if action.startswith("send"):
                    for _ in range(count):
                        client.send((b"%d" % sent).ljust(600 if action == "send long" else 20))
                        sent += 1
                elif action == "read":
                    with contextlib.suppress(TimeoutError):
                        await read(count)
                elif action == "turn":
                    for _ in range(count):
                        await asyncio.sleep(0)
                else:
                    reading = asyncio.create_task(read(count))
                    await asyncio.sleep(0)
                    reading.cancel()
                    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                        await reading
            await until(lambda: client.stats.sent == sent)
            await until(lambda: arrived(sock.stats) == sent)
            with contextlib.suppress(TimeoutError):
                await read(sent + 1)
            stats = sock.stats
            assert stats.unread == stats.unread_bytes == 0
            assert stats.received == len(got)
            assert got == sorted(set(got))
            sock.close()
            assert arrived(sock.stats) == sent

    silly.run(main())


# -------------------------------------------------------------- binding, multicast


async def test_errors_of_binding_name_the_address() -> None:
    async with udp.bind(ANY) as sock:
        with pytest.raises(OSError, match="another program uses the port") as caught:
            udp.bind(sock.local_addr)
        assert caught.value.filename == sock.local_addr
    with pytest.raises(OSError, match="no interface"):
        udp.bind("192.0.2.77:0")
    for addr, text in (("unix:/tmp/x", "no UDP"), ("nonsense", "no port")):
        with pytest.raises(ValueError, match=text):
            udp.bind(addr)
    with pytest.raises(ValueError, match="port 0"):
        udp.connect(ANY)
    with pytest.raises(OSError, match="family"):
        await udp.connect("127.0.0.1:9", bind="[::1]:0")


async def test_what_the_system_refuses_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **named: object) -> Any:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    with pytest.raises(OSError, match=r"'255\.255\.255\.255:9'"):  # broadcast is not asked for
        await udp.connect("255.255.255.255:9")
    async with udp.bind(":0") as sock:
        with pytest.raises(OSError, match="another program uses the port"):
            udp.bind(f":{sock.local_addr.rpartition(':')[2]}")
    with monkeypatch.context() as patch:
        patch.setattr("silly.net.opening.EngineSocket", refuse)
        with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
            udp.bind(ANY)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as passed:
        passed.bind(("127.0.0.1", 0))
        addr = "{}:{}".format(*passed.getsockname())
        with monkeypatch.context() as patch:
            patch.setattr("silly.net.binding.activated_sockets", lambda *_, **named: [passed])
            patch.setattr("silly.net.binding.SocketOptions.join", refuse)
            with pytest.raises(OSError, match=f"{os.strerror(errno.ENOBUFS)}: '{addr}'"):
                udp.bind(addr)


@pytest.mark.parametrize("error", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_without_ipv6_every_interface_is_every_one_of_ipv4(
    monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    bind = socket.socket.bind

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(error, os.strerror(error))
        bind(self, address)

    monkeypatch.setattr(socket.socket, "bind", refuse)
    async with udp.bind(":0") as sock:
        assert sock.local_addr.startswith("0.0.0.0:")


def test_a_loop_is_needed() -> None:
    with pytest.raises(RuntimeError, match="running event loop"):
        udp.bind(ANY)


@pytest.mark.parametrize(
    "option", ["max_datagram", "max_queued", "read_limit", "max_unsent", "receive_buffer"]
)
async def test_bounds_are_checked(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be 1 or more"):
        udp.bind(ANY, **{option: 0})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"{option} must be an int"):
        udp.bind(ANY, **{option: "1"})  # type: ignore[arg-type]


async def test_several_sockets_share_a_port_if_they_ask() -> None:
    async with udp.bind(ANY, reuse_port=True) as one:
        async with udp.bind(one.local_addr, reuse_port=True) as two:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(50):
                    client = await stack.enter_async_context(udp.connect(one.local_addr))
                    client.send(b"x")
                await until(lambda: one.stats.unread + two.stats.unread == 50)


async def test_a_connected_socket_can_be_bound() -> None:
    async with udp.bind(ANY) as sock:
        async with udp.connect(sock.local_addr, bind="127.0.0.5:0") as client:
            client.send(b"x")
            _, peer = await sock.recv(timeout=DEADLINE)
            assert str(peer) == client.local_addr
            assert peer.host == "127.0.0.5"
            assert not client.is_bound
            assert str(client.peer) == sock.local_addr
            assert sock.local_addr in repr(client)


async def test_multicast() -> None:
    async with udp.bind(":0", multicast="239.7.7.7%lo") as one:
        port = one.local_addr.rpartition(":")[2]
        async with (
            udp.bind(f":{port}", multicast=["239.7.7.7%lo", "239.7.7.8%lo"]) as two,
            udp.bind(":0", multicast="239.7.7.9%lo", multicast_hops=0) as sender,
        ):
            sender.send(b"to both", f"239.7.7.7:{port}")
            sender.send(b"to one", f"239.7.7.8:{port}")
            assert (await one.recv(timeout=DEADLINE))[0] == b"to both"
            assert (await two.recv(timeout=DEADLINE))[0] == b"to both"
            data, peer = await two.recv(timeout=DEADLINE)
            assert data == b"to one"
            two.send(b"answer", peer)  # not from the group's address
            assert (await sender.recv(timeout=DEADLINE))[0] == b"answer"
            assert one.stats.unread == 0


def interface_for_ipv6() -> str | None:
    """An interface on which IPv6 groups can be joined, and sent to; None if there is none."""
    for number, name in socket.if_nameindex() if has_ipv6 else ():
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 0)
            with contextlib.suppress(OSError):
                sock.connect(("ff11::7:7", 9, 0, number))
                return name
    return None


async def test_multicast_over_ipv6() -> None:
    """Without hops, and in a scope, in which nothing leaves this machine."""
    name = interface_for_ipv6()
    if name is None:
        pytest.skip("no interface has IPv6 multicast")
    groups = [f"ff11::7:7%{name}", f"ff11::7:8%{name}"]
    async with udp.bind(":0", multicast=groups[0]) as one:
        port = one.local_addr.rpartition(":")[2]
        async with (
            udp.bind(f":{port}", multicast=groups, multicast_hops=0) as two,
            udp.bind("[::]:0", multicast=f"ff11::7:9%{name}", multicast_hops=0) as sender,
        ):
            sender.send(b"to both", f"[ff11::7:7]:{port}")
            sender.send(b"to one", f"[ff11::7:8%{name}]:{port}")
            assert (await one.recv(timeout=DEADLINE))[0] == b"to both"
            assert (await two.recv(timeout=DEADLINE))[0] == b"to both"
            data, peer = await two.recv(timeout=DEADLINE)
            assert data == b"to one"
            two.send(b"answer", peer)  # not from the group's address
            assert (await sender.recv(timeout=DEADLINE))[0] == b"answer"
            assert one.stats.unread == 0


async def test_groups_are_checked() -> None:
    for text in ("10.0.0.1", "nonsense", "239.1.1.1%nowhere"):
        with pytest.raises(ValueError, match="multicast"):
            udp.bind(ANY, multicast=text)
    with pytest.raises(TypeError, match="multicast"):
        udp.bind(ANY, multicast=[7])  # type: ignore[list-item]


# ------------------------------------------------------------------------ programs

ECHO = """
import sys, silly
from silly.net import udp
from silly.net.datagrams import EngineSocket
from silly.net.opening import totals

async def main():
    sock = udp.bind(sys.argv[1])
    print(sock.local_addr, flush=True)
    async for data, peer in sock:
        sock.send(data, peer)
    print("ended", sock.stats.received, flush=True)

silly.run(main())
"""


def ask(address: str, data: bytes) -> bytes:
    host, port = address.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE)
        client.sendto(data, (host, int(port)))
        return client.recv(1000)


def test_a_stop_signal_ends_the_loop() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ECHO, ANY], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        address = program.stdout.readline().strip()
        assert ask(address, b"hello") == b"hello"
        program.terminate()
        assert program.stdout.read() == "ended 1\n"
    assert program.returncode == 0


def test_it_keeps_the_program_running_and_says_where_it_listens(tmp_path: Any) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import asyncio\n"
        "from silly.net import udp\n"
        "sock = udp.bind('127.0.0.1:0')\n"
        "async def echo():\n"
        "    async for data, peer in sock:\n"
        "        sock.send(data, peer)\n"
        "serving = asyncio.create_task(echo())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "silly", str(script)], stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        line = program.stderr.readline()
        assert "listening on 127.0.0.1:" in line
        assert " for UDP" in line
        address = line.partition("listening on ")[2].partition(" ")[0]
        assert ask(address, b"x") == b"x"
        program.terminate()
        program.stderr.read()
    assert program.returncode == 0


def test_a_forked_child_drops_its_copy() -> None:
    async def main() -> None:
        sock = udp.bind(ANY)
        address = sock.local_addr
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            code = 1
            with contextlib.suppress(BaseException):
                os.read(read, 1)  # until the parent has closed its socket
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                    host, port = address.split(":")
                    again.bind((host, int(port)))
                with contextlib.suppress(ConnectionClosed):
                    sock.send(b"x", address)
                code = 0
            os._exit(code)
        sock.close()
        os.close(write)
        os.close(read)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    asyncio.run(main())


def test_an_open_socket_ends_with_its_loop() -> None:
    made: list[udp.Socket] = []

    async def main() -> None:
        made.append(udp.bind(ANY))

    asyncio.run(main())
    assert not made[0].is_open


async def test_it_can_be_awaited_by_any_task_factory(loop_kind: str) -> None:
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12) and loop_kind != "uvloop":
        loop.set_task_factory(asyncio.eager_task_factory)
    async with pair() as (sock, client):
        waits: Awaitable[Any] = asyncio.create_task(sock.recv(timeout=DEADLINE))
        await client.send(b"x")
        assert (await waits)[0] == b"x"
    loop.set_task_factory(None)


async def test_metrics_count_all_sockets_past_and_present() -> None:
    from silly import metrics

    loop = asyncio.get_running_loop()
    before = totals(loop)
    async with pair(max_queued=2) as (sock, client):
        for number in range(5):
            client.send(b"%d" % number)
        await until(lambda: arrived(sock.stats) == 5)
        await sock.recv()
        now = metrics.snapshot()["datagrams"]
        assert now["sockets"] == before["sockets"] + 2
        assert now["sent"] - before.get("sent", 0) == 5
        assert now["received"] - before.get("received", 0) == 1
        assert now["unread"] == 1
        assert now["dropped"]["queue"] >= 3
    after = metrics.snapshot()["datagrams"]
    assert after["sockets"] == before["sockets"]
    assert after["unread"] == 0
    assert after["dropped"]["queue"] - now["dropped"]["queue"] == 1  # it was unread
    gone = metrics.retired(metrics.snapshot())
    assert "unread" not in gone["datagrams"]
    assert metrics.merge([gone, gone])["datagrams"]["sent"] == 2 * after["sent"]


async def test_the_report_of_a_program_lists_its_sockets() -> None:
    from silly.runtime import inspection

    async with pair() as (sock, _):
        reading = asyncio.create_task(sock.recv())
        await asyncio.sleep(0)
        report = inspection.report(asyncio.get_running_loop())
        assert f"UDP socket {sock.local_addr}: 0 received, 0 unread, 0 sent" in report
        reading.cancel()


@pytest.mark.skipif(silly.engine() != "native", reason="the portable engine asks the socket")
async def test_a_socket_whose_address_cannot_be_told_is_refused() -> None:
    class Nameless:
        family = socket.AF_INET

        def fileno(self) -> int:
            return pipe[0]

        def getsockname(self) -> Any:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    pipe = os.pipe()
    loop = asyncio.get_running_loop()
    nameless: Any = Nameless()
    with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
        EngineSocket(nameless, loop, Live.of(loop), limits=(100, 1, 100, 100, False))
    for end in pipe:
        os.close(end)
