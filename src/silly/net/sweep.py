"""Deadlines of all connections of a listener, without a timer for any of them.

Every so often the sweep asks each connection to look back: has one of its
deadlines passed? So a connection costs no timer, and a message no more than it
did. Many connections are swept in slices, between which the loop has its turn; so it
has after each that was ended, which costs far more (its handler is woken, and fails).
There is no timer while there are no connections, or no deadlines.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from silly._engine.interface import Deadlines
from silly.net.limits import Limits

__all__ = ["Sweep"]

LOOKS: Final = 8  # at a connection, within the shortest deadline
MOST: Final = 30.0  # seconds between two sweeps
LOOKED_AT: Final = 100  # connections, until the loop has its turn


class _Conn(Protocol):
    @property
    def _ended_by(self) -> str | None: ...
    def _look_back(self, now: float, deadlines: Deadlines) -> None: ...


class Sweep:
    """Looks back over the connections that *conns* lists, from `start` until there are none."""

    __slots__ = ("_conns", "_deadlines", "_handle", "_interval", "_loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, conns: Callable[[], list[Any]]
    ) -> None:
        self._loop = loop
        self._conns = conns
        self._handle: asyncio.Handle | None = None
        self._deadlines: Deadlines = (
            limits.first_byte_timeout or math.inf,
            limits.read_deadline or math.inf,
            limits.min_receive_rate or math.inf,
            limits.min_send_rate or 0.0,
            limits.send_window,
        )
        shortest = min(
            limits.idle_timeout or math.inf,
            limits.first_byte_timeout or math.inf,
            limits.read_deadline or math.inf,
            limits.send_window if limits.min_send_rate else math.inf,
        )
        self._interval = None if shortest == math.inf else min(shortest / LOOKS, MOST)

    def start(self) -> None:
        """Be told that there is a connection."""
        if self._handle is None and self._interval is not None:
            self._handle = self._loop.call_later(self._interval, self._begin)

    def stop(self) -> None:
        """Sweep no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _begin(self) -> None:
        conns = self._conns()
        if conns:
            self._go_on(conns)
        else:
            self._handle = None

    def _go_on(self, conns: list[_Conn]) -> None:
        now, deadlines = self._loop.time(), self._deadlines
        try:
            for _ in range(min(LOOKED_AT, len(conns))):
                conn = conns.pop()
                conn._look_back(now, deadlines)
                if conn._ended_by is not None:
                    break
        finally:  # whatever one of them raises, the others have their deadlines
            if conns:
                self._handle = self._loop.call_soon(self._go_on, conns)
            else:
                self._handle = None
                self.start()
