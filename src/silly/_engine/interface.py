"""The interfaces of an engine, and of its two layers: links and streams.

A `Link` carries the bytes of one connection and knows no delimiters, limits or
timeouts. A `Stream` (stream.py) implements those and never touches a socket. The
stream calls the link's methods; the link reports to the stream through `LinkEvents`.
The portable engine consists of links over asyncio's transports; the native engine's
stream does the work of both layers.

A link reports events from the event loop's callbacks, one at a time, and in this
order: any number of `received`, at most one `ended`, `full` and `has_room`
alternating, and finally one `lost`. A link's method reports an event before it
returns only where its docstring says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

__all__ = [
    "PER_CONNECTION_ERRORS",
    "Accept",
    "Budget",
    "Deadlines",
    "Drain",
    "Engine",
    "Gate",
    "Link",
    "LinkEvents",
    "Server",
    "packed_ip",
    "tune",
]

UNSENT_IN_KERNEL: Final = 256 * 1024  # bytes

_PER_CONNECTION_ERROR_NAMES: Final = (
    "ECONNABORTED EINTR EPERM EPROTO ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH "
    "EOPNOTSUPP ENETUNREACH ETIMEDOUT"
)
PER_CONNECTION_ERRORS: Final = frozenset(
    getattr(errno, name) for name in _PER_CONNECTION_ERROR_NAMES.split() if hasattr(errno, name)
)
"""Errors of accept(2) that concern only one connection; accepting can go on."""


class Link(Protocol):
    """The transport of one connection."""

    def attach(self, events: LinkEvents) -> None:
        """Report to *events* from now on. Called first, once."""

    def send(self, data: bytes) -> None:
        """Send *data* after everything sent before; never block.

        What the operating system does not accept now is queued. May report `full` before
        it returns.
        """

    def unsent(self) -> int:
        """Return how many bytes are queued here, not yet accepted by the operating system."""

    def receive_at_most(self, size: int) -> None:
        """Receive at most *size* bytes at a time, if the transport allows it."""

    def pause(self) -> None:
        """Stop receiving; TCP's flow control then slows the peer down."""

    def resume(self) -> None:
        """Receive again after `pause`."""

    def finish(self) -> None:
        """Send FIN once the queue is empty (half-close); receiving goes on."""

    def set_high_water(self, size: int) -> None:
        """Report `full` above *size* queued bytes (initially 64 KiB), `has_room` at a quarter."""

    def call_when_empty(self) -> None:
        """Report `has_room` once the queue is empty. Only called while it is not."""

    def has_unread(self) -> bool:
        """Return whether the operating system holds bytes that were not received yet."""

    def in_flight(self) -> int:
        """Return how many sent bytes the peer has not acknowledged; 0 if unknown."""

    def close(self) -> None:
        """Stop receiving, send the queue, then FIN, and close; `lost(None)` follows."""

    def abort(self) -> None:
        """Drop the queue and reset the connection; `lost(None)` follows."""

    @property
    def local_sockaddr(self) -> Any:
        """The local address, in the form that the `socket` module uses."""

    @property
    def remote_sockaddr(self) -> Any:
        """The peer's address, in the form that the `socket` module uses."""


class LinkEvents(Protocol):
    """The events that a link reports; `Stream` implements them."""

    def received(self, piece: bytes) -> None:
        """One or more bytes arrived."""

    def ended(self) -> None:
        """The peer sent FIN: nothing more will arrive; sending still works."""

    def full(self) -> None:
        """The link's queue grew past its high-water mark."""

    def has_room(self) -> None:
        """The link's queue shrank to its low-water mark (or emptied: `Link.call_when_empty`)."""

    def lost(self, error: OSError | None) -> None:
        """The link is closed: by this side (None), or because of *error*."""


class Drain(Coroutine[Any, Any, None]):
    """What a stream's `write` returns: awaiting it waits until the queue has room.

    It is a coroutine object, so that `asyncio.create_task` accepts it. It need not be
    awaited: the data is written anyway, and neither Python nor type checkers warn.
    """

    __slots__ = ()


def packed_ip(sockaddr: Any) -> bytes:
    """Return the IP address in *sockaddr* as packed bytes; empty if it has none (see `Gate`)."""
    if not isinstance(sockaddr, tuple):
        return b""
    host = sockaddr[0].partition("%")[0]  # without the scope
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def tune(sock: socket.socket) -> None:
    """Set TCP options on *sock*; the sockets that it accepts inherit them.

    Nagle's algorithm is off (RFC 9293, section 3.7.4): streams batch their writes
    already, so it would only delay them. And the kernel accepts no more than
    `UNSENT_IN_KERNEL` that it cannot send yet (TCP_NOTSENT_LOWAT, tcp(7)): otherwise it
    would hold megabytes for each peer that does not read.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # already reset: the first read reports it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)


Deadlines = tuple[float, float, float, float, float]
"""The arguments of `Stream._check_deadlines`: the first-byte timeout and the read deadline
(seconds; infinity: none), the receive rate that extends the read deadline, the minimum send
rate (bytes per second; 0: none), and the window over which it is measured (seconds)."""

Accept = Callable[[Any], Any]
"""Called once for each connection with the first argument of the engine's `Stream` (a `Link`;
in the native engine a descriptor); returns the new stream. Until the stream exists, the
engine owns the connection, and resets it if this raises; then the stream owns it."""


class Budget(Protocol):
    """Counts the bytes that several streams hold, unread and unsent."""

    def change(self, by: int) -> None:
        """Add *by* (which may be negative) to the bytes that are held."""


class Gate(Protocol):
    """Decides which connections a server lets in, before anything is allocated for them.

    A *client* is the peer's IP address as packed bytes, 4 for IPv4 or 16 for IPv6;
    empty if it has none (a Unix socket).
    """

    def enter(self, client: bytes) -> bool:
        """Return whether to let a connection in; if not, the server resets it."""

    def leave(self, client: bytes) -> None:
        """Note that a connection that was let in has ended.

        The server calls this only for a connection that no stream took.
        """

    def shed(self, client: bytes) -> None:
        """Note that a connection was refused because the process is out of descriptors."""

    def stalled(self, error: int, delay: float) -> None:
        """Note that accepting failed with *error*; the server retries after *delay* seconds."""


class Server(Protocol):
    """Accepts connections on one listening socket, and keeps going when accepting fails.

    Out of descriptors (EMFILE, ENFILE), it closes one that it holds in reserve, uses it
    to accept, and resets the accepted connection, so that clients are refused instead of
    left waiting. If that fails too, and on any other error (ENOMEM, ENOBUFS, or a socket
    that someone else shut down), it leaves connections in the backlog and retries later.
    Errors that concern only one connection (`PER_CONNECTION_ERRORS`) are ignored.
    """

    def accept_queued(self) -> None:
        """Accept the connections that are in the backlog now."""

    def backlog(self) -> tuple[int, int] | None:
        """Return how many connections wait to be accepted, and how many may; None if unknown."""

    def close(self) -> None:
        """Stop accepting and close the listening socket.

        *accept* may still be called soon for connections accepted before.
        """


class Engine(Protocol):
    """A module that moves bytes."""

    NAME: str

    Stream: type
    """`silly._engine.stream.Stream`, or a class that behaves the same."""

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

        The socket belongs to the server from now on. *accept* is called for each
        connection; an exception from it is a defect, and goes to the loop's exception
        handler.

        An engine that supports busy polling polls for *busy_poll* seconds after each event
        before it lets the loop sleep; others ignore this.
        """

    async def attach(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept
    ) -> None:
        """Call *accept* for *sock*, which is connected.

        The socket belongs to the connection from now on, and is closed if this is
        cancelled.
        """

    def disown(self, inherited: Any) -> None:
        """In a forked child, close its copies of a stream's or server's descriptors.

        Nothing is sent, and the event loop, which shares its epoll set with the parent's,
        is not touched.
        """

    def spin(self, loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None:
        """Alternate between calling *step* and serving ready descriptors, for a short time.

        For busy polling: called repeatedly, each time in a callback of *loop*, not in a
        task. It returns when the loop has something else to do. An engine without its own
        polling calls *step* once. Exceptions from *step* propagate.
        """

    def wrap_coroutine(
        self, coroutine: Coroutine[Any, Any, object], loop: asyncio.AbstractEventLoop
    ) -> Coroutine[Any, Any, object]:
        """Return the coroutine that a handler's task runs: *coroutine*, or a faster wrapper."""
