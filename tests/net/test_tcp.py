"""Connections, handlers and listeners over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from silly._engine import engine
from silly.errors import (
    ConcurrentRead,
    ConnectionClosed,
    EndOfStream,
    LimitExceeded,
    WriteQueueFull,
)
from silly.net import listener as listener_module
from silly.net import listening, tcp
from silly.net.addr import Address
from silly.net.listening import Opened
from silly.net.tcp import Conn

ANY = "127.0.0.1:0"
Pair = tuple[Conn, Conn, tcp.Listener]


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


@asynccontextmanager
async def pair(addr: str = ANY, **limits: Any) -> AsyncIterator[Pair]:
    """Give a client, the server's end of its connection, and the listener."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Conn] = loop.create_future()
    done = asyncio.Event()

    async def handler(conn: Conn) -> None:
        accepted.set_result(conn)
        await done.wait()

    listener = tcp.listen(addr, handler, **limits)
    client = await tcp.connect(listener.local_addr)
    try:
        yield client, await accepted, listener
    finally:
        done.set()
        client.abort()
        await client.wait_closed()
        await listener.close(0)


@asynccontextmanager
async def raw_pair(**limits: Any) -> AsyncIterator[tuple[socket.socket, Conn]]:
    """Give a plain blocking socket and the server's end of its connection."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Conn] = loop.create_future()
    done = asyncio.Event()

    async def handler(conn: Conn) -> None:
        accepted.set_result(conn)
        await done.wait()

    listener = tcp.listen(ANY, handler, **limits)
    host, port = listener.local_addr.split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.settimeout(10)
        try:
            yield sock, await accepted
        finally:
            done.set()
            await listener.close(0)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


# ------------------------------------------------------------------ addresses


@pytest.mark.parametrize("addr", [ANY, "[::1]:0", "localhost:0", ":0"])
async def test_every_form_listens_and_connects(addr: str) -> None:
    async with tcp.listen(addr, echo) as listener:
        for local in listener.local_addrs:
            port = local.rpartition(":")[2]
            assert port == listener.local_addr.rpartition(":")[2]
        async with await tcp.connect(f":{port}" if addr == ":0" else listener.local_addr) as conn:
            conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
            assert conn.local_addr != conn.remote_addr


async def test_both_families_share_the_port_and_report_their_own_addresses() -> None:
    seen: list[str] = []

    async def handler(conn: Conn) -> None:
        seen.append(conn.remote_addr)

    async with tcp.listen(":0", handler) as listener:
        port = listener.local_addr.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            async with await tcp.connect(f"{host}:{port}") as conn:
                with pytest.raises(EndOfStream):
                    await conn.read()
    assert seen[0].startswith("127.0.0.1:")
    assert seen[1].startswith("[::1]:")


async def test_unix_socket_and_its_path(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()  # the file of a dead program is replaced
    listener = tcp.listen(f"unix:{path}", echo)
    assert listener.local_addr == f"unix:{path}"
    with pytest.raises(OSError, match="Address already in use") as failed:
        tcp.listen(f"unix:{path}", echo)
    assert failed.value.filename == f"unix:{path}"
    async with await tcp.connect(f"unix:{path}") as conn:
        conn.write(b"hello\n")
        assert await conn.read(b"\n") == b"hello\n"
        assert conn.remote_addr == f"unix:{path}"
    await listener.close()
    assert not path.exists()


async def test_bind_picks_the_local_address() -> None:
    async with tcp.listen(ANY, echo) as listener:
        async with await tcp.connect(listener.local_addr, bind="127.0.0.2:0") as conn:
            assert conn.local_addr.startswith("127.0.0.2:")
        with pytest.raises(OSError, match="same family"):
            await tcp.connect(listener.local_addr, bind="[::1]:0")


# --------------------------------------------------------------- bad arguments


BAD_READS: list[tuple[type[Exception], str, dict[str, Any]]] = [
    *((TypeError, "until", {"until": value}) for value in ("\n", 1.5, True, [b"\n"])),
    *((ValueError, "until", {"until": value}) for value in (b"", -1)),
    *((TypeError, "timeout", {"timeout": value}) for value in ("1", True)),
    *((ValueError, "timeout", {"timeout": value}) for value in (-1, float("nan"))),
    (ValueError, "limit", {"until": b"\n", "limit": 0}),
    (TypeError, "limit", {"until": b"\n", "limit": 1.5}),
    (ValueError, "limit goes with a delimiter", {"until": 5, "limit": 10}),
]


async def test_bad_arguments_raise_at_the_call() -> None:
    async with pair() as (conn, _, _):
        for kind, message, arguments in BAD_READS:
            with pytest.raises(kind, match=message):
                _ = conn.read(**arguments)
        for data in ("text", None, 5, [b"a", "b"], [1]):
            wrong: Any = data
            with pytest.raises(TypeError, match="data"):
                conn.write(wrong)
        assert conn.unsent_bytes == 0
        for name in ("read_limit", "max_unsent"):
            with pytest.raises(ValueError, match=name):
                setattr(conn, name, 0)
        with pytest.raises(ValueError, match="idle_timeout"):
            conn.idle_timeout = 0
        with pytest.raises(ValueError, match="linger"):
            conn.linger = -1
    with pytest.raises(TypeError, match="handler"):
        tcp.listen(ANY, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backlog"):
        tcp.listen(ANY, echo, 0)
    with pytest.raises(ValueError, match="port 0"):
        _ = tcp.connect(ANY)
    with pytest.raises(ValueError, match="expected"):
        _ = tcp.connect("127.0.0.1")
    with pytest.raises(ValueError, match="bind"):
        _ = tcp.connect("127.0.0.1:1", bind="unix:/x")


def test_without_a_loop_the_error_gives_a_solution() -> None:
    with pytest.raises(RuntimeError, match=r"silly FILE\.py"):
        tcp.listen(ANY, echo)


# ------------------------------------------------------------ failing to connect


async def test_port_in_use_names_the_address_and_a_solution() -> None:
    async with tcp.listen(ANY, echo) as listener:
        with pytest.raises(OSError, match="choose another port") as failed:
            tcp.listen(listener.local_addr, echo)
        assert failed.value.errno == errno.EADDRINUSE
        assert failed.value.filename == listener.local_addr


async def test_refused_and_unresolvable_name_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        addr = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError, match=addr):
            await tcp.connect(addr)
    with pytest.raises(socket.gaierror, match=r"no-such-host\.invalid:80"):
        await tcp.connect("no-such-host.invalid:80")
    with pytest.raises(OSError, match="no interface"):
        tcp.listen("192.0.2.1:0", echo)


async def test_all_resolved_addresses_are_tried(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tcp.listen(f"127.0.0.1:{port}", echo):

        async def resolve(*_: object) -> list[tuple[int, Any]]:
            return [
                (socket.AF_INET6, ("::1", port, 0, 0)),  # refused
                (socket.AF_INET, ("127.0.0.1", port)),
            ]

        monkeypatch.setattr("silly.net.dialing._resolve", resolve)
        async with await tcp.connect(f"example.invalid:{port}") as conn:
            assert conn.remote_addr == f"127.0.0.1:{port}"
    with pytest.raises(ConnectionRefusedError) as failed:
        await tcp.connect(f"example.invalid:{port}")
    assert len(failed.value.__notes__) == 2


async def test_connect_timeout_names_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> list[Any]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr("silly.net.dialing._resolve", never)
    with pytest.raises(TimeoutError, match=r"within 0\.01 seconds: 'slow:80'"):
        await tcp.connect("slow:80", timeout=0.01)


# ------------------------------------------------------------------- reading


async def test_reads_of_each_kind() -> None:
    async with raw_pair() as (sock, conn):
        sock.sendall(b"line\nab\r\ncd12345rest")
        assert await conn.read(b"\n") == b"line\n"
        assert await conn.read(b"\r\n") == b"ab\r\n"
        assert await conn.read(2) == b"cd"
        assert await conn.read(0) == b""
        assert await conn.read(5) == b"12345"
        assert conn.unread_bytes == 4
        assert await conn.read(conn.unread_bytes) == b"rest"
        sock.sendall(b"x")
        assert await conn.read() == b"x"


async def test_timeout_cancellation_and_limit_lose_nothing() -> None:
    async with raw_pair() as (sock, conn):
        sock.sendall(b"abcdefgh")
        with pytest.raises(TimeoutError, match=conn.remote_addr):
            await conn.read(b"\n", timeout=0.01)
        reader = asyncio.create_task(conn.read(100))
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        for _ in range(2):
            with pytest.raises(LimitExceeded, match="8 bytes") as failed:
                await conn.read(b"\n", limit=8)
            assert failed.value.address == conn.remote_addr
        sock.sendall(b"\n")
        assert await conn.read(b"\n") == b"abcdefgh\n"


async def test_limit_counts_found_lines_too() -> None:
    async with raw_pair() as (sock, conn):
        sock.sendall(b"12345678\nx")
        await conn.read(b"1")  # now everything is buffered
        with pytest.raises(LimitExceeded):
            await conn.read(b"\n", limit=7)
        assert await conn.read(b"\n", limit=8) == b"2345678\n"


async def test_a_delimiter_that_has_begun_may_still_fit_the_limit() -> None:
    async with raw_pair() as (sock, conn):
        sock.sendall(b"abc\r")
        reader = asyncio.create_task(conn.read(b"\r\n", limit=5))
        await until(lambda: conn.unread_bytes == 4)
        sock.sendall(b"\n")
        assert await reader == b"abc\r\n"
        sock.sendall(b"abcd")
        with pytest.raises(LimitExceeded):  # without another byte
            await conn.read(b"\r\n", limit=5, timeout=10)
        assert await conn.read() == b"abcd"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_delimiter_is_anything_like_bytes(kind: Callable[[bytes], Any]) -> None:
    async with raw_pair() as (sock, conn):
        sock.sendall(b"a\r\nb")
        assert await conn.read(kind(b"\r\n")) == b"a\r\n"


async def test_a_higher_read_limit_lets_more_come() -> None:
    size = 2_000_000
    async with raw_pair(read_limit=5000) as (sock, conn):
        sender = asyncio.create_task(asyncio.to_thread(sock.sendall, b"x" * size))
        await until(lambda: conn.unread_bytes >= 5000)
        for _ in range(20):
            await asyncio.sleep(0)
        assert conn.unread_bytes < size
        conn.read_limit = 2 * size
        await until(lambda: conn.unread_bytes == size)
        await sender


async def test_end_of_stream_keeps_unread_bytes() -> None:
    async with raw_pair() as (sock, conn):
        sock.sendall(b"whole\npart")
        sock.shutdown(socket.SHUT_WR)
        assert [line async for line in conn] == [b"whole\n", b"part"]
        with pytest.raises(EndOfStream):
            await conn.read()
    async with raw_pair() as (sock, conn):
        sock.sendall(b"part")
        sock.shutdown(socket.SHUT_WR)
        for _ in range(2):
            with pytest.raises(EndOfStream) as failed:
                await conn.read(b"\n")
            assert failed.value.partial == b"part"
        assert await conn.read(4) == b"part"
        conn.write(b"answer")  # half-closed: this direction still works
        conn.close()
        assert sock.recv(100) == b"answer"


async def test_second_reader_is_refused_and_the_first_is_unaffected() -> None:
    async with raw_pair() as (sock, conn):
        first = asyncio.create_task(conn.read(3))
        await asyncio.sleep(0)
        for what in (b"\n", 0, 1, None):
            with pytest.raises(ConcurrentRead):
                await conn.read(what)
        sock.sendall(b"abc")
        assert await first == b"abc"


@pytest.mark.heavy
async def test_read_far_above_read_limit_completes() -> None:
    size = 5_000_000
    async with raw_pair(read_limit=1000) as (sock, conn):
        sender = asyncio.create_task(asyncio.to_thread(sock.sendall, b"x" * size))
        assert len(await conn.read(size)) == size
        await sender


async def test_unread_connection_costs_bounded_memory() -> None:
    async with raw_pair(read_limit=10_000) as (sock, conn):
        sock.setblocking(False)
        sent = idle = 0
        while idle < 50:
            try:
                sent += sock.send(b"x" * 65536)
                idle = 0
            except BlockingIOError:
                idle += 1
            await asyncio.sleep(0)
        assert conn.unread_bytes <= 10_000 + 256 * 1024
        got = 0
        while got < sent:
            got += len(await conn.read())
        assert got == sent


# ------------------------------------------------------------------- writing


async def test_writes_keep_their_order_and_copy_mutable_data() -> None:
    async with raw_pair() as (sock, conn):
        mutable = bytearray(b"2")
        conn.write(b"1")
        conn.write(mutable)
        mutable[:] = b"X"
        await conn.write([b"3", memoryview(b"4")])
        await conn.write(b"5" for _ in range(2))
        await asyncio.sleep(0)
        assert sock.recv(100) == b"123455"


async def test_backpressure_and_the_full_queue() -> None:
    async with raw_pair(max_unsent=200_000) as (sock, conn):
        with pytest.raises(WriteQueueFull) as failed:
            for _ in range(10_000):
                conn.write(b"x" * 50_000)
        assert failed.value.address == conn.remote_addr
        before = conn.unsent_bytes
        assert 0 < before <= 200_000
        with pytest.raises(WriteQueueFull):
            conn.write(b"x" * 200_000)
        assert conn.unsent_bytes == before
        waiter = asyncio.ensure_future(conn.write(b"tail"))
        await asyncio.sleep(0)
        assert not waiter.done()
        waiter.cancel()
        await asyncio.wait((waiter,))
        total = conn.stats.bytes_out + conn.unsent_bytes
        reader = asyncio.create_task(asyncio.to_thread(receive, sock, total))
        await conn.write(b"")
        data = await reader
        assert data.endswith(b"xtail")


def receive(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := sock.recv(1 << 20)):
        data += piece
    return bytes(data)


async def test_awaited_writes_are_never_refused() -> None:
    async with raw_pair(max_unsent=1000) as (sock, conn):
        reader = asyncio.create_task(asyncio.to_thread(receive, sock, 10_000_000))
        for _ in range(10):
            await conn.write(b"x" * 1_000_000)
        assert len(await reader) == 10_000_000


# ------------------------------------------------------------------- closing


async def test_close_sends_everything_to_a_slow_peer_that_still_talks() -> None:
    size = 6_000_000
    async with raw_pair() as (sock, conn):
        sock.sendall(b"never read" * 1000)
        conn.write(b"x" * size)
        conn.close()
        conn.close()
        assert not conn.is_alive
        data = await asyncio.to_thread(receive, sock, size + 1)
        assert len(data) == size  # then FIN, and no reset
        sock.close()
        await conn.wait_closed()


async def test_linger_bounds_the_close() -> None:
    async with raw_pair(linger=0.05) as (sock, conn):
        conn.write(b"x" * 50_000_000)
        conn.close()
        await conn.wait_closed()
        with pytest.raises(ConnectionResetError):
            receive(sock, 50_000_000)


async def test_after_close_everything_raises_active_closed() -> None:
    async with raw_pair() as (sock, conn):
        sock.sendall(b"unread\n")
        reader = asyncio.create_task(conn.read(100))
        await until(lambda: conn.unread_bytes == 7)
        conn.close()
        with pytest.raises(ConnectionClosed, match="active closed"):
            await reader
        for what in (b"\n", 0, None):
            with pytest.raises(ConnectionClosed, match=conn.remote_addr):
                await conn.read(what)
        with pytest.raises(ConnectionClosed):
            conn.write(b"x")


async def test_abort_resets_the_peer() -> None:
    async with pair() as (client, server, _):
        server.write(b"lost")
        server.abort()
        with pytest.raises(ConnectionResetError, match=client.remote_addr) as failed:
            await client.read(100)
        assert failed.value.errno == errno.ECONNRESET
        with pytest.raises(ConnectionResetError, match=client.remote_addr):
            client.write(b"x")
        assert not client.is_alive
        await client.wait_closed()


async def test_bytes_that_arrived_before_a_reset_stay_readable() -> None:
    async with raw_pair() as (sock, conn):
        sock.sendall(b"last words\n")
        await until(lambda: conn.unread_bytes > 0)
        reset(sock)
        await until(lambda: not conn.is_alive)
        assert await conn.read(b"\n") == b"last words\n"
        with pytest.raises(ConnectionResetError):
            await conn.read()


async def test_reading_works_after_half_close() -> None:
    async with pair() as (client, server, _):
        client.write(b"question")
        client.close_write()
        client.close_write()
        with pytest.raises(ConnectionClosed, match="close_write"):
            client.write(b"more")
        with pytest.raises(EndOfStream):
            await server.read(100)
        server.write(b"answer")
        assert await client.read(6) == b"answer"


async def test_async_with_waits_for_the_end() -> None:
    async with tcp.listen(ANY, echo) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"x\n")
        closed = asyncio.create_task(conn.wait_closed())
        await asyncio.sleep(0)
        assert closed.done()


# ---------------------------------------------------------------- idle timeout


async def test_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async with raw_pair(idle_timeout=0.05) as (sock, conn):
        with pytest.raises(TimeoutError, match=r"Idle for 0\.05 seconds"):
            await conn.read()
        with pytest.raises(TimeoutError):
            conn.write(b"x")
        await conn.wait_closed()
        assert sock.recv(1) == b""
    async with raw_pair(idle_timeout=30) as (sock, conn):
        assert conn.idle_timeout == 30
        conn.idle_timeout = None
        sock.sendall(b"x")
        assert await conn.read() == b"x"


# ------------------------------------------------------- handlers and listeners


async def test_crash_is_logged_once_with_the_peer_and_affects_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(conn: Conn) -> None:
        async for line in conn:
            if line == b"crash\n":
                raise ZeroDivisionError("on purpose")
            await conn.write(line)

    async with tcp.listen(ANY, handler) as listener:
        async with await tcp.connect(listener.local_addr) as good:
            async with await tcp.connect(listener.local_addr) as bad:
                bad.write(b"crash\n")
                with pytest.raises(EndOfStream):
                    await bad.read()
                address = bad.local_addr
            good.write(b"still here\n")
            assert await good.read(b"\n") == b"still here\n"
        assert listener.stats.handler_errors == 1
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(records) == 1
    assert address in records[0].getMessage()
    assert records[0].exc_info is not None


async def test_losing_the_connection_is_a_normal_end(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(conn: Conn) -> None:
        conn.write(b"?")
        await conn.read(b"\n")

    async with tcp.listen(ANY, handler) as listener:
        async with await tcp.connect(listener.local_addr):
            pass  # FIN
        conn = await tcp.connect(listener.local_addr)
        await conn.read(1)
        conn.abort()  # RST
        await conn.wait_closed()
        await until(lambda: listener.connections == 0)
        assert listener.stats.accepted == 2
        assert listener.stats.handler_errors == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_plain_function_as_handler_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def plain(conn: Conn) -> None:
        conn.write(b"x")

    wrong: Any = plain
    async with tcp.listen(ANY, wrong) as listener, await tcp.connect(listener.local_addr) as conn:
        assert await conn.read(1) == b"x"
        with pytest.raises(EndOfStream):
            await conn.read()
    assert "async def" in str(caplog.records[0].exc_info)


async def test_a_handler_may_return_anything_that_can_be_awaited() -> None:
    class Handling:
        def __init__(self, conn: Conn) -> None:
            self._conn = conn

        def __await__(self) -> Generator[Any, Any, None]:
            return echo(self._conn).__await__()

    for handler in (Handling, lambda conn: asyncio.ensure_future(echo(conn))):
        async with (
            tcp.listen(ANY, handler) as listener,
            await tcp.connect(listener.local_addr) as conn,
        ):
            conn.write(b"x\n")
            assert await conn.read(b"\n") == b"x\n"


async def test_close_lets_handlers_finish_then_cancels(port: int) -> None:
    reached = asyncio.Event()
    cancelled: list[str] = []

    async def handler(conn: Conn) -> None:
        try:
            request = await conn.read(b"\n")
            if request == b"long\n":
                reached.set()
                await asyncio.Event().wait()
            await conn.write(request)
        except asyncio.CancelledError:
            cancelled.append(conn.remote_addr)
            raise

    listener = tcp.listen(f"127.0.0.1:{port}", handler)
    short = await tcp.connect(listener.local_addr)
    long = await tcp.connect(listener.local_addr)
    long.write(b"long\n")
    await reached.wait()
    closing = listener.close(grace=60)
    with pytest.raises(ConnectionRefusedError):
        await tcp.connect(listener.local_addr)
    short.write(b"short\n")
    assert await short.read(b"\n") == b"short\n"
    assert not closing.done()
    await listener.close(grace=0)  # can only shorten the grace
    await closing
    assert cancelled == [long.local_addr]
    assert listener.connections == 0
    for conn in (short, long):
        conn.close()
        await conn.wait_closed()


async def test_handler_that_ignores_cancellation_does_not_block_the_close(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener_module, "_AFTER_CANCEL", 0.01)
    release = asyncio.Event()

    async def stubborn(_conn: Conn) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    listener = tcp.listen(ANY, stubborn)
    async with await tcp.connect(listener.local_addr) as conn:
        await until(lambda: listener.connections == 1)
        await listener.close(0)
        with pytest.raises(ConnectionResetError):
            await conn.read()
        assert "is still running after it was cancelled" in caplog.text
        release.set()


async def test_a_plain_function_is_no_handler() -> None:
    called = []

    def fails(conn: Conn) -> Any:
        called.append(conn)
        raise ZeroDivisionError

    async with tcp.listen(ANY, fails) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            with pytest.raises(EndOfStream):
                await conn.read()
        assert len(called) == 1
        assert listener.stats.handler_errors_by_type == {"ZeroDivisionError": 1}


async def test_a_connection_that_comes_when_the_time_to_close_is_over_is_reset() -> None:
    """It was accepted before, and could be set up only then."""
    handled = []

    async def handler(conn: Conn) -> None:
        handled.append(conn)

    async with tcp.listen(ANY, handler) as listener:
        listener._course.close_at(asyncio.get_running_loop().time())
        with pytest.raises(ConnectionResetError):
            await (await tcp.connect(listener.local_addr)).read()
    assert not handled


async def test_a_listener_that_cannot_begin_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    serves = tcp.Listener._serve
    served: list[object] = []

    def serve(self: tcp.Listener, sock: socket.socket) -> Any:
        if served:
            raise OSError(errno.ENOSPC, "No space left on device")  # of epoll_ctl
        served.append(serves(self, sock))
        return served[0]

    with monkeypatch.context() as patch:
        patch.setattr(tcp.Listener, "_serve", serve)
        patch.setattr(
            "silly.net.listening._resolve",
            lambda _: [(socket.AF_INET, (f"127.0.0.{host}", port)) for host in (1, 2)],
        )
        with pytest.raises(OSError, match="No space left"):
            tcp.listen(f"localhost:{port}", echo)
    assert served
    async with tcp.listen(f"127.0.0.1:{port}", echo):
        pass


async def test_what_comes_last_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def last() -> None:
        raise ZeroDivisionError

    listener = tcp.listen(ANY, echo)
    listener._extend((), last)
    await listener.close()
    assert f"{listener.local_addr}: what comes last failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_the_signature_tells_which_defaults_are_of_limits() -> None:
    assert "max_unsent: 'int | _Unset' = FROM_LIMITS" in str(inspect.signature(tcp.listen))


async def test_what_the_operating_system_gives_up_is_told_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def attempt(*_: object) -> socket.socket:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out", "192.0.2.1:80")

    monkeypatch.setattr("silly.net.dialing._attempt", attempt)
    with pytest.raises(TimeoutError, match=r"Connection timed out: '192\.0\.2\.1:80'"):
        await tcp.connect("192.0.2.1:80", timeout=None)


async def test_a_connection_that_cannot_be_set_up_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with tcp.listen(ANY, echo) as listener:
        attaches = engine.attach

        async def attach(*arguments: Any) -> None:
            await attaches(*arguments)
            raise asyncio.CancelledError

        monkeypatch.setattr(engine, "attach", attach)
        with pytest.raises(asyncio.CancelledError):
            await tcp.connect(listener.local_addr)
        await until(lambda: not listener.connections)
        assert listener.stats.accepted == 1


async def test_why_a_connection_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "no room for it")

    async with tcp.listen(ANY, echo) as listener:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # uvloop tells it, too
        monkeypatch.setattr("silly.net.clients.EngineConn", fail)
        try:
            with pytest.raises(OSError, match="no room for it"):
                await tcp.connect(listener.local_addr)
        finally:
            loop.set_exception_handler(None)
        await until(lambda: listener.stats.accepted == 1 and not listener.connections)


async def test_handler_may_close_its_own_listener() -> None:
    async def handler(conn: Conn) -> None:
        await listener.close()
        await conn.write(b"closed\n")

    listener = tcp.listen(ANY, handler)
    async with await tcp.connect(listener.local_addr) as conn:
        assert await conn.read(b"\n") == b"closed\n"
    await listener.wait_closed()


async def test_serve_forever_ends_with_the_listener() -> None:
    listener = tcp.listen(ANY, echo)
    server = asyncio.create_task(listener.serve_forever())
    await asyncio.sleep(0)
    server.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server
    assert not listener.is_accepting
    await listener.serve_forever()


@pytest.mark.parametrize("at", ["read", "write", "close twice", "peer's connection"])
async def test_cancelled_or_misbehaving_handlers_affect_no_other(at: str) -> None:
    others: list[Conn] = []
    handlers: list[asyncio.Task[Any] | None] = []
    reached = asyncio.Event()

    async def misbehaving(conn: Conn) -> None:
        others.append(conn)
        handlers.append(asyncio.current_task())
        if len(others) == 1:
            return await echo(conn)
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "read": lambda: conn.read(10),
            "write": lambda: conn.write(b"x" * 50_000_000),
            "close twice": conn.wait_closed,
            "peer's connection": conn.wait_closed,
        }
        if at == "close twice":
            conn.close()
            conn.close()
        if at == "peer's connection":
            others[1].abort()
        reached.set()
        await steps[at]()
        return None

    async with tcp.listen(ANY, misbehaving) as listener:
        async with await tcp.connect(listener.local_addr) as good:
            good.write(b"1\n")
            assert await good.read(b"\n") == b"1\n"
            bad = None
            with contextlib.suppress(ConnectionResetError):  # the abort may be faster
                bad = await tcp.connect(listener.local_addr)
            await reached.wait()
            good.write(b"2\n")
            assert await good.read(b"\n") == b"2\n"
            if at in ("read", "write"):
                assert handlers[1] is not None
                handlers[1].cancel()
                await asyncio.wait((handlers[1],))
                assert handlers[1].cancelled()
                assert not others[1].is_alive
            if bad is not None:
                bad.abort()
                await bad.wait_closed()
            good.write(b"3\n")
            assert await good.read(b"\n") == b"3\n"


async def test_statistics() -> None:
    async with pair() as (client, server, listener):
        client.write(b"12345\n")
        assert await server.read(b"\n") == b"12345\n"
        stats = server.stats
        assert (stats.bytes_in, stats.bytes_out) == (6, 0)
        assert client.stats.bytes_out == 6
        assert stats.opened_at <= stats.last_activity
        assert listener.stats.bytes_in == 6
        assert listener.connections == listener.stats.connections == 1
        assert client.remote_addr in repr(client)
        assert "accepting" in repr(listener)


async def test_busy_polling_serves_and_stops_with_the_listener() -> None:
    async with tcp.listen(ANY, echo, busy_poll=0.001) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            for number in range(100):
                conn.write(b"%d\n" % number)
                assert await conn.read(b"\n") == b"%d\n" % number
    with pytest.raises(ValueError, match="busy_poll must be zero or more seconds"):
        tcp.listen(ANY, echo, busy_poll=-1)
    with pytest.raises(TypeError, match="busy_poll must be a number of seconds"):
        tcp.listen(ANY, echo, busy_poll="fast")  # type: ignore[arg-type]


async def test_busy_polling_lets_the_loop_run_and_handles_every_ending() -> None:
    async def handler(conn: Conn) -> None:
        async for line in conn:
            await asyncio.sleep(0)  # a pass of the loop
            await conn.write(line)
            if line == b"end\n":
                conn.close()

    async with tcp.listen(ANY, handler, busy_poll=0.01) as listener:
        for ending in ("end", "reset", "finish"):
            conn = await tcp.connect(listener.local_addr)
            for _ in range(20):
                conn.write(b"x\n")
                assert await conn.read(b"\n") == b"x\n"
            if ending == "end":
                conn.write(b"end\n")
                assert await conn.read(b"\n") == b"end\n"
            elif ending == "finish":
                conn.close_write()
            if ending == "reset":
                conn.abort()
            else:
                with pytest.raises(EndOfStream):
                    await conn.read()
                conn.close()
            await conn.wait_closed()
        assert listener.stats.handler_errors == 0


@pytest.mark.parametrize("reader", ["waits", "gives up", "takes counts"])
async def test_long_pieces_arrive_complete(reader: str) -> None:
    data = bytes(range(256)) * 2000
    async with pair() as (client, server, _):
        writer = asyncio.create_task(_write_in_pieces(client, data))
        received = [await server.read()]
        while sum(map(len, received)) < len(data):
            if reader == "gives up":
                reading = asyncio.ensure_future(server.read())
                await asyncio.sleep(0)
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    received.append(await reading)
            if reader == "takes counts" and server.unread_bytes > 1000:
                received.append(await server.read(1000))
            else:
                received.append(await server.read())
        await writer
        assert b"".join(received) == data


async def _write_in_pieces(conn: Conn, data: bytes) -> None:
    for start in range(0, len(data), 40_000):
        await conn.write(data[start : start + 40_000])
        await asyncio.sleep(0)


@pytest.mark.parametrize("passes", range(6))
async def test_connections_accepted_while_the_listener_closes_are_served(
    passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[socket.socket] = []

    def keeping(address: Address, backlog: int, **options: Any) -> Opened:
        opened = opening(address, backlog, **options)
        kept.extend(sock.dup() for sock in opened.sockets)
        return opened

    opening = listening.open_sockets
    monkeypatch.setattr(listening, "open_sockets", keeping)
    listener = tcp.listen(ANY, echo)
    for _ in range(5):
        await asyncio.sleep(0)
    with kept[0], socket.create_connection(kept[0].getsockname(), timeout=10) as sock:
        sock.sendall(b"x\n")
        sock.shutdown(socket.SHUT_WR)
        for _ in range(passes):
            await asyncio.sleep(0)
        await listener.close(grace=10)
        try:  # like another process with the same socket
            kept[0].accept()[0].close()
        except BlockingIOError:
            assert sock.recv(100) == b"x\n"  # it was not left in the backlog
