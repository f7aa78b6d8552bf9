"""Two connections joined in memory: no socket, no port, nothing to clean up."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any, Final

from silly._engine.interface import LINGER, MAX_UNSENT, READ_LIMIT
from silly._engine.portable.link import LinkEvents
from silly._engine.portable.stream import Stream
from silly.net.conn import Conn, StreamConn

__all__ = ["memory_pair"]

_HIGH_WATER: Final = 64 * 1024
_WINDOW: Final = 64 * 1024


class MemoryConn(Stream, StreamConn):
    """A connection over a link in memory; built on the portable engine's stream."""

    __slots__ = ()


class _Owner:
    """Nobody needs to know when such a connection is closed."""

    host: str | None = None
    count_handshake = None

    def conn_closed(self, conn: MemoryConn) -> None: ...
    def on_draining(self, conn: MemoryConn, callback: Callable[[], object] | None) -> None: ...


_OWNER: Final = _Owner()


class _MemoryLink:
    """One end. Bytes wait in our `_queue`, then in the peer's `_arrived` (its "kernel buffer")."""

    def __init__(self, loop: asyncio.AbstractEventLoop, window: int, name: int) -> None:
        self._loop = loop
        self.clock = loop.time
        self._window = window
        self.local_sockaddr: Any = ("memory", name)
        self.remote_sockaddr: Any = ("memory", 3 - name)
        self.remote_ip = b""
        self.other: _MemoryLink
        self.upward: LinkEvents
        self._queue = bytearray()  # sent, but outside the window
        self._arrived = bytearray()  # from the other end, not delivered yet
        self._high_water = _HIGH_WATER
        self._paused = False
        self._full = False
        self._call_when_empty = False
        self._finishing = False  # finish() was called
        self._finished = False  # ... and the queue is empty
        self._end_reported = False
        self._closing = False
        self._gone = False
        self._scheduled = False

    def attach(self, upward: LinkEvents) -> None:
        self.upward = upward

    def receive_at_most(self, size: int) -> None:
        pass  # the window limits the size of a piece

    def send(self, data: bytes) -> None:
        self._queue += data
        self._move()
        if len(self._queue) > self._high_water and not self._full:
            self._full = True
            self.upward.full()

    def unsent(self) -> int:
        return len(self._queue)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._schedule()

    def finish(self) -> None:
        self._finishing = True
        self._move()

    def set_high_water(self, size: int) -> None:
        self._high_water = size

    def call_when_empty(self) -> None:
        self._call_when_empty = True

    def has_unread(self) -> bool:
        return bool(self._arrived)

    def in_flight(self) -> int:
        return 0

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self._closing = True
        self._arrived.clear()
        self.finish()
        self.other._schedule()
        self._schedule()

    def abort(self) -> None:
        self._queue.clear()
        if not self._gone:
            self._report_lost(None)
            if not (self.other._closing and not self.other._queue):
                self.other._reset()

    def _reset(self) -> None:
        self._queue.clear()
        self._arrived.clear()
        self._report_lost(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def _report_lost(self, error: OSError | None) -> None:
        if not self._gone:
            self._gone = True
            self._loop.call_soon(self.upward.lost, error)

    def _move(self) -> None:
        """Move as many bytes to the other end as its window has room for."""
        other = self.other
        if self._queue and not other._gone:
            room = self._window - len(other._arrived)
            if room > 0:
                other._arrived += self._queue[:room]
                del self._queue[:room]
        if other._closing and self._queue:
            self._loop.call_soon(self._reset)  # the peer will never read the queue
        if self._finishing and not self._queue:
            self._finished = True
        other._schedule()

    def _schedule(self) -> None:
        if not (self._scheduled or self._gone):
            self._scheduled = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        """Deliver arrived bytes and the end of stream; finish closing."""
        self._scheduled = False
        if self._gone:
            return
        if self._closing:
            self._arrived.clear()
            if not self._queue:
                self._report_lost(None)
        elif self._arrived and not self._paused:
            piece = bytes(self._arrived)
            self._arrived.clear()
            self.other._continue_sending()
            self.upward.received(piece)
        if (
            self.other._finished
            and not (self._arrived or self._end_reported or self._closing or self._gone)
        ):  # fmt: skip
            self._end_reported = True
            self.upward.ended()

    def _continue_sending(self) -> None:
        """Continue sending: the other end has emptied its buffer."""
        if self._gone:
            return
        self._move()
        if (self._call_when_empty and not self._queue) or (
            self._full and len(self._queue) <= self._high_water // 4 and not self._call_when_empty
        ):
            self._full = self._call_when_empty = False
            self._loop.call_soon(self._report_room)
        if self._closing:
            self._schedule()

    def _report_room(self) -> None:
        if not self._gone:
            self.upward.has_room()


def memory_pair(
    *,
    window: int = _WINDOW,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    linger: float = LINGER,
    idle_timeout: float | None = None,
) -> tuple[Conn, Conn]:
    """Return two connections joined in memory; what one writes, the other reads.

    They behave like the two ends of a TCP connection, with flow control,
    half-close and reset. Their addresses are ``"memory:1"`` and ``"memory:2"``.
    With the virtual clock, a test of timeouts takes no real time.

    Args:
        window: bytes that can be in transit before the writer's queue grows; it
            stands for the operating system's socket buffers.
        read_limit: bytes; see `Conn.read_limit`.
        max_unsent: bytes; see `Conn.max_unsent`.
        linger: seconds; see `Conn.linger`.
        idle_timeout: seconds, or None; see `Conn.idle_timeout`.

    Raises:
        RuntimeError: no event loop is running.
    """
    loop = asyncio.get_running_loop()
    first, second = _MemoryLink(loop, window, 1), _MemoryLink(loop, window, 2)
    first.other, second.other = second, first
    conns = []
    for link in (first, second):
        conn = MemoryConn(
            link,
            loop,
            _OWNER,
            read_limit=read_limit,
            max_unsent=max_unsent,
            linger=linger,
            idle_timeout=idle_timeout,
        )
        conns.append(conn)
    return conns[0], conns[1]
