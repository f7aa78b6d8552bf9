"""A link over a socket that the loop's poller watches.

The transports of asyncio's selector loops cost twice as much for a connection that comes, says
a line and goes, and three more Python calls for each message; uvloop's cost more for such a
connection, too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections import deque
from typing import Any, Final

from silly._engine.interface import Accept, allow_unsent, peer_window
from silly._engine.portable.link import (
    NO_STREAM,
    RECEIVED,
    RESET_ON_CLOSE,
    KernelQueues,
    LinkEvents,
    as_os_error,
)
from silly._engine.portable.poller import READ, WRITE, Poller

__all__ = ["SocketLink"]

_MIN_RECEIVE: Final = 4096  # bytes; a smaller read limit does not reduce receives below this
_HIGH_WATER: Final = 64 * 1024  # bytes
_AT_ONCE: Final = 64  # pieces for one sendmsg(2); IOV_MAX is at least 1024 on Linux

_NOTHING_YET: Final = (BlockingIOError, InterruptedError)


class SocketLink(KernelQueues):
    """A link over one connected, non-blocking socket, which it owns."""

    __slots__ = (
        "_error",
        "_fileno",
        "_finishing",
        "_full",
        "_high",
        "_is_closing",
        "_is_ended",
        "_is_lost",
        "_low",
        "_most",
        "_poller",
        "_queue",
        "_socket",
        "_stream",
        "_unsent",
        "clock",
        "has_stream",
        "interest",
        "local_sockaddr",
        "remote_ip",
        "remote_sockaddr",
    )
    local_sockaddr: Any
    remote_ip: bytes
    remote_sockaddr: Any
    _error: OSError | None
    _socket: socket.SocketType

    def __init__(
        self,
        poller: Poller,
        sock: socket.SocketType,
        peer: Any,
        ip: bytes,
        local: Any = None,
    ) -> None:
        """Take over *sock*, which is connected to *peer*; *local* is its address, if known."""
        self._poller = poller
        self.clock = poller.clock
        self._socket = sock
        self._fileno = sock.fileno()  # for os.read and os.write, which take less than `recv`
        self._stream: LinkEvents = NO_STREAM
        self._most = RECEIVED
        self._queue: deque[bytes | memoryview] | None = None
        self._unsent = 0  # bytes in the queue
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._full = False
        self.interest = 0  # what the poller watches it for
        self._is_ended = False  # the peer sent FIN
        self._finishing = False  # FIN follows the queue ...
        self._is_closing = False  # ... or the close does
        self._is_lost = False
        self.has_stream = False
        self.remote_sockaddr = peer
        self.remote_ip = ip
        if local is None:
            with contextlib.suppress(OSError):
                local = sock.getsockname()  # now: nobody knows once it is closed
        self.local_sockaddr = local

    def start(self, accept: Accept) -> None:
        """Pass the link to *accept*, which attaches a stream, and receive."""
        try:
            accept(self)
        finally:
            if not self.has_stream:
                self.abort()
        self.resume()

    def attach(self, events: LinkEvents) -> None:
        self._stream = events
        self.has_stream = True

    # ----------------------------------------------------------------- watching

    def _watch(self, interest: int) -> None:
        before, self.interest = self.interest, interest
        try:
            self._poller.watch(self, self._fileno, before)
        except OSError as error:  # no memory, or no descriptor
            self.interest = before
            self._lose(error)

    # ---------------------------------------------------------------- receiving

    def receive_at_most(self, size: int) -> None:
        self._most = min(RECEIVED, max(size, _MIN_RECEIVE))

    def pause(self) -> None:
        if self.interest & READ:
            self._watch(self.interest & ~READ)

    def resume(self) -> None:
        if not (self.interest & READ or self._is_ended or self._is_closing or self._is_lost):
            self._watch(self.interest | READ)

    def readable(self) -> None:
        """Receive a piece, or the end of the stream."""
        try:
            piece = os.read(self._fileno, self._most)
            if piece:
                self._stream.received(piece)
            else:
                self._is_ended = True
                self.pause()
                self._stream.ended()
        except _NOTHING_YET:
            pass
        except Exception as error:
            self._lose(as_os_error(error))
            if not isinstance(error, OSError | MemoryError):  # a defect, such as of a filter
                raise

    # ------------------------------------------------------------------ sending

    def send(self, data: bytes) -> None:
        if self._is_lost:
            return
        rest: bytes | memoryview = data
        if self._queue is None:
            try:
                sent = os.write(self._fileno, data)
            except _NOTHING_YET:
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            if sent == len(data):
                return
            if sent:
                rest = memoryview(data)[sent:]
            self._queue = deque()
            self._watch(self.interest | WRITE)
            if self._is_lost:
                return
        self._queue.append(rest)
        self._unsent += len(rest)
        self._control_flow()

    def unsent(self) -> int:
        return self._unsent

    def set_high_water(self, size: int) -> None:
        self._high, self._low = size, size // 4
        self._control_flow()

    def call_when_empty(self) -> None:
        self._high = self._low = 0
        self._control_flow()

    def peer_window(self) -> int:
        """Return how many bytes the peer said last that it can receive; 0: unknown."""
        return peer_window(self._socket)

    def allow_unsent(self, size: int) -> None:
        """Let the kernel accept up to *size* bytes that it cannot send yet."""
        with contextlib.suppress(OSError):  # not TCP, or reset, which sending reports
            allow_unsent(self._socket, size)

    def call_when_writable(self) -> None:
        """Report `full` now, and `has_room` when the operating system takes bytes again.

        Only called while the queue is empty.
        """
        self._queue = deque()
        self._watch(self.interest | WRITE)
        self._full = True
        self._stream.full()

    def _control_flow(self) -> None:
        if self._unsent > self._high and not self._full:
            self._full = True
            self._stream.full()

    def writable(self) -> None:
        """Send what is queued, as much as the operating system takes."""
        queue = self._queue
        assert queue is not None
        try:
            sent = os.writev(self._fileno, list(itertools.islice(queue, _AT_ONCE)))
        except _NOTHING_YET:
            return
        except Exception as error:  # noqa: BLE001 - such as no memory for the list of pieces
            self._lose(as_os_error(error))
            return
        self._unsent -= sent
        while sent:
            piece = queue[0]
            if sent < len(piece):
                queue[0] = memoryview(piece)[sent:]
                break
            sent -= len(piece)
            queue.popleft()
        if not queue:
            self._queue = None
            self._watch(self.interest & ~WRITE)
            if self._is_closing:
                self._lose(None)
                return
            if self._finishing:
                self._send_fin()
        if self._full and self._unsent <= self._low:
            self._full = False
            self._stream.has_room()

    # ------------------------------------------------------------------- ending

    def finish(self) -> None:
        self._finishing = True
        if self._queue is None and not self._is_lost:
            self._send_fin()

    def _send_fin(self) -> None:
        with contextlib.suppress(OSError):  # already reset: the reader reports it
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._is_closing = True
        self.pause()
        if self._queue is None:
            self._lose(None)

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # closed already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        """Let go of the socket: closed by this side (None), or because of *error*."""
        if self._is_lost:
            return
        self._is_lost = True
        if self.interest:
            self._watch(0)
        self._queue = None
        self._unsent = 0
        self._error = error
        self._poller.turn.add(self, self._poller.loop)

    def end_of_turn(self) -> None:
        """Close the socket, and report the loss (called by `Turn`)."""
        self._socket.close()
        # Break the cycle of stream and link: no work for the garbage collector.
        stream, self._stream = self._stream, NO_STREAM
        error, self._error = self._error, None
        stream.lost(error)
