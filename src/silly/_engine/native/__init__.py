"""The native engine (Linux): connections on their own reactor, written in Cython.

- `reactor`: the epoll set, beside that of the running asyncio loop; `loop`, `scheduling`:
  a loop that waits in the reactor (see ../selector.py).
- `waiter`: the future that a suspended task waits on, which can wake it immediately.
- `trampoline`: steps a handler's coroutine without its task when possible.
- `receiving`, `sending`, `stream`: a connection, in layers; below them, `lifecycle`,
  `deadlines` and `filter`, compiled from the files that the portable engine uses, too.
- `wanted`, `read`: what a read wants, and what `read` returns.
- `names`: a socket's addresses.
- `mailbox` (compiled likewise), `datagrams`: datagram sockets.
- `accepting`, `admission` (compiled likewise), `server`: accepting; `starts`, `ends` (likewise):
  how a handler starts, and what happens when it has ended or a socket is closed; `account`
  (likewise): memory held.

It implements `silly._engine.interface.Engine`, and behaves as the portable engine does.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from silly._engine.assumptions import why_not_native
from silly._engine.interface import Accept, Gate, tune
from silly._engine.native.account import Account
from silly._engine.native.admission import Admission
from silly._engine.native.all_tasks import list_with_trampolines
from silly._engine.native.datagrams import Datagrams, Peer
from silly._engine.native.loop import new_event_loop
from silly._engine.native.reactor import call_last, spin
from silly._engine.native.sending import write_each
from silly._engine.native.server import Server, adopt
from silly._engine.native.starts import Starts
from silly._engine.native.stream import Stream, specialize
from silly._engine.native.trampoline import new_callback, rehearse, start_task
from silly._engine.native.waiter import new_waiter

__all__ = [
    "NAME",
    "Account",
    "Admission",
    "Datagrams",
    "Peer",
    "Starts",
    "Stream",
    "attach",
    "call_last",
    "disown",
    "new_callback",
    "new_event_loop",
    "new_waiter",
    "serve",
    "specialize",
    "spin",
    "start_task",
    "write_each",
]

NAME: Final = "native"

if unmet := why_not_native(start_task, rehearse):
    raise ImportError(unmet)
list_with_trampolines()


def serve(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    backlog: int,  # noqa: ARG001 - the socket is already listening
    accept: Accept,
    *,
    busy_poll: float,
    gate: Gate,
    are_entering: bool,
) -> Server:
    """Accept connections on *sock* (see `silly._engine.interface.Engine.serve`)."""
    tune(sock)  # accepted connections inherit it
    server = Server(loop, sock.fileno(), accept, busy_poll, gate, are_entering)
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
