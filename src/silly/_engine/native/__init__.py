"""The native engine (Linux): connections on their own reactor, written in Cython.

- `reactor`: the epoll set, nested in the running asyncio loop.
- `waiter`: the future that a suspended task waits on, which can wake it immediately.
- `trampoline`: steps a handler's coroutine without its task when possible.
- `receiving`, `sending`, `stream`: a connection, in layers; below them, `lifecycle`,
  `deadlines` and `filter`, compiled from the files that the portable engine uses, too.
- `wanted`, `read`: what a read wants, and what `read` returns.
- `names`: a socket's addresses.
- `accepting` (compiled likewise), `server`: accepting.

It implements `silly._engine.interface.Engine`, and behaves as the portable engine does.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from silly._engine.assumptions import why_not_native
from silly._engine.interface import Accept, Gate, tune
from silly._engine.native.reactor import spin
from silly._engine.native.server import Server, adopt
from silly._engine.native.stream import Stream
from silly._engine.native.trampoline import rehearse, wrap_coroutine

__all__ = ["NAME", "Stream", "attach", "disown", "serve", "spin", "wrap_coroutine"]

NAME: Final = "native"

if unmet := why_not_native(wrap_coroutine, rehearse):
    raise ImportError(unmet)


def serve(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    backlog: int,  # noqa: ARG001 - the socket is already listening
    accept: Accept,
    *,
    busy_poll: float,
    gate: Gate,
) -> Server:
    """Accept connections on *sock* (see `silly._engine.interface.Engine.serve`)."""
    tune(sock)  # accepted connections inherit it
    server = Server(loop, sock.fileno(), accept, busy_poll, gate)
    sock.detach()
    return server


def disown(inherited: object) -> None:
    """Do nothing: reactors do this by themselves (see `silly._engine.interface.Engine.disown`)."""


async def attach(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    accept: Accept,
) -> None:
    """Call *accept* for *sock* (see `silly._engine.interface.Engine.attach`)."""
    tune(sock)
    adopt(loop, sock, accept)
