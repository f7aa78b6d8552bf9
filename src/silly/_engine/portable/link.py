"""Links: what carries the bytes of one connection of the portable engine.

A `Link` knows no delimiters, limits or timeouts; a `Stream` (stream.py) implements those and
never touches a socket. The stream calls the link's methods; the link reports to the stream
through `LinkEvents`: from the event loop's callbacks, one at a time, and in this order: any
number of `received`, at most one `ended`, `full` and `has_room` alternating, and finally one
`lost`. A link's method reports an event before it returns only where its docstring says so.

`AsyncioLink` is a link over one of asyncio's transports, which queues and sends. It runs on
any event loop that has transports (asyncio's own, uvloop), on every platform.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import functools
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from silly._engine.interface import Accept, Gate, packed_ip
from silly._loop.registry import PerLoop

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["RESET_ON_CLOSE", "AsyncioLink", "Link", "LinkEvents", "link_factory"]

_RECEIVE: Final = 64 * 1024  # bytes at a time
_MIN_RECEIVE: Final = 4096  # bytes; a smaller read limit does not reduce receives below this
RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Link(Protocol):
    """The transport of one connection."""

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


class AsyncioLink(asyncio.BaseProtocol):
    """A link over one asyncio transport.

    `send` and the receiving callback are bound directly to the transport's and the
    stream's methods, which saves a Python call for each.
    """

    __slots__ = (
        "_accept",
        "_closed",
        "_full",
        "_gate",
        "_stream",
        "_transport",
        "has_stream",
        "local_sockaddr",
        "remote_sockaddr",
        "send",
    )
    local_sockaddr: Any
    remote_sockaddr: Any

    def __init__(self, accept: Accept, sockaddr: Any = None, gate: Gate | None = None) -> None:
        self._accept = accept
        self._gate = gate  # None: the server asked it already
        self.remote_sockaddr = sockaddr
        self.has_stream = False
        self._full = self._closed = False
        self._stream: LinkEvents = _NO_STREAM

    def attach(self, events: LinkEvents) -> None:
        self._stream = events
        self.has_stream = True

    def receive_at_most(self, size: int) -> None:
        pass  # the transport decides

    # -------------------------------------------- called by asyncio's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        # Asked now: a transport that lost its socket no longer knows.
        self.local_sockaddr = transport.get_extra_info("sockname")
        if self.remote_sockaddr is None:
            self.remote_sockaddr = transport.get_extra_info("peername")
        if self._gate is not None and not self._gate.enter(packed_ip(self.remote_sockaddr)):
            self.abort()
            return
        self.send = transport.write
        try:
            self._accept(self)
        finally:
            if not self.has_stream:
                self.abort()
                if self._gate is not None:
                    self._gate.leave(packed_ip(self.remote_sockaddr))
            del self._accept

    def eof_received(self) -> bool:
        self._stream.ended()
        return True  # keep the sending half open

    def pause_writing(self) -> None:
        self._full = True
        self._stream.full()

    def resume_writing(self) -> None:
        # Later: asyncio's transports call this while they empty their queue, and must not
        # be closed there.
        self._full = False
        asyncio.get_running_loop().call_soon(self._report_room)

    def _report_room(self) -> None:
        if not (self._closed or self._full):
            self._stream.has_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if exc is not None and not isinstance(exc, OSError):
            exc = ConnectionAbortedError(errno.ECONNABORTED, repr(exc))
        # Break the cycle of stream and link: no work for the garbage collector.
        events, self._stream = self._stream, _NO_STREAM
        events.lost(exc)

    # ------------------------------------------------------ called by the stream

    def unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def finish(self) -> None:
        if not self._transport.is_closing():
            with contextlib.suppress(OSError):  # already reset: the reader reports it
                self._transport.write_eof()

    def set_high_water(self, size: int) -> None:
        self._transport.set_write_buffer_limits(high=size, low=size // 4)

    def call_when_empty(self) -> None:
        self._transport.set_write_buffer_limits(high=0)

    def has_unread(self) -> bool:
        if sys.platform == "win32":
            return False
        count = array.array("i", [0])
        try:
            fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, count)
        except (OSError, ValueError):
            return False
        return count[0] > 0

    def in_flight(self) -> int:
        if sys.platform != "linux":
            return 0
        count = array.array("i", [0])
        try:
            fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, count)  # SIOCOUTQ of tcp(7)
        except (OSError, ValueError):
            return 0
        return count[0]

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        # A zero linger time turns the close that follows into a reset (socket(7)).
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:  # else uvloop has closed it: setting up was cancelled
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    @property
    def _socket(self) -> socket.socket:
        return cast(socket.socket, self._transport.get_extra_info("socket"))


class _PiecesLink(AsyncioLink, asyncio.Protocol):
    """Takes the bytes objects that the transport received."""

    __slots__ = ("data_received",)

    def __init__(self, accept: Accept, sockaddr: Any = None, gate: Gate | None = None) -> None:
        super().__init__(accept, sockaddr, gate)
        self.data_received = super().data_received  # type: ignore[method-assign]

    def attach(self, events: LinkEvents) -> None:
        super().attach(events)
        self.data_received = events.received  # type: ignore[method-assign, assignment]
        self._transport.set_protocol(self)  # uvloop looks the callback up once, here

    def connection_lost(self, exc: Exception | None) -> None:
        del self.data_received
        super().connection_lost(exc)


class _ScratchLink(AsyncioLink, asyncio.BufferedProtocol):
    """Receives into one buffer that all connections of the loop share.

    For asyncio's own loops: their transports would otherwise allocate 256 KiB for each
    receive and shrink it afterwards, which costs system calls, and at least one page for
    each piece that is kept.
    """

    __slots__ = ("_received", "_scratch", "_whole_scratch")

    def __init__(
        self,
        scratch: memoryview,
        accept: Accept,
        sockaddr: Any = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(accept, sockaddr, gate)
        self._whole_scratch = self._scratch = scratch
        self._received = self._stream.received

    def attach(self, events: LinkEvents) -> None:
        super().attach(events)
        self._received = events.received

    def receive_at_most(self, size: int) -> None:
        self._scratch = self._whole_scratch[: max(size, _MIN_RECEIVE)]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the buffer is large enough
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        self._received(bytes(self._scratch[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        del self._received
        super().connection_lost(exc)


_scratch_buffers: Final = PerLoop("scratch", lambda _: memoryview(bytearray(_RECEIVE)))


def link_factory(loop: asyncio.AbstractEventLoop, accept: Accept) -> Callable[..., AsyncioLink]:
    """Return a factory for the kind of link that suits *loop* best."""
    if isinstance(loop, asyncio.BaseEventLoop):
        return functools.partial(_ScratchLink, _scratch_buffers.of(loop), accept)
    return functools.partial(_PiecesLink, accept)


class _NoStream:
    """Ignores the events of a link that has no stream (yet, any more, or at all)."""

    def received(self, piece: bytes) -> None: ...
    def ended(self) -> None: ...
    def full(self) -> None: ...
    def has_room(self) -> None: ...
    def lost(self, error: OSError | None) -> None: ...


_NO_STREAM: Final = _NoStream()


def _conforms() -> tuple[type[Link]]:  # the type checker verifies that this is a link
    return (AsyncioLink,)
