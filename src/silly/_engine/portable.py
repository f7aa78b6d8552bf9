"""The portable engine: links over asyncio's transports.

Runs on any event loop that has them (the stock loops, uvloop) and wherever
Python runs. The transport queues and flushes; this module only translates
between its callbacks and the seam of interface.py.
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

from silly._engine import complaints
from silly._engine.interface import (
    OF_ONE_CONNECTION,
    Accept,
    Gate,
    Link,
    Server,
    Upward,
    packed,
    tune,
)
from silly._engine.stream import Stream
from silly._engine.trampoline import Trampoline as stepped  # noqa: N813 - called as one
from silly._live import let_go

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["NAME", "Stream", "attach", "disown", "serve", "spin", "stepped"]

NAME: Final = "portable"

_RECEIVE: Final = 64 * 1024  # bytes at a time
_LEAST: Final = 4096  # a read limit below this does not make pieces smaller
_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class AsyncioLink(asyncio.BaseProtocol):
    """A link over one asyncio transport.

    `send` and what takes in the bytes are bound to the transport's and the
    stream's own methods once these are there, so that no frame stands between.
    """

    __slots__ = (
        "_accept",
        "_full",
        "_gate",
        "_gone",
        "_transport",
        "_upward",
        "local_sockaddr",
        "remote_sockaddr",
        "send",
        "was_made",
    )
    local_sockaddr: Any
    remote_sockaddr: Any

    def __init__(self, accept: Accept, sockaddr: Any = None, gate: Gate | None = None) -> None:
        self._accept = accept
        self._gate = gate  # to be asked, if the server did not
        self.remote_sockaddr = sockaddr
        self.was_made = False
        self._full = self._gone = False
        self._upward: Upward = _NOBODY

    def attach(self, upward: Upward) -> None:
        self._upward = upward
        self.was_made = True

    def receive_at_most(self, size: int) -> None:
        pass  # the transport decides

    # -------------------------------------------- called by asyncio's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        # Asked now: a transport that has lost its socket cannot tell.
        self.local_sockaddr = transport.get_extra_info("sockname")
        if self.remote_sockaddr is None:
            self.remote_sockaddr = transport.get_extra_info("peername")
        if self._gate is not None and not self._gate.enter(packed(self.remote_sockaddr)):
            self.abort()
            return
        self.send = transport.write
        try:
            self._accept(self)
        finally:
            if not self.was_made:
                self.abort()
                if self._gate is not None:
                    self._gate.leave(packed(self.remote_sockaddr))
            del self._accept

    def eof_received(self) -> bool:
        self._upward.ended()
        return True  # keep the sending half open

    def pause_writing(self) -> None:
        self._full = True
        self._upward.full()

    def resume_writing(self) -> None:
        # Not at once: the stock loops' transports call this in the middle of
        # emptying their queue, and do not bear being closed there.
        self._full = False
        asyncio.get_running_loop().call_soon(self._tell_room)

    def _tell_room(self) -> None:
        if not (self._gone or self._full):
            self._upward.has_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        if exc is not None and not isinstance(exc, OSError):
            exc = ConnectionAbortedError(errno.ECONNABORTED, repr(exc))
        # Stream and link refer to each other no more: no work for the collector of cycles.
        upward, self._upward = self._upward, _NOBODY
        upward.lost(exc)

    # --------------------------------------------------- called by the stream

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
            with contextlib.suppress(OSError):  # reset, and not noticed yet: the reader will
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
    """Takes pieces as the transport received them."""

    __slots__ = ("data_received",)

    def __init__(self, accept: Accept, sockaddr: Any = None, gate: Gate | None = None) -> None:
        super().__init__(accept, sockaddr, gate)
        self.data_received = super().data_received  # type: ignore[method-assign]

    def attach(self, upward: Upward) -> None:
        super().attach(upward)
        self.data_received = upward.received  # type: ignore[method-assign, assignment]
        self._transport.set_protocol(self)  # uvloop looks the callback up once, here

    def connection_lost(self, exc: Exception | None) -> None:
        del self.data_received
        super().connection_lost(exc)


class _ScratchLink(AsyncioLink, asyncio.BufferedProtocol):
    """Receives into one buffer, of the loop's.

    For the stock loops, whose transports else allocate 256 KiB for each piece
    and shrink that to what came, which costs system calls, and a page for each
    piece that is kept.
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
        self._received = self._upward.received

    def attach(self, upward: Upward) -> None:
        super().attach(upward)
        self._received = upward.received

    def receive_at_most(self, size: int) -> None:
        self._scratch = self._whole_scratch[: max(size, _LEAST)]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - it is large
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        self._received(bytes(self._scratch[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        del self._received
        super().connection_lost(exc)


def link_factory(loop: asyncio.AbstractEventLoop, accept: Accept) -> Callable[..., AsyncioLink]:
    """Return what makes links, of the kind that is best on *loop*."""
    if isinstance(loop, asyncio.BaseEventLoop):
        scratch = getattr(loop, "_silly_scratch", None)
        if scratch is None:
            scratch = memoryview(bytearray(_RECEIVE))
            loop._silly_scratch = scratch  # type: ignore[attr-defined]
        return functools.partial(_ScratchLink, scratch, accept)
    return functools.partial(_PiecesLink, accept)


class _Nobody:
    """Stands above a link that has no stream: not yet, not any more, or it was not let in."""

    def received(self, piece: bytes) -> None: ...
    def ended(self) -> None: ...
    def full(self) -> None: ...
    def has_room(self) -> None: ...
    def lost(self, error: OSError | None) -> None: ...


_NOBODY: Final = _Nobody()


class SocketServer:
    """Accepts on one socket, whenever the loop says that somebody is waiting."""

    _reserve = -1  # a descriptor to give up when there are no others; -1: none
    _failed = 0  # times in a row that accepting failed

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept, gate: Gate
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._new_link = link_factory(loop, accept)
        self._gate = gate
        self._timer: asyncio.TimerHandle | None = None
        self._reserve = _open_reserve()
        loop.add_reader(sock, self._on_ready)

    def __del__(self) -> None:
        if self._reserve >= 0:  # its loop is gone, and nobody closed it
            os.close(self._reserve)

    def _on_ready(self) -> None:
        for _ in range(AT_ONCE):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept, and tell whether there may be more."""
        try:
            sock, sockaddr = self._sock.accept()
        except OSError as error:
            if isinstance(error, BlockingIOError) or self._sock.fileno() < 0:
                return False
            if error.errno in _OUT_OF_DESCRIPTORS and self._reserve >= 0:
                return self._shed(error)
            self._failed += 1
            if error.errno in OF_ONE_CONNECTION and self._failed < AT_ONCE:
                return True
            self._back_off(error)
            return False
        self._failed = 0
        entered = False
        try:
            client = packed(sockaddr)
            entered = self._gate.enter(client)
        finally:
            if not entered:
                _reset(sock)
        if entered:
            self._go_on_making(self._make(sock, sockaddr, client))
        return True

    def _go_on_making(
        self, making: Coroutine[Any, None, None], _waiter: asyncio.Future[None] | None = None
    ) -> None:
        """Step a coroutine that only waits for futures: a task for that would be half the cost."""
        with contextlib.suppress(StopIteration):
            making.send(None).add_done_callback(functools.partial(self._go_on_making, making))

    async def _make(self, sock: socket.socket, sockaddr: Any, client: bytes) -> None:
        link = self._new_link(sockaddr=sockaddr)
        try:
            sock.setblocking(False)
            await self._loop.connect_accepted_socket(lambda: link, sock)
        except BaseException as error:
            sock.close()
            if not link.was_made:
                self._gate.leave(client)
            if not isinstance(error, Exception):
                raise
            self._loop.call_exception_handler(
                {"message": "a connection could not be set up", "exception": error}
            )
        else:
            if not link.was_made:
                self._gate.leave(client)

    def _shed(self, error: OSError) -> bool:
        """Turn one away with the descriptor in reserve."""
        os.close(self._reserve)
        self._reserve = -1
        shed: Any = None
        more = True
        try:
            sock, shed = self._sock.accept()
            _reset(sock)
        except OSError as again:
            more = again.errno in OF_ONE_CONNECTION
            if not (more or isinstance(again, BlockingIOError)):
                self._back_off(again)
        self._reserve = _open_reserve()
        if self._reserve < 0:
            self._back_off(error)
            more = False
        if shed is not None:
            self._gate.shed(packed(shed))
        return more

    def _back_off(self, error: OSError) -> None:
        if self._timer is None:
            self._loop.remove_reader(self._sock)
            self._timer = self._loop.call_later(BACK_OFF, self._go_on)
            self._gate.stalled(error.errno or 0, BACK_OFF)

    def _go_on(self) -> None:
        self._timer = None
        if self._reserve < 0:
            self._reserve = _open_reserve()
        try:
            self._loop.add_reader(self._sock, self._on_ready)
        except OSError as error:
            self._back_off(error)

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
        """Close in a forked child, without a word to the loop, which is the parent's."""
        if self._reserve >= 0:  # the first: where no descriptor is free, the next step takes it
            os.close(self._reserve)
            self._reserve = -1
        let_go(self._sock)


AT_ONCE: Final = 32  # connections accepted before others have their turn
SOMAXCONN: Final = 4096  # as many as a backlog may hold (listen(2))
BACK_OFF: Final = 1.0  # seconds
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)


def backlog_of(sock: socket.socket) -> tuple[int, int] | None:
    """Ask the kernel how full a listening socket's backlog is, and how long it may be."""
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    except OSError:
        return None
    # Of a listening socket tcpi_unacked and tcpi_sacked tell of its queue (inet_diag, ss(8)).
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
    """Accepts with the loop's own server, where it can watch no socket (Windows)."""

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
        self._server: asyncio.AbstractServer | None = None
        self._starting = loop.create_task(self._start(backlog, accept, gate))

    async def _start(self, backlog: int, accept: Accept, gate: Gate) -> None:
        self._server = await self._loop.create_server(
            functools.partial(link_factory(self._loop, accept), gate=gate),
            sock=self._sock,
            backlog=backlog,
        )

    def accept_queued(self) -> None:
        """Without effect: the loop accepts by itself."""

    def backlog(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        self._starting.cancel()
        if isinstance(self._loop, asyncio.SelectorEventLoop):
            # Not the server's own close: that drops what was accepted in this pass of the loop.
            self._loop.remove_reader(self._sock)
            self._sock.close()
        elif self._server is not None:
            self._server.close()
        else:
            self._sock.close()


def serve(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    backlog: int,
    accept: Accept,
    *,
    busy_poll: float,  # noqa: ARG001 - the loop does the waiting here
    gate: Gate,
) -> Server:
    """Accept connections on *sock* (see `silly._engine.interface.Engine.serve`)."""
    tune(sock)  # accepted connections inherit it
    if sys.platform == "win32":
        return LoopServer(loop, sock, backlog, accept, gate)
    return SocketServer(loop, sock, accept, gate)


async def attach(loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept) -> None:
    """Make a link of *sock* (see `silly._engine.interface.Engine.attach`)."""
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


def disown(of_parent: Stream | Server) -> None:
    """Close a descriptor in a forked child (see `silly._engine.interface.Engine.disown`)."""
    if isinstance(of_parent, Stream):
        of_parent._mark_lost(complaints.belongs_to_parent())
        let_go(cast(AsyncioLink, of_parent._link)._socket)
    else:
        cast(SocketServer, of_parent).disown()


def spin(loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None:  # noqa: ARG001
    """Call *step* (see `silly._engine.interface.Engine.spin`); it is the loop that serves."""
    step()


def _conforms() -> tuple[type[Link]]:  # for the type checker: this is a link
    return (AsyncioLink,)
