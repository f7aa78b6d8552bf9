"""Files that the kernel sends: whole, in order, at the pace of the client, or cut."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
from pathlib import Path

import pytest

from silly._engine import engine
from silly._engine.filter import UNABLE
from silly._engine.interface import UNSENT_IN_KERNEL
from silly.errors import EndOfStream
from silly.net import http, tcp, tls
from silly.net.http.disk import PIECE, SENT, DiskFile
from silly.net.limits import Limits
from tests.net.http.wire import ANY, TIME, exchange, reply
from tests.net.tls import certificates

SIZE = 2 * 1024 * 1024 + 7
CONTENT = os.urandom(4099) * (SIZE // 4099 + 1)
GET = b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "f"
    made.write_bytes(CONTENT[:SIZE])
    return made


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What `DiskFile.send` has returned."""
    results: list[int] = []
    send = DiskFile.send

    def noted(self: DiskFile, *arguments: object) -> int:
        results.append(send(self, *arguments))  # type: ignore[arg-type]
        return results[-1]

    monkeypatch.setattr(DiskFile, "send", noted)
    return results


def can_tell(path: Path) -> bool:
    """Return whether the file system tells what it has in memory."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except OSError:
            return False


async def test_a_file_is_sent_whole_and_in_order(path: Path, sent: list[int]) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.file(path) if request.path == "/f" else http.Response("next")

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            for _ in range(2):
                await conn.write(GET + GET.replace(b"/f", b"/n"))
                assert (await reply(conn)).body == CONTENT[:SIZE]
                assert (await reply(conn)).body == b"next"
            ranged = GET[:-2] + b"range: bytes=5-1000004\r\n\r\n"
            await conn.write(ranged)
            assert (await reply(conn)).body == CONTENT[5:1000005]
            await conn.write(GET.replace(b"GET", b"HEAD"))
            assert (await reply(conn, "HEAD")).body == b""
        assert listener.stats.bytes_out > 2 * SIZE + 1_000_000
    if can_tell(path) and asyncio.get_running_loop().__module__.startswith("asyncio"):
        assert max(sent) > 0


@pytest.mark.heavy
async def test_what_is_encrypted_is_sent_piece_by_piece(path: Path, sent: list[int]) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.file(path)

    server, client = tls.Server(*certificates.pair()), tls.Client(verify=False)
    async with http.listen(ANY, handler, tls=server) as listener:
        async with tcp.connect(listener.local_addr, tls=client) as conn:
            await conn.write(GET)
            assert (await reply(conn)).body == CONTENT[:SIZE]
    assert max(sent) < 0


def small(sock: socket.socket, addr: str) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    sock.connect(("127.0.0.1", int(addr.rpartition(":")[2])))


async def until_stuck(listener: tcp.Listener, sent: list[int]) -> None:
    """Wait until the socket takes no more."""
    async with asyncio.timeout(TIME):
        before = -1
        while not (sent and sent[-1] < 0 and before == listener.stats.bytes_out):
            before = listener.stats.bytes_out
            await asyncio.sleep(0.01)


async def test_a_slow_client_gets_all_and_holds_little(path: Path, sent: list[int]) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.file(path)

    async with http.listen(ANY, handler) as listener:
        with socket.socket() as sock:
            small(sock, listener.local_addr)
            sock.sendall(GET)
            await until_stuck(listener, sent)
            assert listener.stats.unsent_bytes <= 3 * PIECE
            sock.setblocking(False)
            received = b""
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(TIME):
                while len(received.partition(b"\r\n\r\n")[2]) < SIZE:
                    received += await loop.sock_recv(sock, 1 << 20)
    assert received.endswith(b"\r\n\r\n" + CONTENT[:SIZE])


@pytest.mark.heavy
async def test_a_file_that_becomes_shorter_is_cut(
    path: Path, sent: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.file(path)

    async with http.listen(ANY, handler) as listener:
        with socket.socket() as sock:
            small(sock, listener.local_addr)
            sock.sendall(GET)
            await until_stuck(listener, sent)
            os.truncate(path, 1000)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            received = 0
            async with asyncio.timeout(TIME):
                with pytest.raises(ConnectionResetError):
                    while piece := await loop.sock_recv(sock, 1 << 20):
                        received += len(piece)
                    raise ConnectionResetError  # a FIN within the body is as good
        assert received < SIZE
        while not http.service_of(listener).crashes:
            await asyncio.sleep(0)
    assert "has become shorter" in caplog.text


@pytest.mark.heavy
async def test_a_client_that_stops_reading_is_ended(path: Path) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.file(path)

    limits = Limits(min_send_rate=1_000_000, send_window=0.2)
    async with http.listen(ANY, handler, limits=limits) as listener:
        with socket.socket() as sock:
            small(sock, listener.local_addr)
            sock.sendall(GET)
            async with asyncio.timeout(TIME):
                while listener.stats.ended != {"min_send_rate": 1}:
                    await asyncio.sleep(0.01)


@pytest.mark.heavy
async def test_what_the_system_has_not_in_memory_is_read_in_a_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", refuse)

    async def handler(request: http.Request) -> http.Response:
        return http.file(path)

    async with http.listen(ANY, handler) as listener:
        got = await exchange(listener.local_addr, GET)
    assert got.partition(b"\r\n\r\n")[2] == CONTENT[:SIZE]


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system cannot")
async def test_the_kernel_takes_a_long_piece_of_a_file_at_once(
    path: Path, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel accepts that it cannot send yet is its own copy of the file."""
    targets: list[int] = []
    during: list[int] = []  # how much it accepts

    def accepted(number: int) -> int:
        with socket.socket(fileno=os.dup(number)) as sock:
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)

    def noted(target: int, *arguments: int) -> int:
        targets.append(target)
        during.append(accepted(target))
        return os.sendfile(target, *arguments)

    module = importlib.import_module(
        "silly._engine.native.filter" if engine.NAME == "native" else "silly._engine.filter"
    )
    monkeypatch.setattr(module, "_sendfile", noted)

    async def handler(request: http.Request) -> http.Response:
        return http.file(path)

    async with http.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        await conn.write(GET)
        assert (await reply(conn)).body == CONTENT[:SIZE]
        if sent and max(sent) > 0:
            assert during[0] == SENT
            assert accepted(targets[0]) == UNSENT_IN_KERNEL


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
    assert results[0] in {0, UNABLE}  # uvloop's transports have queues of their own
    assert results[1:] == [UNABLE, UNABLE]
