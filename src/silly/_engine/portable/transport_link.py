"""A link over one of asyncio's transports, which queues and sends.

For loops that do not watch sockets for others: asyncio's on Windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from silly._engine.interface import Accept, Gate, packed_ip
from silly._engine.portable.link import (
    NO_STREAM,
    RESET_ON_CLOSE,
    KernelQueues,
    LinkEvents,
    as_os_error,
)

__all__ = ["TransportLink"]

_IS_WINDOWS: Final = sys.platform == "win32"
_ignore: Final = NO_STREAM.received


class TransportLink(KernelQueues, asyncio.BaseProtocol):
    """A link over one transport.

    `send` and `data_received` are the transport's and the stream's own methods, which saves a
    Python call for each.
    """

    __slots__ = (
        "_accept",
        "_closed",
        "_full",
        "_gate",
        "_stream",
        "_transport",
        "clock",
        "data_received",
        "has_stream",
        "local_sockaddr",
        "remote_ip",
        "remote_sockaddr",
        "send",
    )
    data_received: Callable[[bytes], None]
    local_sockaddr: Any
    remote_ip: bytes
    remote_sockaddr: Any

    def __init__(self, accept: Accept, gate: Gate | None = None) -> None:
        self._accept = accept
        self._gate = gate  # None: this side connected
        self.has_stream = False
        self._full = self._closed = False
        self._stream: LinkEvents = NO_STREAM
        self.data_received = _ignore

    def attach(self, events: LinkEvents) -> None:
        self._stream = events
        self.has_stream = True
        self.data_received = events.received if not _IS_WINDOWS else _as_bytes(events)
        self._transport.set_protocol(self)  # a loop may look the callback up once, here

    def receive_at_most(self, size: int) -> None:
        pass  # the transport decides

    # -------------------------------------------- called by asyncio's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        # Now: some transports do not know it once they are closed.
        self.local_sockaddr = transport.get_extra_info("sockname")
        self.remote_sockaddr = transport.get_extra_info("peername")
        self.remote_ip = packed_ip(self.remote_sockaddr)
        if self._gate is not None and not self._gate.enter(self.remote_ip):
            self.abort()
            return
        self.send = self._transport.write
        self.clock = asyncio.get_running_loop().time
        try:
            self._accept(self)
        finally:
            if not self.has_stream:
                self.abort()
                if self._gate is not None:
                    self._gate.leave(self.remote_ip)
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
        # Break the cycle of stream and link: no work for the garbage collector.
        events, self._stream = self._stream, NO_STREAM
        self.data_received = _ignore
        events.lost(None if exc is None else as_os_error(exc))

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

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        # A zero linger time turns the close that follows into a reset (socket(7)).
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:  # else the loop has closed it: setting up was cancelled
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    @property
    def _socket(self) -> socket.SocketType:
        return cast(socket.SocketType, self._transport.get_extra_info("socket"))


def _as_bytes(events: LinkEvents) -> Callable[[bytes], None]:  # pragma: no cover - on Windows
    """Return a callback for transports that hand over what they will write to again (Windows)."""
    return lambda piece: events.received(bytes(piece))
