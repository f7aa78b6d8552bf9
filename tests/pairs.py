"""Pairs of connections over TCP, for `silly.testing.run_check` and other tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from silly.net import tcp
from silly.net.conn import Conn

__all__ = ["tcp_pair"]

_tasks: set[asyncio.Task[None]] = set()


async def tcp_pair(
    listen: Mapping[str, Any] | None = None, connect: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """Return a connection that was made and the one that was accepted for it.

    Their listener, with the options *listen*, is closed when both are. *connect* are options
    of the former.
    """
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Conn] = loop.create_future()
    over = asyncio.Event()

    async def handler(conn: Conn) -> None:
        accepted.set_result(conn)
        await over.wait()

    async def close_after(*conns: Conn) -> None:
        for conn in conns:
            await conn.wait_closed()
        over.set()
        await listener.close()

    listener = tcp.listen("127.0.0.1:0", handler, **(listen or {}))
    conn = await tcp.connect(listener.local_addr, **(connect or {}))
    other = await accepted
    _tasks.add(loop.create_task(close_after(conn, other)))
    return conn, other
