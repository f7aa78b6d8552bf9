"""Links: what carries the bytes of one connection of the portable engine.

A `Link` knows no delimiters, limits or timeouts; a `Stream` (stream.py) implements those and
never touches a socket. The stream calls the link's methods; the link reports to the stream
through `LinkEvents`: from the event loop's callbacks, one at a time, and in this order: any
number of `received`, at most one `ended`, `full` and `has_room` alternating, and finally one
`lost`. A link's method reports an event before it returns only where its docstring says so.

`socket_link` is for loops that watch sockets, `transport_link` for any loop that has transports.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = [
    "NO_STREAM",
    "RECEIVED",
    "RESET_ON_CLOSE",
    "KernelQueues",
    "Link",
    "LinkEvents",
    "as_os_error",
]

RECEIVED: Final = 64 * 1024  # bytes at a time

RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""The SO_LINGER that turns the close that follows into a reset (socket(7))."""


class Link(Protocol):
    """The transport of one connection."""

    clock: Callable[[], float]
    """The loop's clock."""

    def attach(self, events: LinkEvents) -> None:
        """Report to *events* from now on. Called first, and again for a filter."""

    def send(self, data: bytes) -> None:
        """Send *data* after everything sent before; never block.

        What the operating system does not accept now is queued. May report `full` before
        it returns.
        """

    def unsent(self) -> int:
        """Return how many bytes are queued here, not yet accepted by the operating system."""

    def receive_at_most(self, size: int) -> None:
        """Receive at most *size* bytes at a time (initially `RECEIVED`), if the transport can."""

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

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 if there is none."""

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

    @property
    def remote_ip(self) -> bytes:
        """The peer's IP address (see `packed_ip`)."""


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


class KernelQueues:
    """What the operating system holds for a socket: the base of links that have one."""

    __slots__ = ()

    @property
    def _socket(self) -> socket.SocketType:
        raise NotImplementedError

    def fileno(self) -> int:
        return self._socket.fileno()

    def has_unread(self) -> bool:
        return sys.platform != "win32" and self._ask(termios.FIONREAD) > 0

    def in_flight(self) -> int:
        # SIOCOUTQ of tcp(7)
        return self._ask(termios.TIOCOUTQ) if sys.platform == "linux" else 0

    def _ask(self, request: int) -> int:
        count = array.array("i", [0])
        if sys.platform != "win32":
            try:
                fcntl.ioctl(self._socket.fileno(), request, count)
            except (OSError, ValueError):  # pragma: no cover - the loop has just closed it
                return 0
        return count[0]


def as_os_error(error: Exception) -> OSError:
    """Return what ends a connection because of *error*, which receiving or sending raised."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return ConnectionAbortedError(errno.ECONNABORTED, repr(error))


class _NoStream:
    """Ignores the events of a link that has no stream (yet, any more, or at all)."""

    def received(self, piece: bytes) -> None: ...
    def ended(self) -> None: ...
    def full(self) -> None: ...
    def has_room(self) -> None: ...
    def lost(self, error: OSError | None) -> None: ...


NO_STREAM: Final = _NoStream()
