"""Prefaces: what a connection has to get through before its handler starts."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from silly.net import tcp
from silly.net.conn import StreamConn
from silly.net.observer import Ending
from silly.net.preface import PrefaceError
from silly.net.tcp import Conn, Limits
from tests.engine.filters import Xor

ANY = "127.0.0.1:0"

Preface = Callable[[StreamConn], Awaitable[object]]


class Seen:
    """The connections that an observer was told of."""

    def __init__(self) -> None:
        self.opened_addrs: list[str] = []
        self.endings: list[str] = []

    def opened(self, conn: Conn, listener: Any) -> None:
        self.opened_addrs.append(conn.remote_addr)

    def closed(self, conn: Conn, listener: Any, ending: Ending) -> None:
        self.endings.append(ending.how)


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def takes_a_header(conn: StreamConn) -> None:
    """``from HOST PORT``: the connection goes by that address from then on."""
    header = await conn.read(b"\n", limit=100)
    word, host, port = header.decode().split()
    if word != "from":
        raise PrefaceError("header", f"unknown word {word!r}")
    conn._set_sockaddrs((host, int(port)), conn._local_sockaddr)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_it_precedes_the_handler_and_observers() -> None:
    seen = Seen()
    started: list[str] = []

    async def handler(conn: Conn) -> None:
        started.append(conn.remote_addr)
        await echo(conn)

    async with tcp.listen(ANY, handler, preface=takes_a_header, observer=seen) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await until(lambda: listener.connections == 1)
            assert (started, seen.opened_addrs, listener.stats.accepted) == ([], [], 0)
            await conn.write(b"from 192.0.2.7 4711\nhello\n")
            assert await conn.read(b"\n") == b"hello\n"
            assert started == seen.opened_addrs == ["192.0.2.7:4711"]
            assert listener.stats.accepted == 1
        await until(lambda: seen.endings == ["peer_finished"])
    assert not listener.stats.refused
    assert not listener._course._tickets


async def test_a_filter_is_put_in_before_the_first_byte() -> None:
    async def encrypts(conn: StreamConn) -> None:
        conn._put_filter(Xor(1))
        await conn._wait_ready()

    async with tcp.listen(ANY, echo, preface=encrypts) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            secret: Any = conn
            secret._put_filter(Xor(1))
            await secret._wait_ready()
            await conn.write(b"hidden\n")
            assert await conn.read(b"\n") == b"hidden\n"
        await until(lambda: listener.connections == 0)
    assert listener.stats.bytes_in == listener.stats.bytes_out == 7


async def test_a_filter_that_fails_says_why() -> None:
    async def encrypts(conn: StreamConn) -> None:
        conn._put_filter(Xor(1))
        await conn._wait_ready()

    async with tcp.listen(ANY, echo, preface=encrypts) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(b"GET / HTTP/1.0\r\n\r\n")
            await until(lambda: listener.connections == 0)
            assert await conn.read(12) == b"XOR1no hello"
            with pytest.raises(EOFError):
                await conn.read()
        await until(lambda: dict(listener.stats.refused) == {"handshake": 1})
        assert listener.stats.accepted == 0


@pytest.mark.parametrize("sent", [b"", b"from 192.0.2"], ids=["silent", "slow"])
async def test_it_has_a_deadline(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()
    limits = Limits(handshake_timeout=0.05)
    async with (
        tcp.listen(ANY, echo, preface=takes_a_header, limits=limits, observer=seen) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(sent)
        with pytest.raises(ConnectionResetError):
            await conn.read()
        await until(lambda: listener.connections == 0)
        stats = listener.stats
    assert dict(stats.refused) == {"handshake_timeout": 1}
    assert (stats.accepted, stats.handler_errors, dict(stats.ended)) == (0, 0, {})
    assert seen.opened_addrs == seen.endings == []
    assert "refused 127.0.0.1:" in caplog.text
    assert "handshake_timeout (not complete within 0.05 seconds)" in caplog.text


async def fails(conn: StreamConn) -> None:
    raise ValueError(await conn.read(b"\n"))


@pytest.mark.parametrize(
    ("preface", "sent", "reason", "logged"),
    [
        (takes_a_header, b"GET / HTTP/1.0\n", "header", "unknown word 'GET'"),
        (takes_a_header, None, "handshake", "end of stream before"),
        (fails, b"x\n", "preface_error", "ValueError: b'x\\n'"),
    ],
)
async def test_why_it_refused_is_counted_and_logged(
    preface: Preface,
    sent: bytes | None,
    reason: str,
    logged: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        tcp.listen(ANY, echo, preface=preface) as listener,
        tcp.connect(listener.local_addr) as conn,
        tcp.connect(listener.local_addr) as other,
    ):
        if sent is None:
            conn.close_write()
        else:
            await conn.write(sent)
        with pytest.raises((ConnectionResetError, EOFError)):
            await conn.read()
        await until(lambda: listener.connections == 1)
        assert dict(listener.stats.refused) == {reason: 1}
        if preface is takes_a_header:  # the other connection is served
            await other.write(b"from 192.0.2.1 1\nhello\n")
            assert await other.read(b"\n") == b"hello\n"
    assert caplog.text.count(logged) == 1
    assert listener.stats.handler_errors == 0


async def test_no_flood_of_refusals_floods_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with tcp.listen(ANY, echo, preface=takes_a_header) as listener:
        for _ in range(30):
            async with tcp.connect(listener.local_addr) as conn:
                await conn.write(b"GET / HTTP/1.0\n")
                with pytest.raises((ConnectionResetError, EOFError)):
                    await conn.read()
        await until(lambda: listener.connections == 0)
    assert dict(listener.stats.refused) == {"header": 30}
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "refused 29 more connections: header" in warnings[1].getMessage()


async def test_the_gate_charges_the_client_that_was_found() -> None:
    limits = Limits(max_per_client=2, exempt_networks=())
    async with tcp.listen(ANY, echo, preface=takes_a_header, limits=limits) as listener:
        conns = []
        for number, host in enumerate(["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]):
            conn = await tcp.connect(listener.local_addr)
            conns.append(conn)
            await conn.write(f"from {host} {number}\nhello\n".encode())
            assert await conn.read(b"\n") == b"hello\n"
        extra = await tcp.connect(listener.local_addr)
        await extra.write(b"from 192.0.2.1 9\nhello\n")
        with pytest.raises(ConnectionResetError):
            await extra.read()
        assert dict(listener.stats.refused) == {"max_per_client": 1}
        await until(lambda: listener.connections == 4)
        gate = listener._course.gate
        assert gate._clients == {
            socket.inet_aton("192.0.2.1"): 2,
            socket.inet_aton("192.0.2.2"): 1,
            socket.inet_aton("192.0.2.3"): 1,
        }
        for conn in (*conns, extra):
            conn.abort()
        await until(lambda: listener.connections == 0)
        assert not gate._clients


async def test_a_drain_waits_for_prefaces_and_then_cancels_them() -> None:
    cancelled: list[str] = []

    async def waits(conn: StreamConn) -> None:
        try:
            await takes_a_header(conn)
        except asyncio.CancelledError:
            cancelled.append(conn.remote_addr)
            raise

    listener = tcp.listen(ANY, echo, preface=waits)
    one, two = [await tcp.connect(listener.local_addr) for _ in range(2)]
    await until(lambda: listener.connections == 2)
    closing = listener.close(60)
    await one.write(b"from 192.0.2.1 1\nlast words\n")
    assert await one.read(b"\n") == b"last words\n"
    one.close()
    assert cancelled == []
    listener.close(0)
    await closing
    assert cancelled == [two.local_addr]
    with pytest.raises(ConnectionResetError):
        await two.read()
    assert listener.stats.accepted == 1
    assert not listener.stats.refused


async def test_a_preface_must_be_callable() -> None:
    with pytest.raises(TypeError, match="preface must be a coroutine function"):
        tcp.listen(ANY, echo, preface="tls")  # type: ignore[arg-type]


# --------------------------------------------------------------------------- draining


async def test_an_idle_connection_learns_that_its_listener_drains() -> None:
    called: list[str] = []

    async def keeps_alive(conn: Conn) -> None:
        def end() -> None:
            called.append(conn.remote_addr)
            conn.close()

        conn.on_draining(lambda: called.append("replaced"))
        conn.on_draining(end)
        try:
            await echo(conn)
        except ConnectionError:
            conn.on_draining(lambda: called.append("late"))

    async with tcp.connect((listener := tcp.listen(ANY, keeps_alive)).local_addr) as conn:
        gone = await tcp.connect(listener.local_addr)
        for each in (conn, gone):
            await each.write(b"hello\n")
            await each.read(b"\n")
        await gone.write(b"bye")
        gone.close()
        await until(lambda: listener.connections == 1)
        await asyncio.wait_for(listener.close(60), 10)
        with pytest.raises(EOFError):
            await conn.read()
        conn.on_draining(lambda: called.append("client"))  # it has no listener
    await asyncio.sleep(0)
    assert called[0] == conn.local_addr
    assert "replaced" not in called
    assert "client" not in called
    assert not listener._course._on_draining


async def test_a_connection_accepted_while_draining_is_told_soon() -> None:
    called = asyncio.Event()

    async def handler(conn: Conn) -> None:
        await listener.wait("draining")
        conn.on_draining(called.set)
        await called.wait()

    listener = tcp.listen(ANY, handler)
    async with tcp.connect(listener.local_addr):
        await until(lambda: listener.connections == 1)
        await asyncio.wait_for(listener.close(60), 10)
    assert called.is_set()


async def test_a_callback_can_be_removed() -> None:
    called: list[str] = []

    async def handler(conn: Conn) -> None:
        conn.on_draining(lambda: called.append("removed"))
        conn.on_draining(None)
        await conn.read()

    listener = tcp.listen(ANY, handler)
    async with tcp.connect(listener.local_addr):
        await until(lambda: listener.connections == 1)
        await listener.close(0)
    assert called == []
