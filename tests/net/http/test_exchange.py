"""One request of the client and its reply, over a connection in memory and on virtual time."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from silly.net.conn import Conn
from silly.net.http.client_session import ClientSession
from silly.net.http.exchange import Exchange
from silly.testing import memory_pair, run_virtual

pytestmark = pytest.mark.no_engine

HEAD = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
END = b"0\r\n\r\n"


class Pool:
    """Where the connection goes at the end."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def release(self, _: object, conn: Conn) -> None:
        self.ends.append("released")
        conn.close()

    def discard(self, _: object, conn: Conn, *, at_once: bool = False) -> None:
        self.ends.append("reset" if at_once else "closed")
        conn.abort()


class Setup:
    """An exchange with a read timeout of ten seconds, and the server's end of its connection."""

    def __init__(self) -> None:
        conn, self.server = memory_pair(window=10_000, read_limit=10_000)
        self.conn: Any = conn
        self.pool = Pool()
        self.session = ClientSession("POST")
        pool: Any = self.pool
        self.exchange = Exchange(
            conn, pool, "", self.session, place="POST http://a/", read_timeout=10
        )

    async def receive(self) -> None:
        while not self.session.is_complete:
            await self.exchange.receive()


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(test())

    run.__name__ = test.__name__
    return run


async def slowly(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(25)
        yield piece


@virtual
async def test_a_program_may_take_its_time_for_the_body() -> None:
    made = Setup()
    made.exchange.send(HEAD, slowly(b"one", b"", b"two"))
    receiving = asyncio.create_task(made.receive())
    body = await made.server.read(END)
    assert body == HEAD + b"3\r\none\r\n3\r\ntwo\r\n" + END
    made.server.write(EMPTY)
    await receiving
    assert asyncio.get_running_loop().time() >= 75
    assert made.pool.ends == ["released"]
    made.server.abort()


@virtual
async def test_a_server_may_take_its_time_for_the_request() -> None:
    made = Setup()
    made.exchange.send(HEAD, slowly(bytes(300_000)))
    receiving = asyncio.create_task(made.receive())
    left = len(HEAD) + len(b"493e0\r\n") + 300_000 + len(b"\r\n" + END)
    while left:
        await asyncio.sleep(9)
        left -= len(await made.server.read(min(left, 20_000)))
    made.server.write(EMPTY)
    await receiving
    assert asyncio.get_running_loop().time() >= 25 + 15 * 9
    made.server.abort()


@virtual
async def test_a_server_that_is_silent_is_given_up() -> None:
    made = Setup()
    made.exchange.send(HEAD, slowly(b"one"))
    with pytest.raises(TimeoutError, match="no byte from the server within 10 seconds") as told:
        await made.receive()
    assert "POST http://a/" in str(told.value)
    assert 35 <= asyncio.get_running_loop().time() <= 45
    assert made.pool.ends == ["reset"]
    made.server.abort()


@virtual
async def test_what_the_operating_system_gives_up_is_told_as_it_is() -> None:
    made = Setup()
    made.exchange.send(HEAD, b"")
    receiving = asyncio.create_task(made.receive())
    await asyncio.sleep(1)
    made.conn._end_for_limit("", TimeoutError(errno.ETIMEDOUT, "no answer to probes"))
    with pytest.raises(TimeoutError, match="no answer to probes: 'POST http://a/'"):
        await receiving
    assert asyncio.get_running_loop().time() == 1
    made.server.abort()


@virtual
async def test_a_server_that_resets_within_the_request_ends_the_pieces() -> None:
    ended = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(100_000)
        finally:
            ended.set()

    made = Setup()
    made.exchange.send(HEAD, pieces())
    receiving = asyncio.create_task(made.receive())
    await made.server.read(100_000)
    made.server.abort()
    with pytest.raises(ConnectionResetError, match="POST http://a/"):
        await receiving
    assert ended.is_set()
    assert made.pool.ends == ["reset"]


@virtual
async def test_a_server_that_resets_before_anybody_receives() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1000)

    made = Setup()
    made.exchange.send(HEAD, pieces())
    sender = made.exchange._sender
    assert sender is not None
    await made.server.read(1000)
    made.server.abort()
    await asyncio.wait([sender])
    assert sender.exception() is None
    with pytest.raises(ConnectionResetError, match="POST http://a/"):
        await made.receive()


@virtual
async def test_a_connection_that_is_lost_before_the_request() -> None:
    made = Setup()
    made.conn.abort()
    with pytest.raises(ConnectionError, match="POST http://a/"):
        made.exchange.send(HEAD, b"")
    assert not made.exchange.has_sent
    made.server.abort()
