"""Deadlines of exchanges, set by handlers: ``with conn.deadline(10):``.

A limit on each read cannot end a peer that completes one small read after the other
and never what the handler is after (a header line every few seconds, a frame's length
and then nothing). How much belongs to one exchange only the handler knows; it says so
with a block. The open deadlines of an event loop are swept together: one costs an entry
in a set, and no timer.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Self

from silly import _arguments
from silly._engine import complaints
from silly.net.sweep import LOOKS, Sweep

if TYPE_CHECKING:
    from silly.net.conn import Conn

__all__ = ["Deadline"]


class Deadline:
    """What `Conn.deadline` returns: the time limit of its ``with`` block."""

    __slots__ = ("_base", "_conn", "_open", "_rate", "_seconds", "_started")

    def __init__(self, conn: Conn, seconds: float | None, rate: float | None) -> None:
        self._conn = conn
        self._seconds = _arguments.positive_seconds(seconds, "seconds")
        self._rate = _arguments.rate(rate, "rate")
        self._open: _OpenDeadlines | None = None
        self._started = 0.0
        self._base = 0

    def __enter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError("this deadline has begun already: call conn.deadline() for each")
        if self._seconds is not None:
            loop = asyncio.get_running_loop()
            self._started = loop.time()
            self._base = sum(self._conn._counts)
            self._open = _OpenDeadlines.of(loop)
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
            ends += (sum(self._conn._counts) - self._base) / self._rate
        return ends

    def _look(self, now: float) -> bool:
        """End the connection if the deadline has passed; tell whether it is at its end."""
        if self._conn.is_alive and now >= self._ends:
            assert self._seconds is not None
            self._conn._end_for("deadline", complaints.deadline_passed(self._seconds))
        return not self._conn.is_alive


class _OpenDeadlines:
    """Those of one event loop that have begun and not ended."""

    __slots__ = ("_open", "_sweep")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._open: set[Deadline] = set()
        self._sweep = Sweep(loop, self._all, self._look)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _OpenDeadlines:
        known: _OpenDeadlines | None = getattr(loop, "_silly_deadlines", None)
        if known is None:
            known = loop._silly_deadlines = cls(loop)  # type: ignore[attr-defined]
        return known

    def add(self, deadline: Deadline, seconds: float) -> None:
        self._open.add(deadline)
        self._sweep.start(seconds / LOOKS)

    def discard(self, deadline: Deadline) -> None:
        self._open.discard(deadline)

    def _all(self) -> list[Deadline]:
        shortest = min((each._seconds or math.inf for each in self._open), default=math.inf)
        self._sweep.interval = shortest / LOOKS
        return list(self._open)

    def _look(self, deadline: Deadline, now: float) -> bool:
        if deadline not in self._open:
            return False  # its block ended meanwhile
        ended = deadline._look(now)
        if ended:
            self._open.discard(deadline)
        return ended
