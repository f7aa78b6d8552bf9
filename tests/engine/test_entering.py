"""Connections that are being set up are served after all others, and few at a time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import silly
from silly.errors import EndOfStream
from silly.net import tcp
from silly.net.conn import Conn
from tests.net.tls import peers

pytestmark = pytest.mark.skipif(silly.engine() != "native", reason="native engine only")

NEW = 20  # connections at once
FEW = 4  # of them that may be served before one that was let in


class Listening:
    """A listener whose connections are let in once they have sent a byte."""

    def __init__(self) -> None:
        self.served: list[str] = []  # in order: "new", once a preface has read; "live", a line
        self.connected: list[int] = []  # how many were connected when the line came
        self.may_enter = asyncio.Event()
        self.socks: list[socket.socket] = []

    async def preface(self, conn: Conn) -> None:
        if await conn.read(1) == b"n":
            self.served.append("new")
            await self.may_enter.wait()

    async def handler(self, conn: Conn) -> None:
        self.live = conn
        async for line in conn:
            self.served.append("live")
            self.connected.append(self.listener.connections)
            await conn.write(line)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[socket.socket]:
        """Listen; yield the socket of a connection that was let in."""
        with contextlib.ExitStack() as self.stack:
            async with tcp.listen(
                "127.0.0.1:0", self.handler, preface=self.preface
            ) as self.listener:
                live = self.stack.enter_context(await peers.connected(self.listener.local_addr))
                live.sendall(b"lx\n")
                await receive(live)
                self.served.clear()
                self.connected.clear()
                yield live
                self.may_enter.set()
                self.stack.close()

    def connect(self) -> None:
        """Connect; accepting has to wait for the loop."""
        host, _, port = self.listener.local_addr.rpartition(":")
        for _ in range(NEW):
            self.socks.append(self.stack.enter_context(socket.create_connection((host, int(port)))))

    def send(self, data: bytes) -> None:
        for sock in self.socks:
            sock.sendall(data)

    def ask(self, live: socket.socket) -> None:
        """Send a line, which has arrived when this returns."""
        live.sendall(b"x\n")
        peers.wait_arrival(self.live)


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def receive(sock: socket.socket) -> None:
    sock.setblocking(False)
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 100), 30) == b"x\n"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def test_a_live_connection_comes_before_those_that_wait_to_be_accepted() -> None:
    listening = Listening()
    async with listening.run() as live:
        listening.connect()
        listening.ask(live)
        await receive(live)
        assert listening.connected[0] <= 1 + FEW
        await until(lambda: listening.listener.connections == 1 + NEW)


async def test_a_live_connection_comes_before_those_that_are_being_set_up() -> None:
    listening = Listening()
    async with listening.run() as live:
        listening.connect()
        await until(lambda: listening.listener.connections == 1 + NEW)
        listening.send(b"n")
        listening.ask(live)
        await receive(live)
        assert listening.served.index("live") <= FEW
        await until(lambda: len(listening.served) == 1 + NEW)


async def test_those_that_were_let_in_are_served_as_any_other() -> None:
    listening = Listening()
    async with listening.run():
        listening.connect()
        listening.send(b"n")
        await until(lambda: len(listening.served) == NEW)
        listening.may_enter.set()
        listening.send(b"x\n")
        for sock in listening.socks:
            await receive(sock)


async def test_what_a_preface_writes_at_the_end_of_the_stream_is_sent() -> None:
    async def preface(conn: Conn) -> None:
        with pytest.raises(EndOfStream):
            await conn.read()
        conn.write(b"x\n")
        with pytest.raises(EndOfStream):
            await conn.read()

    async with tcp.listen("127.0.0.1:0", echo, preface=preface) as listener:
        host, _, port = listener.local_addr.rpartition(":")
        with socket.create_connection((host, int(port))) as sock:
            await until(lambda: listener.connections)
            sock.shutdown(socket.SHUT_WR)
            await receive(sock)


async def test_those_that_are_being_set_up_are_gone_before_their_turn() -> None:
    """A live connection ends them all, when they are ready, too."""
    conns: list[Conn] = []
    read: list[bytes] = []

    async def preface(conn: Conn) -> None:
        conns.append(conn)
        read.append(await conn.read(1))

    async def handler(conn: Conn) -> None:
        await conn.read(b"\n")
        closing.append(listener.close(0))
        for each in conns:
            each.abort()

    closing: list[Awaitable[object]] = []
    with contextlib.ExitStack() as stack:
        listener = tcp.listen("127.0.0.1:0", handler, preface=preface)
        socks = [stack.enter_context(await peers.connected(listener.local_addr)) for _ in range(5)]
        await until(lambda: len(conns) == 5)
        socks[0].sendall(b"l")
        await until(lambda: read)
        await asyncio.sleep(0)
        for sock in socks:
            sock.sendall(b"x\n")
        peers.wait_arrival(conns[-1])
        await until(lambda: closing)
        await closing[0]
        assert read == [b"l"]
