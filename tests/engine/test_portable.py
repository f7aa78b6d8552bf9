"""What only the portable engine does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any

import pytest

import silly
from silly._engine.portable import stream
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
