"""What only the portable engine does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from typing import Any

import pytest

import silly
from silly._engine.portable import server, stream
from silly.net import tcp
from silly.net.tcp import Conn

pytestmark = [
    pytest.mark.skipif(silly.engine() != "portable", reason="portable engine only"),
    pytest.mark.skipif(sys.platform == "win32", reason="the loop accepts there"),
]

ANY = "127.0.0.1:0"


async def test_what_waits_is_accepted_at_once_and_no_more_is_tried() -> None:
    async with tcp.listen(ANY, lambda conn: conn.wait_closed()) as listener:
        accepting: Any = listener._servers[0]
        host, port = listener.local_addr.split(":")
        with contextlib.ExitStack() as clients:
            for before, coming in ((0, 1), (1, 1), (2, 3)):
                for _ in range(coming):
                    clients.enter_context(socket.create_connection((host, int(port))))
                accepting.readable()
                assert accepting._gate.connections == before + coming
                assert accepting._tried == coming + 1
        await listener.close(0)


async def test_what_connections_keep_is_their_own() -> None:
    begin = asyncio.Event()

    async def handler(conn: Conn) -> None:
        async for line in conn:
            await begin.wait()
            await conn.write(line)

    async with asyncio.timeout(10), tcp.listen(ANY, handler) as listener:
        conns = [await tcp.connect(listener.local_addr) for _ in range(3)]
        for number, conn in enumerate(conns):
            conn.write(b"%d\n%d\n" % (number, number))
        begin.set()
        for number, conn in enumerate(conns):
            assert [await conn.read(b"\n") for _ in range(2)] == [b"%d\n" % number] * 2
            conn.close()
    assert not stream._EMPTY.data


@pytest.mark.parametrize("addr", ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"])
@pytest.mark.parametrize("knows", [True, False])
async def test_the_local_address_of_a_connection_is_that_of_its_socket(
    addr: str, knows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is known without asking, and where nobody can say whether it is."""
    if not knows:
        monkeypatch.setattr(server, "_IP_TRANSPARENT", 9999)
    accepted: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    async def handler(conn: Conn) -> None:
        accepted.set_result(conn)
        async for _ in conn:
            pass

    async with asyncio.timeout(10), tcp.listen(addr, handler) as listener:
        port = listener.local_addr.rpartition(":")[2]
        host = "[::1]" if addr.startswith("[") else "127.0.0.1"
        async with tcp.connect(f"{host}:{port}") as conn:
            assert (await accepted).local_addr == conn.remote_addr == f"{host}:{port}"
        await accepted.result().wait_closed()
        assert accepted.result().local_addr == f"{host}:{port}"


WITHOUT_EPOLL = """
import select, selectors
del select.epoll, selectors.EpollSelector
selectors.DefaultSelector = selectors.PollSelector
import asyncio, silly
from silly.net import tcp

async def echo(conn):
    async for line in conn:
        await conn.write(line)

async def main():
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(b"echo\\n")
            print(await conn.read(5, timeout=10))

silly.run(main())
"""


def test_a_python_without_epoll() -> None:
    """The modules are imported afresh: the option keeps the tests' fork server out of it."""
    command = [sys.executable, "-X", "faulthandler", "-c", WITHOUT_EPOLL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("b'echo\\n'\n", "")
