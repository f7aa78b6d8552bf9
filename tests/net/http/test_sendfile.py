"""Files that the kernel sends: whole, in order, at the pace of the client, or cut."""

from __future__ import annotations

import asyncio
import importlib
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from silly._engine import engine
from silly._engine.filter import NO_ROOM, UNABLE
from silly._engine.interface import UNSENT_IN_KERNEL
from silly.errors import EndOfStream
from silly.net import http, tcp, tls
from silly.net.http.bases import SENT
from silly.net.http.disk import PIECE
from silly.net.limits import Limits
from tests.net.http.wire import ANY, TIME, exchange, reply
from tests.net.tls import certificates
from tests.pairs import tcp_pair

SIZE = 2 * 1024 * 1024 + 7
CONTENT = os.urandom(4099) * (SIZE // 4099 + 1)
GET = b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n"
NEXT = b"GET /n HTTP/1.1\r\nhost: a\r\n\r\n"
LATER = b"Fri, 01 Jan 2100 00:00:00 GMT"  # than any file has changed
FILTER: Any = importlib.import_module(
    "silly._engine.native.filter" if engine.NAME == "native" else "silly._engine.filter"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "f"
    made.write_bytes(CONTENT[:SIZE])
    return made


@dataclass
class Call:
    """A call of sendfile(2)."""

    target: int
    offset: int  # in the file
    accepted: int  # bytes that it cannot send yet
    count: int = -1  # what it returned; -1: there was no room


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The engine's calls of sendfile(2)."""
    made: list[Call] = []

    def noted(target: int, file: int, offset: int, count: int) -> int:
        made.append(Call(target, offset, accepted(target)))
        made[-1].count = os.sendfile(target, file, offset, count)
        return made[-1].count

    monkeypatch.setattr(FILTER, "_sendfile", noted)
    return made


def accepted(target: int) -> int:
    """Return how many bytes that it cannot send yet the kernel accepts (TCP_NOTSENT_LOWAT)."""
    if not hasattr(socket, "TCP_NOTSENT_LOWAT"):
        return 0
    with socket.socket(fileno=os.dup(target)) as sock:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)


def is_known_in_memory(path: Path) -> bool:
    """Return whether the system says that it has the beginning of the file in memory."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except OSError:
            return False


def forget(path: Path) -> None:
    """Have the system write the file to the disk, and remove it from memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sends(path: Path) -> http.Handler:
    """Return a handler that answers with the file, or to other requests with ``next``."""

    async def handler(request: http.Request) -> http.Response:
        return http.file(path) if request.path == "/f" else http.Response("next")

    return handler


@contextmanager
def slow_client(listener: tcp.Listener, room: int = 32 * 1024) -> Iterator[socket.socket]:
    """A client whose receive buffer is small, and which has asked for the file."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        sock.connect(("127.0.0.1", int(listener.local_addr.rpartition(":")[2])))
        sock.sendall(GET)
        sock.setblocking(False)
        yield sock


async def until_stuck(listener: tcp.Listener, calls: list[Call]) -> None:
    """Wait until the client's connection takes no more."""
    async with asyncio.timeout(TIME):
        before = -1
        while True:
            stats = listener.stats
            is_full = calls[-1].count < 0 if calls else stats.unsent_bytes > 0
            if is_full and before == stats.bytes_out:
                return
            before = stats.bytes_out
            await asyncio.sleep(0.01)


async def receive(sock: socket.socket, size: int) -> bytes:
    """Return what comes until *size* bytes have followed the head."""
    received = b""
    async with asyncio.timeout(TIME):
        while len(received.partition(b"\r\n\r\n")[2]) < size:
            piece = await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
            if not piece:
                raise ConnectionResetError  # a FIN within the body is as good
            received += piece
    return received


@pytest.mark.parametrize("is_watched", [False, True])
async def test_a_file_is_sent_whole_and_in_order(
    path: Path, calls: list[Call], *, is_watched: bool
) -> None:
    async with http.listen(ANY, sends(path), access_log=is_watched) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            for _ in range(2):
                await conn.write(GET + NEXT)
                assert (await reply(conn)).body == CONTENT[:SIZE]
                assert (await reply(conn)).body == b"next"
            for start, end in ((5, 1000004), (SIZE - 7, SIZE - 1)):
                await conn.write(GET[:-2] + b"range: bytes=%d-%d\r\n\r\n" % (start, end) + NEXT)
                part = await reply(conn)
                assert part.status == 206
                assert part.body == CONTENT[start : end + 1]
                assert (await reply(conn)).body == b"next"
            await conn.write(GET.replace(b"GET", b"HEAD") + NEXT)
            assert (await reply(conn, "HEAD")).headers["content-length"] == str(SIZE)
            assert (await reply(conn)).body == b"next"
            await conn.write(GET[:-2] + b"if-modified-since: %b\r\n\r\n" % LATER + NEXT)
            assert (await reply(conn)).status == 304
            assert (await reply(conn)).body == b"next"
        assert listener.stats.bytes_out > 2 * SIZE + 1_000_000
        responses = http.service_of(listener).responses
        assert responses == {("GET", 200): 8, ("GET", 206): 2, ("HEAD", 200): 1, ("GET", 304): 1}
    if is_known_in_memory(path) and asyncio.get_running_loop().__module__.startswith("asyncio"):
        assert max(call.count for call in calls) > 0


@pytest.mark.heavy
async def test_what_is_encrypted_is_sent_piece_by_piece(path: Path, calls: list[Call]) -> None:
    server, client = tls.Server(*certificates.pair()), tls.Client(verify=False)
    async with http.listen(ANY, sends(path), tls=server) as listener:
        async with tcp.connect(listener.local_addr, tls=client) as conn:
            await conn.write(GET + NEXT)
            assert (await reply(conn)).body == CONTENT[:SIZE]
            assert (await reply(conn)).body == b"next"
    assert not calls


@pytest.mark.skipif(engine.NAME != "native", reason="the portable engine sends the head at once")
async def test_a_short_file_is_in_one_packet_with_its_head(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(CONTENT[:4096])
    arrived: list[bool] = []  # whether anything has, when the file is sent

    async with http.listen(ANY, sends(path)) as listener:
        with slow_client(listener) as sock:

            def noted(*arguments: int) -> int:
                arrived.append(bool(select.select([sock], [], [], 0)[0]))
                return os.sendfile(*arguments)

            monkeypatch.setattr(FILTER, "_sendfile", noted)
            assert (await receive(sock, 4096)).endswith(CONTENT[:4096])
    assert arrived == ([False] if is_known_in_memory(path) else [])


async def test_a_slow_client_gets_all_and_holds_little(path: Path, calls: list[Call]) -> None:
    async with http.listen(ANY, sends(path)) as listener:
        with slow_client(listener) as sock:
            await until_stuck(listener, calls)
            assert listener.stats.unsent_bytes <= 3 * PIECE
            closing = asyncio.ensure_future(listener.close())  # which waits for it
            received = await receive(sock, SIZE)
            await closing
    assert received.endswith(b"\r\n\r\n" + CONTENT[:SIZE])


@pytest.mark.heavy
async def test_a_file_that_becomes_shorter_is_cut(
    path: Path, calls: list[Call], caplog: pytest.LogCaptureFixture
) -> None:
    async with http.listen(ANY, sends(path)) as listener:
        with slow_client(listener) as sock:
            await until_stuck(listener, calls)
            os.truncate(path, 1000)
            with pytest.raises(ConnectionResetError):
                await receive(sock, SIZE)
        while not http.service_of(listener).crashes:
            await asyncio.sleep(0)
    assert "has become shorter" in caplog.text


async def test_a_file_that_becomes_longer_is_sent_as_it_was(path: Path) -> None:
    async def handler(request: http.Request) -> http.Response:
        response = http.file(path)
        with path.open("ab") as file:
            file.write(b"more")
        return response

    for size in (0, 1000):
        path.write_bytes(CONTENT[:size])
        async with http.listen(ANY, handler) as listener:
            async with tcp.connect(listener.local_addr) as conn:
                await conn.write(GET + GET)
                assert (await reply(conn)).body == CONTENT[:size]
                assert (await reply(conn)).body == CONTENT[:size] + b"more"


@pytest.mark.heavy
async def test_a_client_that_resets_amid_a_file_leaves_nothing(
    path: Path, calls: list[Call]
) -> None:
    async with http.listen(ANY, sends(path)) as listener:
        with slow_client(listener) as sock:
            await until_stuck(listener, calls)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        async with asyncio.timeout(TIME):
            while listener.stats.connections:
                await asyncio.sleep(0.01)
        assert http.service_of(listener).crashes == 0


@pytest.mark.heavy
async def test_a_client_that_stops_reading_is_ended(path: Path) -> None:
    limits = Limits(min_send_rate=1_000_000, send_window=0.2)
    async with http.listen(ANY, sends(path), limits=limits) as listener:
        with slow_client(listener):
            async with asyncio.timeout(TIME):
                while listener.stats.ended != {"min_send_rate": 1}:
                    await asyncio.sleep(0.01)


@pytest.mark.heavy
async def test_a_response_with_a_file_is_sent_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = http.file(path)

    async def handler(request: http.Request) -> http.Response:
        return kept

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(GET)
            assert (await reply(conn)).body == CONTENT[:SIZE]
            with pytest.raises(ValueError, match="closed"):
                kept.body.file.status()  # type: ignore[union-attr]
            await conn.write(GET)
            with pytest.raises((EOFError, OSError)):
                await reply(conn)
        assert http.service_of(listener).crashes == 1
    assert "can be sent only once" in caplog.text


@pytest.mark.heavy
async def test_what_the_system_has_not_in_memory_is_read_in_a_thread(
    path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []  # of what threads are to read
    to_thread = asyncio.to_thread

    async def noted(function: Any, *arguments: Any) -> Any:
        sizes.append(arguments[-1])
        return await to_thread(function, *arguments)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    other = path.with_name("other")  # to ask the system about it makes it read a file
    other.write_bytes(path.read_bytes())
    forget(other)
    if is_known_in_memory(other):
        pytest.skip("the file system keeps everything in memory")
    async with http.listen(ANY, sends(path)) as listener:
        for _ in range(10):  # it may keep a file, or read it ahead
            forget(path)
            got = await exchange(listener.local_addr, GET)
            assert got.partition(b"\r\n\r\n")[2] == CONTENT[:SIZE]
            if sizes:
                break
            calls.clear()
    assert sizes
    assert max(sizes) <= PIECE
    assert all(call.offset >= SENT for call in calls)  # that it reads more ahead is its affair


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system cannot")
async def test_the_kernel_takes_a_long_piece_of_a_file_at_once(
    path: Path, calls: list[Call]
) -> None:
    """What the kernel accepts that it cannot send yet is its own copy of the file."""
    async with http.listen(ANY, sends(path)) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(GET)
            assert (await reply(conn)).body == CONTENT[:SIZE]
            if calls:
                assert calls[0].accepted == SENT
                assert accepted(calls[0].target) == UNSENT_IN_KERNEL


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system cannot")
async def test_a_client_with_a_small_window_is_not_sent_long_pieces(
    path: Path, calls: list[Call]
) -> None:
    """They would be thousands of packets in the kernel."""
    async with http.listen(ANY, sends(path)) as listener:
        with slow_client(listener, 4096) as sock:
            await until_stuck(listener, calls)
            assert sum(max(0, call.count) for call in calls) <= UNSENT_IN_KERNEL + 128 * 1024
            assert {call.accepted for call in calls} <= {UNSENT_IN_KERNEL}
            received = await receive(sock, SIZE)
    assert received.endswith(b"\r\n\r\n" + CONTENT[:SIZE])


@pytest.mark.heavy
async def test_the_connection_sends_no_file_when_it_cannot(path: Path) -> None:
    results: list[int] = []

    async def handler(conn: tcp.Conn) -> None:
        stream: object = conn
        with path.open("rb") as file:
            send = stream._send_file  # type: ignore[attr-defined]
            results.append(send(file.fileno(), SIZE, 10))  # the end of the file
            results.append(send(-1, 0, 10))
            conn.close()
            results.append(send(file.fileno(), 0, 10))

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        with pytest.raises(EndOfStream):
            await conn.read()
    assert results == [0, UNABLE, UNABLE]


async def test_a_connection_is_closed_while_a_file_waits_for_room(path: Path) -> None:
    reading, writing = await tcp_pair()
    sent = 0
    with path.open("rb") as file:
        while (count := writing._send_file(file.fileno(), 0, SIZE)) >= 0:
            sent += count
        assert count == NO_ROOM
    writing.close()
    got = 0
    with pytest.raises(EndOfStream):
        while True:
            got += len(await reading.read(timeout=TIME))
    assert got == sent
    reading.close()
