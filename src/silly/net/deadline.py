"""Deadlines for exchanges, set by handlers: ``with conn.deadline(10):``.

A limit on each read does not stop a peer that completes one small read after another
but never the whole exchange (a header line every few seconds; a frame's length and then
nothing). Only the handler knows what belongs to one exchange, so it marks that with a
block. The open deadlines of an event loop are swept together: each costs an entry in a
set, and no timer.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final, Protocol, Self

from silly._engine import stream_errors
from silly._loop.registry import PerLoop
from silly._values import arguments
from silly.net.sweep import CHECKS, Sweep

__all__ = ["Deadline"]


class _Conn(Protocol):
    @property
    def is_alive(self) -> bool: ...
    def _bytes_moved(self) -> int: ...
    def _end_for_limit(self, limit: str, error: OSError) -> None: ...


class Deadline:
    """The time limit of a ``with`` block, made by `Conn.deadline`."""

    __slots__ = ("_base", "_conn", "_open", "_rate", "_seconds", "_started")

    def __init__(self, conn: _Conn, seconds: float | None, rate: float | None) -> None:
        self._conn = conn
        self._seconds = arguments.positive_seconds(seconds, "seconds")
        self._rate = arguments.rate(rate, "rate")
        self._open: _OpenDeadlines | None = None
        self._started = 0.0
        self._base = 0

    def __enter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError(
                "this deadline has already begun: call conn.deadline() for each block"
            )
        if self._seconds is not None:
            loop = asyncio.get_running_loop()
            self._started = loop.time()
            self._base = self._conn._bytes_moved()
            self._open = _open_deadlines.of(loop)
            self._open.add(self, self._seconds)
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.discard(self)
            self._open = None

    @property
    def _ends(self) -> float:
        assert self._seconds is not None
        ends = self._started + self._seconds
        if self._rate is not None:
            ends += (self._conn._bytes_moved() - self._base) / self._rate
        return ends

    def _check(self, now: float) -> bool:
        """End the connection if the deadline has passed; return whether it has ended."""
        if self._conn.is_alive and now >= self._ends:
            assert self._seconds is not None
            self._conn._end_for_limit("deadline", stream_errors.deadline_passed(self._seconds))
        return not self._conn.is_alive


class _OpenDeadlines:
    """The deadlines of one event loop whose blocks are running."""

    __slots__ = ("_open", "_sweep")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._open: set[Deadline] = set()
        self._sweep = Sweep(loop, self._all, self._check)

    def add(self, deadline: Deadline, seconds: float) -> None:
        self._open.add(deadline)
        self._sweep.start(seconds / CHECKS)

    def discard(self, deadline: Deadline) -> None:
        self._open.discard(deadline)

    def _all(self) -> list[Deadline]:
        shortest = min((each._seconds or math.inf for each in self._open), default=math.inf)
        self._sweep.interval = shortest / CHECKS
        return list(self._open)

    def _check(self, deadline: Deadline, now: float) -> bool:
        if deadline not in self._open:
            return False  # its block ended meanwhile
        ended = deadline._check(now)
        if ended:
            self._open.discard(deadline)
        return ended


_open_deadlines: Final = PerLoop("deadlines", _OpenDeadlines)
