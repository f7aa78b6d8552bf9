"""Connections over connected sockets, and what owns them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from silly._engine import engine
from silly._loop.live import Live
from silly.net.conn import EngineConn

__all__ = ["attach"]


class _Dialed:
    """The owner of a connection that `attach` made."""

    __slots__ = ("host", "live")

    count_handshake = None

    def __init__(self, live: Live, host: str | None) -> None:
        self.live = live
        self.host = host

    def conn_closed(self, conn: EngineConn) -> None:
        self.live.conns.discard(conn)
        self.live.wake_if_empty()

    def on_draining(self, conn: EngineConn, callback: Callable[[], object] | None) -> None:
        """Do nothing: no listener made it."""


async def attach(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    *,
    host: str | None = None,
    **limits: Any,
) -> EngineConn:
    """Return a connection over *sock*, which is connected and belongs to it from now on.

    *host* is what it was connected to, if that was named. *limits* are ``read_limit``,
    ``max_unsent``, ``linger`` and ``idle_timeout``, checked already.
    """
    owner = _Dialed(Live.of(loop), host)
    made: list[EngineConn] = []
    errors: list[BaseException] = []

    def accept(carrier: Any) -> EngineConn:
        try:
            conn = EngineConn(carrier, loop, owner, **limits)
        except BaseException as error:
            errors.append(error)  # a transport only logs it
            raise
        owner.live.conns.add(conn)
        made.append(conn)
        return conn

    try:
        await engine.attach(loop, sock, accept)
    except BaseException:
        for conn in made:
            conn.abort()
        raise
    if not made:
        raise errors.pop()
    return made[0]
