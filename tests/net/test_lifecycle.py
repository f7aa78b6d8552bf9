"""A listener's states, statistics and drains."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable

import pytest

from silly.errors import EndOfStream
from silly.net import tcp
from silly.net.tcp import Conn, Limits, ListenerState

ANY = "127.0.0.1:0"
STATES = tuple(ListenerState)


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


# ------------------------------------------------------------------------ states


async def test_states_follow_each_other_and_can_be_waited_for() -> None:
    listener = tcp.listen(ANY, echo)
    assert str(listener.state) == "accepting"
    assert listener.is_accepting
    await listener.wait(ListenerState.STARTING)
    await listener.wait(ListenerState.ACCEPTING)
    seen: list[str] = []

    async def watch(state: ListenerState) -> None:
        await listener.wait(state)
        seen.append(f"{state}: {listener.state}")

    watchers = [asyncio.create_task(watch(state)) for state in STATES]
    gives_up = asyncio.create_task(listener.wait(ListenerState.CLOSED))
    client = await tcp.connect(listener.local_addr)
    client.write(b"x\n")
    await client.read(b"\n")
    gives_up.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gives_up
    closing = listener.close(60)
    assert str(listener.state) == "draining"
    assert not listener.is_accepting
    assert "draining" in repr(listener)
    await watchers[2]
    assert seen == ["starting: accepting", "accepting: accepting", "draining: draining"]
    client.close()
    await asyncio.gather(closing, *watchers)
    assert seen[3] == "closed: closed"
    assert str(listener.state) == "closed"
    await listener.wait("draining")
    with pytest.raises(ValueError, match="'open' is not a valid ListenerState"):
        await listener.wait("open")
    await client.wait_closed()


async def test_waiting_for_draining_does_not_wait_for_its_end() -> None:
    listener = tcp.listen(ANY, echo)
    async with await tcp.connect(listener.local_addr) as client:
        client.write(b"x\n")
        await client.read(b"\n")
        closing = listener.close(60)
        await listener.wait(ListenerState.DRAINING)
        assert not closing.done()
    await closing


# -------------------------------------------------------------------- statistics


async def test_statistics_of_queued_bytes_and_errors_by_type() -> None:
    go_on = asyncio.Event()

    async def handler(conn: Conn) -> None:
        what = await conn.read(b"\n")
        if what == b"value\n":
            raise ValueError(what)
        if what == b"key\n":
            raise KeyError(what)
        conn.write(b"x" * 12_000_000)
        await go_on.wait()

    async with tcp.listen(ANY, handler, limits=Limits(linger=0)) as listener:
        for what in (b"value\n", b"key\n", b"key\n"):
            async with await tcp.connect(listener.local_addr) as client:
                client.write(what)
                with pytest.raises(EndOfStream):
                    await client.read()
        client = await tcp.connect(listener.local_addr, read_limit=1000)
        client.write(b"flood\nunread")
        await until(lambda: listener.stats.unread_bytes == 6)
        stats = listener.stats
        assert stats.handler_errors == 3
        assert stats.handler_errors_by_type == {"ValueError": 1, "KeyError": 2}
        assert 0 < stats.unsent_bytes < 12_000_000
        assert stats.bytes_out + stats.unsent_bytes == 12_000_000
        assert stats.bytes_in == 6 + 4 + 4 + 12
        assert (stats.accepted, stats.connections) == (4, 1)
        assert stats.peak_connections <= 2
        go_on.set()
        client.abort()
        await client.wait_closed()
        await until(lambda: listener.connections == 0)
        stats = listener.stats
        assert (stats.unsent_bytes, stats.unread_bytes, stats.connections) == (0, 0, 0)
        assert stats.bytes_in == 26


# ------------------------------------------------------------------------ drains


async def test_close_serves_the_backlog() -> None:
    listener = tcp.listen(ANY, echo, backlog=200)
    host, port = listener.local_addr.split(":")
    socks = []
    for number in range(150):  # without letting the loop run in between
        sock = socket.create_connection((host, int(port)))
        sock.sendall(b"%d\n" % number)
        sock.shutdown(socket.SHUT_WR)
        socks.append(sock)
    assert listener.stats.accepted == 0
    await listener.close(grace=30)
    assert listener.stats.accepted == 150
    for number, sock in enumerate(socks):
        with sock, sock.makefile("rb") as file:
            assert file.read() == b"%d\n" % number


async def test_close_without_grace_resets_the_backlog() -> None:
    listener = tcp.listen(ANY, echo)
    host, port = listener.local_addr.split(":")
    with socket.create_connection((host, int(port))) as sock:
        await listener.close(0)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert listener.stats.accepted == 0


class Load(threading.Thread):
    """A client that requests pseudo-random replies and checks every byte of them.

    A restart may refuse a connection, or reset it without any byte of a reply, before
    its request was read. Every reply that was begun must be finished.
    """

    def __init__(self, port: int, seed: int) -> None:
        super().__init__()
        self.port = port
        self.chance = random.Random(seed)
        self.stop = threading.Event()
        self.replies = self.turned_away = 0
        self.problems: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            size = self.chance.choice((0, 10, 1000, 300_000))
            fill = self.chance.randrange(256)
            got = b""
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=30) as sock:
                    sock.sendall(b"%d %d\n" % (size, fill))
                    with sock.makefile("rb") as file:
                        got = file.read()
            except (ConnectionRefusedError, ConnectionResetError) as error:
                self.turned_away += 1
                if got:
                    self.problems.append(f"{error!r} after {len(got)} bytes")
                continue
            except OSError as error:
                self.problems.append(repr(error))
                continue
            if got != bytes((fill,)) * size + b"end\n":
                self.problems.append(f"{len(got)} bytes instead of {size} of {fill} and 'end'")
            self.replies += 1


@pytest.mark.heavy
async def test_restarts_under_load_lose_no_accepted_request_and_no_byte() -> None:
    served = 0

    async def reply(conn: Conn) -> None:
        nonlocal served
        size, fill = (await conn.read(b"\n")).split()
        await asyncio.sleep(0)
        await conn.write(bytes((int(fill),)) * int(size))
        await conn.write(b"end\n")
        served += 1

    listener = tcp.listen(ANY, reply)
    address = listener.local_addr
    loads = [Load(int(address.rpartition(":")[2]), seed) for seed in range(4)]
    for load in loads:
        load.start()
    accepted = 0
    try:
        for _ in range(25):
            begun = served
            await until(lambda: served >= begun + 8)  # noqa: B023
            await listener.close(grace=30)
            accepted += listener.stats.accepted
            assert not listener.stats.ended
            assert listener.stats.handler_errors == 0
            listener = tcp.listen(address, reply)
    finally:
        for load in loads:
            load.stop.set()
        await until(lambda: not any(load.is_alive() for load in loads))
        await listener.close(grace=30)
    accepted += listener.stats.accepted
    for load in loads:
        assert not load.problems
        load.join()
    replies = sum(load.replies for load in loads)
    assert replies == served == accepted
    assert replies >= 200
