"""A simulated bad network, which delays, slows down or loses the answers to a client.

- *delay*: each answer leaves this many seconds after it was made. Delays do not add
  up: answers that follow each other closely are also sent closely.
- *max_rate*: bytes leave at no more than this many per second, in small pieces.
- *drop*: the share of answers that are lost. A stream cannot have holes, so the
  connection is closed instead, after the earlier answers were sent.

The bytes that wait in a path are bounded (`ROOM`). When it is full, the server stops
reading and so the client has to stop sending, as on a slow network.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from silly.net.tcp import Conn

__all__ = ["Direct", "Dropped", "Impaired", "Impairment", "Pace", "Path", "path"]

ROOM: Final = 1 << 20  # bytes waiting to leave
_PIECE: Final = 0.01  # seconds' worth of bytes sent at once
_EARLY: Final = 0.001  # seconds; timers are no finer
_CREDIT: Final = 0.05  # seconds of unused time that may be caught up; timers are late


class Dropped(Exception):  # noqa: N818 - named by what happened
    """This answer is to be lost."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """How bad the network is."""

    delay: float = 0.0
    """Seconds."""
    drop: float = 0.0
    """The probability that an answer is lost."""
    max_rate: float | None = None
    """Bytes per second on each connection."""

    def __bool__(self) -> bool:
        return bool(self.delay or self.drop or self.max_rate)

    def drops(self) -> bool:
        """Return True if the next answer is to be lost, at random."""
        return self.drop > 0 and random.random() < self.drop  # noqa: S311 - no secret


class Pace:
    """Decides when the next bytes may leave, at *rate* bytes per second from the time *now* on.

    Timers wake up late, by about as long as a short answer takes. So up to `_CREDIT`
    seconds of unused time are caught up, and waits too short for a timer are skipped:
    the average rate is exact, single pauses are not.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._free = now  # when everything taken so far has left
        self.piece = max(1, int(rate * _PIECE))
        """Bytes to send at once."""

    def wait(self, count: int, now: float) -> float:
        """Take *count* bytes at the time *now*; return the seconds until the next may follow."""
        self._free = max(self._free, now - _CREDIT) + count / self._rate
        ahead = self._free - now
        return ahead if ahead > _EARLY else 0.0

    def admits(self, count: int, now: float) -> bool:
        """Take *count* bytes and return True, unless earlier ones are over `_CREDIT` s ahead.

        Unused time is caught up for as long as a datagram of this size takes, since
        datagrams arrive at any time, not just when the rate permits one.
        """
        if self._free > now + _CREDIT:
            return False
        seconds = count / self._rate
        self._free = max(self._free, now - max(_CREDIT, seconds)) + seconds
        return True


class Path(Protocol):
    """The path that answers take to the client."""

    def send(self, data: bytes) -> Awaitable[None]:
        """Send an answer; wait for room. Raises Dropped."""

    def put(self, data: bytes) -> Awaitable[None]:
        """Send something that is not an answer (a welcome), and so is never lost."""

    async def finish(self) -> None:
        """Wait until everything has left."""

    async def stop(self) -> None:
        """Discard what has not left."""


class Direct:
    """The path over a good network: the connection itself."""

    __slots__ = ("put", "send")

    def __init__(self, conn: Conn) -> None:
        self.send: Callable[[bytes], Awaitable[None]] = conn.write
        self.put = self.send

    async def finish(self) -> None:
        """Return at once: a closed connection still sends what was written."""

    async def stop(self) -> None:
        """Do nothing."""


class Impaired:
    """The path over a bad network; a task sends what is due."""

    def __init__(self, conn: Conn, impairment: Impairment) -> None:
        self._conn = conn
        self._impairment = impairment
        self._loop = loop = asyncio.get_running_loop()
        self._pace = Pace(impairment.max_rate, loop.time()) if impairment.max_rate else None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        """See `Path`."""
        if self._impairment.drops():
            raise Dropped
        await self.put(data)

    async def put(self, data: bytes) -> None:
        """See `Path`."""
        self._queue.append((self._loop.time() + self._impairment.delay, data))
        self._held += len(data)
        if self._task is None or self._task.done():
            self._raise_lost()
            self._task = self._loop.create_task(self._move())
        while self._held > ROOM:
            self._changed.clear()
            await self._changed.wait()
            self._raise_lost()

    def _raise_lost(self) -> None:
        if self._task is not None and self._task.done():
            self._task.result()

    async def _move(self) -> None:
        try:
            while self._queue:
                due, data = self._queue[0]
                if (wait := due - self._loop.time()) > 0:
                    await asyncio.sleep(wait)
                await self._let_out(data)
                self._queue.popleft()
                self._held -= len(data)
                self._changed.set()
        finally:
            self._changed.set()

    async def _let_out(self, data: bytes) -> None:
        if self._pace is None:
            await self._conn.write(data)
            return
        for at in range(0, len(data), self._pace.piece):
            piece = data[at : at + self._pace.piece]
            await self._conn.write(piece)
            if wait := self._pace.wait(len(piece), self._loop.time()):
                await asyncio.sleep(wait)

    async def finish(self) -> None:
        """See `Path`."""
        if self._task is not None:
            await self._task

    async def stop(self) -> None:
        """See `Path`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            if not self._task.cancelled():
                self._task.exception()  # retrieved, so that asyncio does not log it


def path(conn: Conn, impairment: Impairment) -> Path:
    """Return the path for answers to *conn*'s client."""
    return Impaired(conn, impairment) if impairment else Direct(conn)
