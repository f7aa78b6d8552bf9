"""The seam between what moves bytes and what gives them meaning.

A `Link` carries the bytes of one connection and knows nothing else: no
delimiter, no limit, no timeout. A `Stream` (stream.py) gives them meaning and
never meets a socket. Between the two there are twelve calls down (`Link`) and
five calls up (`Upward`). The portable engine is links over asyncio's transports;
the native engine's stream is both in one.

Calls up are made from the event loop's own callbacks, one at a time, and in
this order: any number of `received`, at most one `ended`, `full` and
`has_room` in turns, and at last one `lost`, after which the link is gone.
A call down may be followed by a call up before it returns only where that is
said below.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

__all__ = [
    "OF_ONE_CONNECTION",
    "Accept",
    "Budget",
    "Deadlines",
    "Engine",
    "Gate",
    "Link",
    "Room",
    "Server",
    "Upward",
    "packed",
    "tune",
]

UNSENT_IN_KERNEL: Final = 256 * 1024  # bytes

_NAMES_OF_ONE_CONNECTION: Final = (
    "ECONNABORTED EINTR EPERM EPROTO ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH "
    "EOPNOTSUPP ENETUNREACH ETIMEDOUT"
)
OF_ONE_CONNECTION: Final = frozenset(
    getattr(errno, name) for name in _NAMES_OF_ONE_CONNECTION.split() if hasattr(errno, name)
)
"""Errors of accept(2) that tell of one connection, which is gone; others will be accepted."""


class Link(Protocol):
    """One connection's way to the other side."""

    def attach(self, upward: Upward) -> None:
        """Call *upward* from now on. The first call down."""

    def send(self, data: bytes) -> None:
        """Send *data* after all that was sent before; never blocks.

        What the operating system does not take now is queued. May call
        `full` before it returns.
        """

    def unsent(self) -> int:
        """Return how many bytes are queued here, not yet taken by the operating system."""

    def receive_at_most(self, size: int) -> None:
        """Bring pieces of *size* bytes at most, where that can be chosen."""

    def pause(self) -> None:
        """Stop receiving; TCP's flow control then holds the peer back."""

    def resume(self) -> None:
        """Receive again after `pause`."""

    def finish(self) -> None:
        """Send FIN when the queue is empty (half-close); receiving goes on."""

    def set_high_water(self, size: int) -> None:
        """Call `full` above *size* queued bytes (64 KiB at first), `has_room` at a quarter."""

    def call_when_empty(self) -> None:
        """Call `has_room` once when the queue is empty. It is not empty now."""

    def has_unread(self) -> bool:
        """Tell whether the operating system holds bytes that were not received yet."""

    def in_flight(self) -> int:
        """Return how many bytes the operating system took that the peer did not acknowledge.

        0 where the operating system does not tell.
        """

    def close(self) -> None:
        """Stop receiving, send what is queued, then FIN and close; `lost(None)` follows."""

    def abort(self) -> None:
        """Drop what is queued and reset the connection; `lost(None)` follows."""

    @property
    def local_sockaddr(self) -> Any:
        """This end's address, as the `socket` module gives it."""

    @property
    def remote_sockaddr(self) -> Any:
        """The other end's address, as the `socket` module gives it."""


class Upward(Protocol):
    """What a link calls; `Stream` is the implementation."""

    def received(self, piece: bytes) -> None:
        """One or more bytes arrived."""

    def ended(self) -> None:
        """The peer sent FIN: nothing more will be received; sending still works."""

    def full(self) -> None:
        """The link's queue grew past its high-water mark."""

    def has_room(self) -> None:
        """The link's queue shrank to its low-water mark (or to nothing, if asked)."""

    def lost(self, error: OSError | None) -> None:
        """The link is gone: closed as asked (None), or for *error*."""


class Room(Coroutine[Any, Any, None]):
    """What a stream's `write` returns: waits for room when it is awaited.

    It is a coroutine object so that `asyncio.create_task` takes it, but nothing is left
    undone if it is not awaited: Python does not warn, nor do type checkers.
    """

    __slots__ = ()


def packed(sockaddr: Any) -> bytes:
    """Return the address in a *sockaddr* of the `socket` module as a `Gate` takes it."""
    if not isinstance(sockaddr, tuple):
        return b""
    host = sockaddr[0].partition("%")[0]  # without the scope
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def tune(sock: socket.socket) -> None:
    """Set what TCP should do, for *sock* and for what it accepts.

    Nagle's algorithm is off (RFC 9293, section 3.7.4): writes are gathered in the
    streams already, and it would only hold them up. And the kernel takes no more
    than `UNSENT_IN_KERNEL` that it cannot send yet (TCP_NOTSENT_LOWAT, tcp(7)):
    else it would hold megabytes for each peer that does not read.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # it was reset already: the first read will say so
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)


Deadlines = tuple[float, float, float, float, float]
"""What a stream compares itself with when it looks back: the timeout of the first byte and
the deadline of a read (seconds; infinity: none), the rate that puts that off, the rate of
sending (bytes per second; 0: none) and the window over which that is taken (seconds)."""

Accept = Callable[[Any], Any]
"""Called once for each connection with what the engine's `Stream` takes as its first
argument (a `Link`; in the native engine a descriptor); returns the stream made of it.
Until a stream was made, the connection is the engine's, which resets it if this raises;
then it is the stream's."""


class Budget(Protocol):
    """Counts the bytes that several streams hold, unread and unsent."""

    def change(self, by: int) -> None:
        """Be told that a stream holds *by* bytes more (fewer, if negative)."""


class Gate(Protocol):
    """Whom a server asks about each connection, before anything is made of it.

    A *client* is the peer's address as packed bytes, 4 of IPv4 or 16 of IPv6;
    empty where it has none (a Unix socket).
    """

    def enter(self, client: bytes) -> bool:
        """Tell whether it is let in; if not, the server resets it and forgets it."""

    def leave(self, client: bytes) -> None:
        """Be told that one that was let in is gone.

        By the server only if it came to nothing before *accept* was called.
        """

    def shed(self, client: bytes) -> None:
        """Be told that one was turned away for want of a descriptor."""

    def stalled(self, error: int, delay: float) -> None:
        """Be told that accepting failed with *error*, and is tried again in *delay* seconds."""


class Server(Protocol):
    """Accepts connections on one listening socket, and does not stop when that fails.

    Out of descriptors (EMFILE, ENFILE), it closes one that it holds in reserve,
    accepts with it, and resets what it accepted, so that clients get an answer
    instead of waiting. Where that cannot be done either, and when memory is
    short (ENOMEM, ENOBUFS) or it does not know the error (somebody else shut the
    socket down), it leaves them in the backlog for a while. Errors of one
    connection (ECONNABORTED and the like, accept(2)) are passed over.
    """

    def accept_queued(self) -> None:
        """Accept what is in the backlog now, as many as it holds at most."""

    def backlog(self) -> tuple[int, int] | None:
        """Return how many connections wait to be accepted, and how many may; None: unknown."""

    def close(self) -> None:
        """Stop accepting and close the listening socket.

        *accept* may still be called, soon, for what was accepted before.
        """


class Engine(Protocol):
    """A module that moves bytes."""

    NAME: str

    Stream: type
    """What gives them meaning: `silly._engine.stream.Stream`, or one that does the same."""

    def serve(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        backlog: int,
        accept: Accept,
        *,
        busy_poll: float,
        gate: Gate,
    ) -> Server:
        """Accept connections on *sock*, which is listening, until the server is closed.

        An engine that can polls for *busy_poll* seconds after each event before
        the loop may sleep.

        The socket belongs to the server from now on. *accept* is called for
        each connection; what it raises is a defect and goes to the loop's
        exception handler.
        """

    async def attach(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept
    ) -> None:
        """Make a connection of *sock*, which is connected, and call *accept* for it.

        The socket belongs to the connection from now on, and is closed if this
        is cancelled.
        """

    def disown(self, of_parent: Any) -> None:
        """In a forked child: close its copy of a stream's or server's descriptors.

        Without a trace on the wire, and without touching the event loop, whose
        epoll set is the parent's, too.
        """

    def spin(self, loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None:
        """Call *step*, and serve what is ready, by turns, for as long as the loop can spare.

        To be called in a callback of *loop*, outside of tasks, again and again: who polls
        does so many times in one turn of the loop. An engine that cannot serve by itself
        calls *step* once. What *step* raises is raised.
        """

    def stepped(
        self, coroutine: Coroutine[Any, Any, object], loop: asyncio.AbstractEventLoop
    ) -> Coroutine[Any, Any, object]:
        """Return what a handler's task is to run: *coroutine*, or what steps it faster."""
