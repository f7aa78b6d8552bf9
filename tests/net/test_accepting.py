"""Accepting when descriptors run out, when many clients connect at once, when clients vanish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from silly._engine import accepting
from silly.net import tcp
from silly.net.tcp import Conn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the event loop accepts there")

ANY = "127.0.0.1:0"


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def client_of(listener: tcp.Listener) -> socket.socket:
    host, port = listener.local_addr.split(":")
    sock = socket.create_connection((host, int(port)))
    sock.setblocking(False)
    return sock


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 100)


@contextlib.contextmanager
def no_descriptors_left(spare: int = 0) -> Iterator[None]:
    """Use up all descriptors but *spare*."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        assert len(held) >= spare
        for _ in range(spare):
            os.close(held.pop())
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_clients_are_reset_and_the_server_recovers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with tcp.listen(ANY, echo) as listener:
        early = client_of(listener)
        await until(lambda: listener.connections == 1)
        late = [client_of(listener) for _ in range(100)]
        with no_descriptors_left():
            for sock in late:
                with pytest.raises(ConnectionResetError):
                    await receive(sock)
            early.send(b"still served\n")
            assert await receive(early) == b"still served\n"
            assert listener.stats.refused == {"descriptors": 100}
            assert listener.connections == 1
        for _ in range(2):
            late.append(client_of(listener))
            late[-1].send(b"hello\n")
            assert await receive(late[-1]) == b"hello\n"
        for sock in (early, *late):
            sock.close()
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "refused 127.0.0.1: descriptors" in warnings[0]
    assert "refused 99 more connections" in warnings[1]


async def test_without_a_reserve_descriptor_clients_wait_until_one_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(accepting, "BACK_OFF", 0.01)  # of the portable engine
    async with tcp.listen(ANY, echo):  # what the loop and the engine need is there
        with socket.socket() as sock:
            sock.setblocking(False)
            with no_descriptors_left(spare=1):
                listener = tcp.listen(ANY, echo)
                host, port = listener.local_addr.split(":")
                await loop.sock_connect(sock, (host, int(port)))
                await until(lambda: listener.stats.accept_stalls > 0)
                assert listener.connections == 0
            sock.send(b"hello\n")
            assert await receive(sock) == b"hello\n"
            assert not listener.stats.refused
        await listener.close()
    errors = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert f"cannot accept: {os.strerror(errno.EMFILE)}" in errors[0]


async def test_clients_that_reset_at_once_do_no_harm() -> None:
    async with tcp.listen(ANY, echo) as listener:
        for _ in range(200):
            sock = client_of(listener)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            if _ % 50 == 0:
                await asyncio.sleep(0)
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"hello\n"
        await until(lambda: listener.connections == 0)
        assert listener.stats.handler_errors == 0


async def test_the_loop_runs_between_batches_of_new_connections() -> None:
    turns = 0

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with tcp.listen(ANY, echo, backlog=1000) as listener:
        clients = [client_of(listener) for _ in range(1000)]
        assert listener.stats.accepted == 0
        task = asyncio.create_task(turning())
        await until(lambda: listener.connections == 1000)
        assert turns >= 1000 // 32
        task.cancel()
        for sock in clients:
            sock.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports it")
async def test_a_full_backlog_shows_in_the_statistics(tmp_path: Path) -> None:
    async with tcp.listen(ANY, echo, backlog=4) as listener:
        stats = listener.stats
        assert (stats.backlog_used, stats.backlog_size) == (0, 4)
        before = stats.backlog_overflows
        host, port = listener.local_addr.split(":")
        socks = []
        for _ in range(8):  # without letting the loop run in between
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex((host, int(port)))
            socks.append(sock)
        stats = listener.stats
        assert stats.backlog_used == 5  # listen(2): one more than requested
        assert before is not None
        assert stats.backlog_overflows is not None
        assert stats.backlog_overflows > before
        await until(lambda: listener.stats.backlog_used == 0)
        for sock in socks:
            sock.close()
    async with tcp.listen(f"unix:{tmp_path}/x.sock", echo) as listener:
        assert listener.stats.backlog_used is None
    assert listener.stats.backlog_used is None


async def test_connections_that_the_end_of_a_drain_finds_are_reset(loop_kind: str) -> None:
    """They waited to be accepted when the listener was closed, with no time left for them."""
    if loop_kind == "uvloop":
        pytest.skip("its clock stands still during a callback")
    served: list[Conn] = []

    async def handler(conn: Conn) -> None:
        served.append(conn)

    listener = tcp.listen(ANY, handler)
    socks = [client_of(listener) for _ in range(3)]
    closing = listener.close(grace=1e-9)
    for sock in socks:
        with sock, pytest.raises(ConnectionResetError):
            await asyncio.wait_for(receive(sock), 10)
    await closing
    assert (served, listener.connections) == ([], 0)
