"""The portable engine: links over asyncio's transports.

Runs on any event loop that has them (the stock loops, uvloop) and wherever
Python runs. The transport queues and flushes; this module only translates
between its callbacks and the seam of interface.py.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import functools
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from silly._engine.interface import Accept, Link, Upward
from silly._engine.stream import Stream
from silly._engine.trampoline import Trampoline as stepped  # noqa: N813 - called as one

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["NAME", "Stream", "attach", "serve", "stepped"]

NAME: Final = "portable"

_RECEIVE: Final = 64 * 1024  # bytes at a time
_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class AsyncioLink(asyncio.BaseProtocol):
    """A link over one asyncio transport.

    `send` and what takes in the bytes are bound to the transport's and the
    stream's own methods once these are there, so that no frame stands between.
    """

    __slots__ = (
        "_accept",
        "_crowded",
        "_gone",
        "_transport",
        "_upward",
        "local_sockaddr",
        "remote_sockaddr",
        "send",
    )
    local_sockaddr: Any
    remote_sockaddr: Any

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self._crowded = self._gone = False

    # -------------------------------------------- called by asyncio's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        # Asked now: a transport that has lost its socket cannot tell.
        self.local_sockaddr = transport.get_extra_info("sockname")
        self.remote_sockaddr = transport.get_extra_info("peername")
        self.send = transport.write
        self._upward: Upward = self._accept(self)
        del self._accept

    def eof_received(self) -> bool:
        self._upward.ended()
        return True  # keep the sending half open

    def pause_writing(self) -> None:
        self._crowded = True
        self._upward.crowded()

    def resume_writing(self) -> None:
        # Not at once: the stock loops' transports call this in the middle of
        # emptying their queue, and do not bear being closed there.
        self._crowded = False
        asyncio.get_running_loop().call_soon(self._uncrowd)

    def _uncrowd(self) -> None:
        if not (self._gone or self._crowded):
            self._upward.uncrowded()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        if exc is not None and not isinstance(exc, OSError):
            exc = ConnectionAbortedError(f"{type(exc).__name__}: {exc}")
        upward = self._upward
        del self._upward  # stream and link refer to each other no more: no work for the collector
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

    def __init__(self, accept: Accept) -> None:
        super().__init__(accept)
        self.data_received = super().data_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.data_received = self._upward.received  # type: ignore[method-assign, assignment]
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

    __slots__ = ("_received", "_scratch")

    def __init__(self, accept: Accept, scratch: memoryview) -> None:
        super().__init__(accept)
        self._scratch = scratch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._received = self._upward.received

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - it is large
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        self._received(bytes(self._scratch[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        del self._received
        super().connection_lost(exc)


def link_factory(loop: asyncio.AbstractEventLoop, accept: Accept) -> Callable[[], AsyncioLink]:
    """Return what makes links, of the kind that is best on *loop*."""
    if isinstance(loop, asyncio.BaseEventLoop):
        scratch = getattr(loop, "_silly_scratch", None)
        if scratch is None:
            scratch = memoryview(bytearray(_RECEIVE))
            loop._silly_scratch = scratch  # type: ignore[attr-defined]
        return functools.partial(_ScratchLink, accept, scratch)
    return functools.partial(_PiecesLink, accept)


class AsyncioServer:
    """Accepts on one socket with the loop's own server, which starts on the loop's next pass."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, backlog: int, accept: Accept
    ) -> None:
        self._sock = sock
        self._closed = False
        self._server: asyncio.AbstractServer | None = None
        self._starting = loop.create_task(self._start(loop, backlog, accept))

    async def _start(self, loop: asyncio.AbstractEventLoop, backlog: int, accept: Accept) -> None:
        create: Any = (
            loop.create_unix_server
            if self._sock.family == getattr(socket, "AF_UNIX", None)
            else loop.create_server
        )
        server = await create(link_factory(loop, accept), sock=self._sock, backlog=backlog)
        if self._closed:
            server.close()
        self._server = server

    def close(self) -> None:
        self._closed = True
        if self._server is not None:
            self._server.close()
        else:
            self._starting.cancel()
            self._sock.close()


def serve(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    backlog: int,
    accept: Accept,
    busy_poll: float,  # noqa: ARG001 - the loop does the waiting here
) -> AsyncioServer:
    """Accept connections on *sock* (see `silly._engine.interface.Engine.serve`)."""
    return AsyncioServer(loop, sock, backlog, accept)


async def attach(loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept) -> None:
    """Make a link of *sock* (see `silly._engine.interface.Engine.attach`)."""
    make_link = link_factory(loop, accept)
    try:
        if sock.family == getattr(socket, "AF_UNIX", None):
            await loop.create_unix_connection(make_link, sock=sock)
        else:
            await loop.create_connection(make_link, sock=sock)
    except BaseException:
        sock.close()
        raise


def _conforms() -> tuple[type[Link]]:  # for the type checker: this is a link
    return (AsyncioLink,)
