"""The portable engine: any event loop, every platform.

- `link`: what carries a connection's bytes; `socket_link`: a socket that the `poller` watches;
  `transport_link`: one of the loop's transports.
- `stream`: reading and writing over any link.
- `loop`: a loop that waits in the poller.
- `receive_buffer`, `turn`: unread bytes; writes of one turn are sent together.
- `trampoline`: steps a handler's coroutine without its task when possible.
- `server`: accepting.
- `datagrams`: datagram sockets, over any carrier; `udp`: over a UDP socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from silly._engine import interface, stream_errors
from silly._engine.account import Account
from silly._engine.admission import Admission
from silly._engine.interface import Accept, Gate, packed_ip, tune
from silly._engine.portable.datagrams import Datagrams, Peer
from silly._engine.portable.link import KernelQueues, Link
from silly._engine.portable.loop import new_event_loop
from silly._engine.portable.poller import pollers
from silly._engine.portable.server import LoopServer, SocketServer
from silly._engine.portable.socket_link import SocketLink
from silly._engine.portable.stream import Stream
from silly._engine.portable.trampoline import start_task
from silly._engine.portable.transport_link import TransportLink
from silly._engine.starts import Starts
from silly._loop.live import disown_socket

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

NAME: Final = "portable"

_IS_WATCHED: bool = sys.platform != "win32"  # where loops watch sockets for others


def serve(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    backlog: int,
    accept: Accept,
    *,
    busy_poll: float,  # noqa: ARG001 - the loop does the waiting
    gate: Gate,
    are_entering: bool,  # noqa: ARG001 - the loop decides
) -> interface.Server:
    """Accept connections on *sock* (see `silly._engine.interface.Engine.serve`)."""
    tune(sock)  # accepted connections inherit it
    if _IS_WATCHED:
        return SocketServer(loop, sock, accept, gate)
    return LoopServer(loop, sock, backlog, accept, gate)


async def attach(loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept) -> None:
    """Make a link for *sock* (see `silly._engine.interface.Engine.attach`)."""
    tune(sock)
    try:
        if _IS_WATCHED:
            peer = None
            with contextlib.suppress(OSError):  # disconnected already
                peer = sock.getpeername()
            sock.setblocking(False)
            SocketLink(pollers.of(loop), sock, peer, packed_ip(peer)).start(accept)
        else:
            await loop.create_connection(lambda: TransportLink(accept), sock=sock)
    except BaseException:
        sock.close()
        raise


def disown(inherited: object) -> None:
    """Close descriptors in a forked child (see `silly._engine.interface.Engine.disown`)."""
    if isinstance(inherited, Stream):
        inherited._mark_closed(stream_errors.owned_by_parent())
        disown_socket(cast(KernelQueues, inherited._link)._socket)
    elif isinstance(inherited, SocketServer | Datagrams):
        inherited.disown()


def specialize(kind: type[Any]) -> None:
    """Do nothing (see `silly._engine.interface.Engine.specialize`)."""


def call_last(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Call *callback* soon (see `silly._engine.interface.Engine.call_last`)."""
    loop.call_soon(callback)


def new_waiter(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """Return a future (see `silly._engine.interface.Engine.new_waiter`)."""
    return loop.create_future()


def new_callback(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[[asyncio.Future[None]], object],
    context: contextvars.Context,
) -> asyncio.Future[None]:
    """Return a future (see `silly._engine.interface.Engine.new_callback`)."""
    future: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(callback, context=context)
    return future


def spin(loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None:  # noqa: ARG001
    """Call *step* once (see `silly._engine.interface.Engine.spin`)."""
    step()


def write_each(streams: list[Any], data: bytes, limit: int) -> Sequence[int]:  # noqa: ARG001
    """Leave all of them (see `silly._engine.interface.Engine.write_each`)."""
    return range(len(streams))


# The type checker verifies that these are links.
def _conforms() -> tuple[type[Link], ...]:  # pragma: no cover
    return (SocketLink, TransportLink)
