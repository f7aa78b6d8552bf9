"""The portable engine: links over asyncio's transports.

Runs on any event loop that has transports (asyncio's own, uvloop), on every platform.
The transport queues and sends; this module translates between its callbacks and the
interfaces in interface.py.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import functools
import os
import socket
import struct
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from silly._engine import stream_errors
from silly._engine.interface import (
    PER_CONNECTION_ERRORS,
    Accept,
    Gate,
    Link,
    LinkEvents,
    Server,
    packed_ip,
    tune,
)
from silly._engine.stream import Stream
from silly._engine.trampoline import Trampoline as wrap_coroutine  # noqa: N813 - used as a function
from silly._live import let_go

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["NAME", "Stream", "attach", "disown", "serve", "spin", "wrap_coroutine"]

NAME: Final = "portable"

_RECEIVE: Final = 64 * 1024  # bytes at a time
_MIN_RECEIVE: Final = 4096  # bytes; a smaller read limit does not reduce receives below this
_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


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
            exc = ConnectionAbortedError(f"{type(exc).__name__}: {exc}")
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

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        # A zero linger time turns the close that follows into a reset (socket(7)).
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
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


def link_factory(loop: asyncio.AbstractEventLoop, accept: Accept) -> Callable[..., AsyncioLink]:
    """Return a factory for the kind of link that suits *loop* best."""
    if isinstance(loop, asyncio.BaseEventLoop):
        scratch = getattr(loop, "_silly_scratch", None)
        if scratch is None:
            scratch = memoryview(bytearray(_RECEIVE))
            loop._silly_scratch = scratch  # type: ignore[attr-defined]
        return functools.partial(_ScratchLink, scratch, accept)
    return functools.partial(_PiecesLink, accept)


class _NoStream:
    """Ignores the events of a link that has no stream (yet, any more, or at all)."""

    def received(self, piece: bytes) -> None: ...
    def ended(self) -> None: ...
    def full(self) -> None: ...
    def has_room(self) -> None: ...
    def lost(self, error: OSError | None) -> None: ...


_NO_STREAM: Final = _NoStream()


class SocketServer:
    """Accepts on one socket whenever the loop reports it readable."""

    _reserve = -1  # a descriptor to free when there are no others; -1: none
    _failed = 0  # consecutive failures to accept

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept, gate: Gate
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._make_link = link_factory(loop, accept)
        self._gate = gate
        self._timer: asyncio.TimerHandle | None = None
        self._reserve = _open_reserve()
        loop.add_reader(sock, self._on_ready)

    def __del__(self) -> None:
        if self._reserve >= 0:  # its loop was collected, and close() was never called
            os.close(self._reserve)

    def _on_ready(self) -> None:
        for _ in range(ACCEPT_BATCH):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept one connection; return whether there may be more."""
        try:
            sock, sockaddr = self._sock.accept()
        except OSError as error:
            if isinstance(error, BlockingIOError) or self._sock.fileno() < 0:
                return False
            if error.errno in _OUT_OF_DESCRIPTORS and self._reserve >= 0:
                return self._shed(error)
            self._failed += 1
            if error.errno in PER_CONNECTION_ERRORS and self._failed < ACCEPT_BATCH:
                return True
            self._back_off(error)
            return False
        self._failed = 0
        entered = False
        try:
            client = packed_ip(sockaddr)
            entered = self._gate.enter(client)
        finally:
            if not entered:
                _reset(sock)
        if entered:
            self._step_setup(self._set_up(sock, sockaddr, client))
        return True

    def _step_setup(
        self, making: Coroutine[Any, None, None], _waiter: asyncio.Future[None] | None = None
    ) -> None:
        """Step a coroutine that only awaits futures, without the cost of a task."""
        with contextlib.suppress(StopIteration):
            making.send(None).add_done_callback(functools.partial(self._step_setup, making))

    async def _set_up(self, sock: socket.socket, sockaddr: Any, client: bytes) -> None:
        link = self._make_link(sockaddr=sockaddr)
        try:
            sock.setblocking(False)
            await self._loop.connect_accepted_socket(lambda: link, sock)
        except BaseException as error:
            sock.close()
            if not link.has_stream:
                self._gate.leave(client)
            if not isinstance(error, Exception):
                raise
            self._loop.call_exception_handler(
                {"message": "a connection could not be set up", "exception": error}
            )
        else:
            if not link.has_stream:
                self._gate.leave(client)

    def _shed(self, error: OSError) -> bool:
        """Refuse one connection, using the reserve descriptor; return whether there may be more."""
        os.close(self._reserve)
        self._reserve = -1
        shed: Any = None
        more = True
        try:
            sock, shed = self._sock.accept()
            _reset(sock)
        except OSError as again:
            more = again.errno in PER_CONNECTION_ERRORS
            if not (more or isinstance(again, BlockingIOError)):
                self._back_off(again)
        self._reserve = _open_reserve()
        if self._reserve < 0:
            self._back_off(error)
            more = False
        if shed is not None:
            self._gate.shed(packed_ip(shed))
        return more

    def _back_off(self, error: OSError) -> None:
        if self._timer is None:
            self._loop.remove_reader(self._sock)
            self._timer = self._loop.call_later(BACK_OFF, self._resume_accepting)
            self._gate.stalled(error.errno or 0, BACK_OFF)

    def _resume_accepting(self) -> None:
        self._timer = None
        if self._reserve < 0:
            self._reserve = _open_reserve()
        self._loop.add_reader(self._sock, self._on_ready)

    def accept_queued(self) -> None:
        for _ in range(SOMAXCONN):
            if not self._accept_one():
                return

    def backlog(self) -> tuple[int, int] | None:
        return backlog_of(self._sock)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def disown(self) -> None:
        """Close in a forked child, without touching the event loop."""
        if self._reserve >= 0:  # first: `let_go` needs a free descriptor
            os.close(self._reserve)
            self._reserve = -1
        let_go(self._sock)


ACCEPT_BATCH: Final = 32  # connections accepted before other callbacks run
SOMAXCONN: Final = 4096  # the longest backlog (listen(2))
BACK_OFF: Final = 1.0  # seconds
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)


def backlog_of(sock: socket.socket) -> tuple[int, int] | None:
    """Return how full a listening socket's backlog is, and its limit; None if unknown."""
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    except OSError:
        return None
    # For a listening socket, tcpi_unacked and tcpi_sacked describe its queue (ss(8)).
    used, size = struct.unpack_from("II", info, 24)
    return used, size


def _open_reserve() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return -1


def _reset(sock: socket.socket) -> None:
    """Close *sock* with a reset (a zero linger time does that: socket(7))."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


class LoopServer:
    """Accepts with the loop's own server: on Windows, its loop cannot watch a socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        backlog: int,
        accept: Accept,
        gate: Gate,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._closed = False
        self._server: asyncio.AbstractServer | None = None
        self._starting = loop.create_task(self._start(loop, backlog, accept, gate))

    async def _start(
        self, loop: asyncio.AbstractEventLoop, backlog: int, accept: Accept, gate: Gate
    ) -> None:
        server = await loop.create_server(
            functools.partial(link_factory(loop, accept), gate=gate),
            sock=self._sock,
            backlog=backlog,
        )
        if self._closed:
            server.close()
        self._server = server
        if self._closed:
            self.close()

    def accept_queued(self) -> None:
        """Do nothing: the loop's server accepts."""

    def backlog(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        self._closed = True
        if self._server is not None and isinstance(self._loop, asyncio.SelectorEventLoop):
            # The server's own close would drop connections accepted in this iteration of the loop.
            self._loop.remove_reader(self._sock)
            self._sock.close()
        elif self._server is not None:
            self._server.close()
        else:
            self._starting.cancel()
            self._sock.close()


def serve(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    backlog: int,
    accept: Accept,
    *,
    busy_poll: float,  # noqa: ARG001 - the loop does the waiting
    gate: Gate,
) -> Server:
    """Accept connections on *sock* (see `silly._engine.interface.Engine.serve`)."""
    tune(sock)  # accepted connections inherit it
    if sys.platform == "win32":
        return LoopServer(loop, sock, backlog, accept, gate)
    return SocketServer(loop, sock, accept, gate)


async def attach(loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept) -> None:
    """Make a link for *sock* (see `silly._engine.interface.Engine.attach`)."""
    tune(sock)
    make_link = link_factory(loop, accept)
    try:
        if sock.family == getattr(socket, "AF_UNIX", None):
            await loop.create_unix_connection(make_link, sock=sock)
        else:
            await loop.create_connection(make_link, sock=sock)
    except BaseException:
        sock.close()
        raise


def disown(inherited: Stream | Server) -> None:
    """Close descriptors in a forked child (see `silly._engine.interface.Engine.disown`)."""
    if isinstance(inherited, Stream):
        inherited._mark_closed(stream_errors.owned_by_parent())
        let_go(cast(AsyncioLink, inherited._link)._socket)
    else:
        cast(SocketServer, inherited).disown()


def spin(loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None:  # noqa: ARG001
    """Call *step* once (see `silly._engine.interface.Engine.spin`)."""
    step()


def _conforms() -> tuple[type[Link]]:  # the type checker verifies that this is a link
    return (AsyncioLink,)
