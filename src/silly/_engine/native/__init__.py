"""The native engine (Linux): connections on a reactor of our own, written in Cython.

- `reactor`: the epoll set, nested in the running asyncio loop.
- `waiter`: what a suspended task waits on, so that it can be woken at once.
- `stream`: one connection's reading, writing and closing.
- `server`: accepting.

It keeps the interface of `silly._engine.interface.Engine`, and means the same
by everything as the portable engine does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from silly._engine.interface import Gate, tune
from silly._engine.native.reactor import spin
from silly._engine.native.server import Server, adopt
from silly._engine.native.stream import Stream
from silly._engine.native.trampoline import stepped

__all__ = ["NAME", "Stream", "attach", "disown", "serve", "spin", "stepped"]

NAME: Final = "native"


def serve(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    backlog: int,  # noqa: ARG001 - the socket listens already
    accept: Callable[[int], object],
    *,
    busy_poll: float,
    gate: Gate,
) -> Server:
    """Accept connections on *sock* (see `silly._engine.interface.Engine.serve`)."""
    tune(sock)  # accepted connections inherit it
    server = Server(loop, sock.fileno(), accept, busy_poll, gate)
    sock.detach()
    return server


def disown(of_parent: Stream | Server) -> None:
    """Do nothing: the reactor does it (see `silly._engine.interface.Engine.disown`)."""


async def attach(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    accept: Callable[[int], object],
) -> None:
    """Make a connection of *sock* (see `silly._engine.interface.Engine.attach`)."""
    tune(sock)
    adopt(loop, sock, accept)
