"""A name with several addresses, of which some do not answer (RFC 8305); and ends that meet."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from silly.net import tcp
from silly.net.tcp import Conn

pytestmark = [
    pytest.mark.no_engine,
    pytest.mark.skipif(sys.platform != "linux", reason="full backlogs are silent there"),
]


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


@contextlib.contextmanager
def silent(*hosts: str, port: int = 0) -> Iterator[int]:
    """Have a port of each host where connecting comes to no end: its backlog is full."""
    with contextlib.ExitStack() as held:
        for host in hosts:
            listening = held.enter_context(socket.socket())
            listening.bind((host, port))
            listening.listen(0)
            port = listening.getsockname()[1]
            for _ in range(2):
                waiting = held.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((host, port))
        yield port


def resolve_to(monkeypatch: pytest.MonkeyPatch, port: int, *hosts: str) -> None:
    async def resolve(*_: object) -> list[tuple[int, Any]]:
        return [(socket.AF_INET, (host, port)) for host in hosts]

    monkeypatch.setattr("silly.net.dialing._resolve", resolve)
    monkeypatch.setattr("silly.net.dialing.STAGGER", 0.01)


async def test_an_address_that_does_not_answer_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with silent("127.0.0.2") as port:
        async with tcp.listen(f"127.0.0.3:{port}", echo):
            resolve_to(monkeypatch, port, "127.0.0.2", "127.0.0.3", "127.0.0.4")
            async with await tcp.connect(f"example.invalid:{port}", timeout=20) as conn:
                assert conn.remote_addr == f"127.0.0.3:{port}"


async def test_of_several_that_answer_one_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although they do so in the same turn of the loop."""
    async with tcp.listen("127.0.0.2:0", echo) as first:
        port = int(first.local_addr.rpartition(":")[2])
        async with tcp.listen(f"127.0.0.3:{port}", echo) as second:
            resolve_to(monkeypatch, port, "127.0.0.2", "127.0.0.3")
            monkeypatch.setattr("silly.net.dialing.STAGGER", 0)
            for _ in range(20):
                async with await tcp.connect(f"example.invalid:{port}", timeout=20) as conn:
                    await conn.write(b"x\n")
                    assert await conn.read(b"\n", timeout=20) == b"x\n"
            async with asyncio.timeout(20):
                while first.connections or second.connections:
                    await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_attempts_end_with_who_waits_for_them(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with silent("127.0.0.2", "127.0.0.3") as port:
        resolve_to(monkeypatch, port, "127.0.0.2", "127.0.0.3")
        timeout = 0.1 if how == "timed out" else 20
        connecting = asyncio.ensure_future(tcp.connect(f"example.invalid:{port}", timeout=timeout))
        if how == "cancelled":
            async with asyncio.timeout(20):
                while len(asyncio.all_tasks()) < 4:  # this, that, and two attempts
                    await asyncio.sleep(0)
            connecting.cancel()
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await connecting
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_defect_ends_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    async def attempt(_: object, target: Any, *others: object) -> socket.socket:
        try:
            if target[1][0] == "127.0.0.3":
                raise ZeroDivisionError
            await asyncio.Event().wait()
            raise AssertionError
        finally:
            ended.append(target[1][0])

    resolve_to(monkeypatch, 9, "127.0.0.2", "127.0.0.3", "127.0.0.4")
    monkeypatch.setattr("silly.net.dialing._attempt", attempt)
    with pytest.raises(ZeroDivisionError):
        await tcp.connect("example.invalid:9", timeout=20)
    assert ended == ["127.0.0.3", "127.0.0.2"]


async def test_a_system_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(socket, "AF_UNIX")
        with pytest.raises(OSError, match="This system has no Unix sockets: 'unix:/x'") as told:
            await tcp.connect("unix:/x")
        with pytest.raises(OSError, match="This system has no Unix sockets: 'unix:/x'"):
            tcp.listen("unix:/x", echo)
    assert told.value.errno == errno.EAFNOSUPPORT


async def test_a_connection_to_itself_is_none() -> None:
    """Both ends are the same port (RFC 9293, section 3.5): nobody listens there."""
    for _ in range(20):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            addr = f"127.0.0.1:{sock.getsockname()[1]}"
        with contextlib.suppress(OSError):  # somebody else took the port meanwhile
            with pytest.raises(ConnectionRefusedError, match=addr):
                await tcp.connect(addr, bind=addr)
            return
    pytest.fail("no port was free")
