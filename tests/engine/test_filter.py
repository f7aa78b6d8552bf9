"""A filter at the doors: the same connection to its program, other bytes on the wire."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly._engine import engine
from silly.errors import (
    ConcurrentRead,
    ConnectionClosed,
    EndOfStream,
    TruncatedStream,
    WriteQueueFull,
)
from silly.net import tcp
from silly.net.conn import Conn
from silly.net.tls import kinds as tls_kinds
from silly.testing import CONN_CHECKS, memory_pair, run_check, run_virtual
from tests.engine.filters import HELLO, Xor
from tests.net.tls import certificates
from tests.pairs import tcp_pair

KEY = 0x5A


async def filtered(conns: tuple[Any, Any]) -> tuple[Any, Any]:
    for conn in conns:
        conn._put_filter(Xor(KEY))
    for conn in conns:
        await conn._wait_ready()
    return conns


async def filtered_pair() -> tuple[Any, Any]:
    return await filtered(await tcp_pair())


async def upgraded_pair() -> tuple[Any, Any]:
    """A pair that spoke in the clear before, and agreed on the filter."""
    one, other = await tcp_pair()
    for sender, receiver in ((one, other), (other, one)):
        await sender.write(b"shall we?\n")
        assert await receiver.read(b"\n") == b"shall we?\n"
    return await filtered((one, other))


async def memory() -> tuple[Any, Any]:
    return await filtered(memory_pair())


@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
async def test_a_filtered_connection_is_a_connection(check: Any) -> None:
    await run_check(check, filtered_pair)


@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
async def test_a_filter_on_a_live_connection(check: Any) -> None:
    await run_check(check, upgraded_pair)


@pytest.mark.no_engine
@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
def test_a_filter_in_memory(check: Any) -> None:
    run_virtual(run_check(check, memory))


class Peer:
    """The other end, as bytes on the wire."""

    def __init__(self, conn: Any, sock: socket.socket) -> None:
        self.conn = conn
        self.sock = sock
        self.filter = Xor(KEY)
        self.loop = asyncio.get_running_loop()

    async def send(self, wire: bytes) -> None:
        await self.loop.sock_sendall(self.sock, wire)

    async def receive(self, size: int) -> bytes:
        wire = b""
        while len(wire) < size:
            piece = await self.loop.sock_recv(self.sock, size - len(wire))
            if not piece:
                break
            wire += piece
        return wire

    def close(self) -> None:
        self.sock.close()
        self.conn.abort()


async def connected() -> tuple[Peer, tcp.Listener]:
    accepted: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    async def handler(conn: Conn) -> None:
        accepted.set_result(conn)
        await conn.wait_closed()

    listener = tcp.listen("127.0.0.1:0", handler)
    host, port = listener.local_addr.split(":")
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    return Peer(await accepted, sock), listener


async def test_plain_and_wire_bytes_are_counted_apart() -> None:
    peer, listener = await connected()
    conn = peer.conn
    await peer.send(b"clear\n")
    assert await conn.read(b"\n") == b"clear\n"
    conn._put_filter(peer.filter)
    assert await peer.receive(4) == HELLO
    await peer.send(HELLO + Xor(KEY).seal(b"hidden\n"))
    assert await conn.read(b"\n") == b"hidden\n"
    await conn.write(b"answer")
    assert await peer.receive(10) == Xor(KEY).seal(b"answer")
    stats = conn.stats
    assert (stats.bytes_in, stats.bytes_out) == (6 + 7, 6)
    assert (stats.wire_bytes_in, stats.wire_bytes_out) == (6 + 4 + 4 + 7, 4 + 4 + 6)
    peer.close()
    await listener.close()


async def test_what_arrived_before_is_for_the_filter() -> None:
    peer, listener = await connected()
    conn = peer.conn
    await peer.send(b"start\n" + HELLO + Xor(KEY).seal(b"in one segment"))
    assert await conn.read(b"\n") == b"start\n"
    conn._put_filter(peer.filter)
    await conn._wait_ready()
    assert await conn.read(14) == b"in one segment"
    peer.close()
    await listener.close()


async def test_writes_before_the_handshake_wait_for_it() -> None:
    peer, listener = await connected()
    conn = peer.conn
    conn.write(b"clear")
    conn._put_filter(peer.filter)
    conn.write(b"hid")
    conn.write([b"d", b"en"])
    assert await peer.receive(9) == b"clear" + HELLO
    await peer.send(HELLO)
    assert await peer.receive(10) == Xor(KEY).seal(b"hidden")
    peer.close()
    await listener.close()


async def test_writers_wait_for_the_handshake_and_are_refused_in_the_end() -> None:
    peer, listener = await connected()
    conn = peer.conn
    conn.max_unsent = 150_000
    conn._put_filter(peer.filter)
    for _ in range(10):
        conn.write(b"x" * 10_000)
    assert conn.unsent_bytes >= 100_000
    writer = asyncio.ensure_future(conn.write(b"y"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not writer.done()
    with pytest.raises(WriteQueueFull):
        conn.write(b"z" * 50_000)
    wire = peer.filter.seal(b"x" * 100_000 + b"y")
    await peer.send(HELLO)
    assert len(await peer.receive(4 + len(wire))) == 4 + len(wire)
    await writer
    assert conn.stats.bytes_out == 100_001
    assert conn.unsent_bytes == 0
    peer.close()
    await listener.close()


@pytest.mark.parametrize("last", [False, True], ids=["now", "last"])
async def test_the_handshake_and_a_message_were_received_before(last: bool) -> None:
    """And the filter is put in by a task, or by what the engine does after all else."""
    peer, listener = await connected()
    wire = HELLO + Xor(KEY).seal(b"line\n")
    done = asyncio.Event()

    def put() -> None:
        peer.conn._put_filter(peer.filter, wire)
        done.set()

    if last:
        engine.call_last(peer.loop, put)
    else:
        put()
    await asyncio.wait_for(done.wait(), 10)
    assert await peer.conn.read(b"\n", timeout=10) == b"line\n"
    peer.close()
    await listener.close()


@pytest.mark.parametrize(
    "make",
    [
        bytearray,
        memoryview,
        lambda data: memoryview(b"y" + data + b"z")[1:-1],
        lambda data: memoryview(bytearray(data)),
    ],
    ids=["bytearray", "of bytes", "of a part", "of a bytearray"],
)
async def test_a_long_buffer_that_changes_afterwards(make: Callable[[bytes], Any]) -> None:
    one, other = await filtered_pair()
    written = make(b"x" * 100_000)
    one.write(written)
    if type(written) is bytearray:
        written[:] = bytes(len(written))
    assert await other.read(100_000, timeout=10) == b"x" * 100_000
    one.close()
    other.close()


@pytest.mark.parametrize("method", ["open", "seal"])
async def test_a_filter_with_a_defect(method: str) -> None:
    """It is reported; other connections are served, and what they wrote is sent."""
    reported: asyncio.Queue[type] = asyncio.Queue()

    def fails(*_: object) -> bytes:
        raise ZeroDivisionError

    peer, listener = await connected()
    one, other = await tcp_pair()
    conn = peer.conn
    conn._put_filter(peer.filter)
    await peer.send(HELLO)
    await conn._wait_ready()
    peer.loop.set_exception_handler(
        lambda _, context: reported.put_nowait(type(context["exception"]))
    )
    try:
        setattr(peer.filter, method, fails)
        conn.write(b"x")
        one.write(b"x\n")
        if method == "open":
            await peer.send(b"x")
            with pytest.raises(ConnectionAbortedError):
                await conn.read(timeout=10)
        assert await asyncio.wait_for(reported.get(), 10) is ZeroDivisionError
        assert await other.read(b"\n", timeout=10) == b"x\n"
    finally:
        peer.loop.set_exception_handler(None)
    for each in (one, other):
        each.close()
    peer.close()
    await listener.close()


async def test_a_defect_in_what_tls_calls() -> None:
    reported: asyncio.Queue[type] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def fails(_: object) -> None:
        raise ZeroDivisionError

    one, other = await tcp_pair()
    name = certificates.NAME
    other._put_filter(certificates.server().new_session(name))
    context = certificates.client().context
    one._put_filter(tls_kinds.kind(context, is_server=False, server_name=name, remember=fails))
    await one._wait_ready()
    loop.set_exception_handler(lambda _, context: reported.put_nowait(type(context["exception"])))
    try:
        other.write(b"x\n")
        with pytest.raises(ConnectionAbortedError, match="filter"):
            await one.read(timeout=10)
        assert await asyncio.wait_for(reported.get(), 10) is ZeroDivisionError
    finally:
        loop.set_exception_handler(None)
    for each in (one, other):
        each.close()


@pytest.mark.parametrize("method", ["seal", "finish"])
async def test_a_filter_that_cannot_send(method: str) -> None:
    def fails(*_: object) -> bytes:
        raise ConnectionAbortedError(103, "No more keys")

    peer, listener = await connected()
    conn = peer.conn
    conn._put_filter(peer.filter)
    await peer.send(HELLO)
    await conn._wait_ready()
    setattr(peer.filter, method, fails)
    if method == "seal":
        conn.write(b"x")
        with pytest.raises(ConnectionAbortedError, match="No more keys"):
            await conn.read()
    conn.close()
    assert await peer.receive(100) == HELLO
    await conn.wait_closed()
    peer.close()
    await listener.close()


async def test_the_last_message_precedes_fin_and_ends_the_stream() -> None:
    peer, listener = await connected()
    conn = peer.conn
    conn._put_filter(peer.filter)
    await peer.send(HELLO + Xor(KEY).seal(b"all") + bytes(4) + b"ignored")
    assert await conn.read(3) == b"all"
    with pytest.raises(EndOfStream) as caught:
        await conn.read()
    assert not isinstance(caught.value, TruncatedStream)
    conn.close_write()
    assert await peer.receive(9) == HELLO + bytes(4)
    conn.close()
    peer.close()
    await listener.close()


@pytest.mark.parametrize("wire", [b"", (5).to_bytes(4, "big") + b"ab"], ids=["between", "within"])
async def test_a_stream_that_is_cut_off(wire: bytes) -> None:
    peer, listener = await connected()
    conn = peer.conn
    conn._put_filter(peer.filter)
    await peer.send(HELLO + Xor(KEY).seal(b"line\nhalf") + wire)
    peer.sock.shutdown(socket.SHUT_WR)
    lines: list[bytes] = []
    with pytest.raises(TruncatedStream) as caught:
        async for line in conn:
            lines += [line]
    assert lines == [b"line\n"]
    assert caught.value.partial == b"half"
    with pytest.raises(TruncatedStream):
        await conn.read(b"\n")
    assert await conn.read(4) == b"half"
    with pytest.raises(TruncatedStream):
        await conn.read()
    peer.close()
    await listener.close()


async def test_bytes_that_make_no_sense_end_the_connection() -> None:
    peer, listener = await connected()
    conn = peer.conn
    conn._put_filter(peer.filter)
    waiting = asyncio.ensure_future(conn.read())
    await peer.send(b"GET / HTTP/1.1")
    with pytest.raises(ConnectionAbortedError, match="did not say hello"):
        await waiting
    with pytest.raises(ConnectionAbortedError, match="did not say hello"):
        conn.write(b"x")
    with pytest.raises(ConnectionAbortedError, match="did not say hello"):
        await conn._wait_ready()
    assert await peer.receive(100) == HELLO + b"no hello"
    assert not conn.is_alive
    peer.close()
    await listener.close()


async def test_the_peer_leaves_during_the_handshake() -> None:
    peer, listener = await connected()
    conn = peer.conn
    conn._put_filter(peer.filter)
    waiting = asyncio.ensure_future(conn._wait_ready())
    await peer.send(HELLO[:2])
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionAbortedError, match="before the handshake was complete"):
        await waiting
    peer.close()
    await listener.close()


async def test_a_filter_cannot_be_put_in_everywhere() -> None:
    peer, listener = await connected()
    conn = peer.conn
    reader = asyncio.ensure_future(conn.read())
    await asyncio.sleep(0)
    with pytest.raises(ConcurrentRead):
        conn._put_filter(Xor(KEY))
    reader.cancel()
    await asyncio.wait([reader])
    conn._put_filter(peer.filter)
    with pytest.raises(RuntimeError, match="a filter already"):
        conn._put_filter(Xor(KEY))
    conn.close()
    peer.close()
    await listener.close()
    peer, listener = await connected()
    peer.conn.close_write()
    with pytest.raises(ConnectionClosed):
        peer.conn._put_filter(Xor(KEY))
    peer.close()
    await listener.close()


@pytest.mark.no_engine
@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 30)), st.integers(0, 255))
def test_any_cut_of_the_wire_gives_the_same_bytes(
    writes: list[bytes], cuts: list[int], key: int
) -> None:
    sealer, opener = Xor(key), Xor(key)
    wire = sealer.pending() + b"".join(sealer.seal(data) for data in writes) + sealer.finish()
    plaintext = b""
    for cut in [*cuts, len(wire)]:
        piece, wire = wire[:cut], wire[cut:]
        plaintext += opener.open(piece)
    assert plaintext == b"".join(writes)
    assert opener.is_ended
