"""A bad network between a client and the answers to it: late, slow, lost.

- *delay*: each answer leaves so many seconds after it was made; answers that
  follow one another are late together, not one after the other.
- *max_rate*: bytes leave no faster than so many a second, in small pieces.
- *drop*: the share of answers that never leave. A stream has no holes, so the
  connection is closed instead, after the answers before it.

What waits on such a path is bounded (`ROOM`): then the server reads no further,
and the client's sending stops, as it would on a long thin wire.
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

ROOM: Final = 1 << 20  # bytes that wait for their time
_PIECE: Final = 0.01  # seconds' worth of bytes that leave at once
_EARLY: Final = 0.001  # seconds: timers are no finer
_CREDIT: Final = 0.05  # seconds that may be made up for: timers are late


class Dropped(Exception):  # noqa: N818 - named by what happened
    """The dice say that this answer is lost."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """How bad the network is."""

    delay: float = 0.0
    """Seconds."""
    drop: float = 0.0
    """The probability that an answer is lost."""
    max_rate: float | None = None
    """Bytes a second, of each connection."""

    def __bool__(self) -> bool:
        return bool(self.delay or self.drop or self.max_rate)

    def drops(self) -> bool:
        """Throw the dice for one answer."""
        return self.drop > 0 and random.random() < self.drop  # noqa: S311 - no secret


class Pace:
    """When the next bytes may leave, at *rate* bytes a second, from the time *now* on.

    Whoever waits wakes up late, by about as much as an answer of a few bytes takes. So
    up to `_CREDIT` seconds that were not used are made up for, and waits too short for
    a timer are left out: what is kept is the rate, not each pause.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._free = now  # when all that was taken has left
        self.piece = max(1, int(rate * _PIECE))
        """Bytes that may leave at once."""

    def wait(self, count: int, now: float) -> float:
        """Take *count* bytes at the time *now*; return the seconds until the next may follow."""
        self._free = max(self._free, now - _CREDIT) + count / self._rate
        ahead = self._free - now
        return ahead if ahead > _EARLY else 0.0

    def admits(self, count: int, now: float) -> bool:
        """Take *count* bytes, unless those before are more than `_CREDIT` seconds ahead.

        What was not used while a datagram of this size might have been taken is made up
        for, too: the next one comes when it likes, not when it may.
        """
        if self._free > now + _CREDIT:
            return False
        seconds = count / self._rate
        self._free = max(self._free, now - max(_CREDIT, seconds)) + seconds
        return True


class Path(Protocol):
    """The way of answers to the client."""

    def send(self, data: bytes) -> Awaitable[None]:
        """Send an answer; wait for room. Raises Dropped."""

    def put(self, data: bytes) -> Awaitable[None]:
        """Send what is no answer (a welcome): it is not lost."""

    async def finish(self) -> None:
        """Wait until everything has left."""

    async def stop(self) -> None:
        """Drop what has not left."""


class Direct:
    """The path of a good network: the connection itself."""

    __slots__ = ("put", "send")

    def __init__(self, conn: Conn) -> None:
        self.send: Callable[[bytes], Awaitable[None]] = conn.write
        self.put = self.send

    async def finish(self) -> None:
        """Return: a connection that is closed still sends what it has."""

    async def stop(self) -> None:
        """Return."""


class Impaired:
    """The path of a bad network; its task moves what is due."""

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
                self._task.exception()  # it is known: the connection is lost


def path(conn: Conn, impairment: Impairment) -> Path:
    """Return the way of answers to *conn*'s client."""
    return Impaired(conn, impairment) if impairment else Direct(conn)
