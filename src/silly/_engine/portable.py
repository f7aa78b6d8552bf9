"""The portable engine: links over asyncio's transports.

Runs on any event loop that has them (the stock loops, uvloop) and wherever
Python runs. The transport queues and flushes; this module only translates
between its callbacks and the seam of interface.py.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
import struct
import sys
from typing import Any, Final, cast

from silly._engine.interface import Accept, Link, Upward
from silly._engine.stream import Stream
from silly._engine.trampoline import Trampoline as stepped  # noqa: N813 - called as one

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["NAME", "Stream", "attach", "serve", "stepped"]

NAME: Final = "portable"

_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class AsyncioLink(asyncio.Protocol):
    """A link over one asyncio transport.

    The callbacks that carry data are bound to the stream's own methods once it
    is there, and `send` to the transport's, so that no frame stands between.
    """

    __slots__ = (
        "_accept",
        "_crowded",
        "_gone",
        "_transport",
        "_upward",
        "data_received",
        "local_sockaddr",
        "remote_sockaddr",
        "send",
        "unsent",
    )
    local_sockaddr: Any
    remote_sockaddr: Any

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self._crowded = self._gone = False
        self.data_received = super().data_received  # type: ignore[method-assign]

    # -------------------------------------------- called by asyncio's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        # Asked now: a transport that has lost its socket cannot tell.
        self.local_sockaddr = transport.get_extra_info("sockname")
        self.remote_sockaddr = transport.get_extra_info("peername")
        self.send = transport.write
        self.unsent = transport.get_write_buffer_size
        self._upward: Upward = self._accept(self)
        del self._accept
        self.data_received = self._upward.received  # type: ignore[method-assign]
        transport.set_protocol(self)  # uvloop looks the callback up once, here

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
        self._upward.lost(exc)

    # --------------------------------------------------- called by the stream

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


class AsyncioServer:
    """Accepts on one socket with the loop's own server, which starts on the loop's next pass."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, backlog: int, accept: Accept
    ) -> None:
        self._loop = loop
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
        server = await create(lambda: AsyncioLink(accept), sock=self._sock, backlog=backlog)
        self._server = server
        if self._closed:
            self.close()

    def close(self) -> None:
        self._closed = True
        if self._server is not None and isinstance(self._loop, asyncio.SelectorEventLoop):
            # Not the server's own close: that drops what was accepted in this pass of the loop.
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
    busy_poll: float,  # noqa: ARG001 - the loop does the waiting here
) -> AsyncioServer:
    """Accept connections on *sock* (see `silly._engine.interface.Engine.serve`)."""
    return AsyncioServer(loop, sock, backlog, accept)


async def attach(loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept) -> None:
    """Make a link of *sock* (see `silly._engine.interface.Engine.attach`)."""

    def make_link() -> AsyncioLink:
        return AsyncioLink(accept)

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
