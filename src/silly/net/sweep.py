"""Looks at many things every so often, without a timer for any of them.

A listener's connections are swept for their deadlines (has one of them passed?): so
a connection costs no timer, and a message no more than it did. So are the deadlines
that handlers set (deadline.py). Many are swept in slices, between which the loop has
its turn; so it has after each that was ended, which costs far more (its handler is
woken, and fails). There is no timer while there is nothing to look at.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from silly._engine.interface import Deadlines
from silly.net.limits import Limits

__all__ = ["LOOKS", "MOST", "Sweep", "deadlines_of"]

T = TypeVar("T")

LOOKS: Final = 8  # at each, within the shortest deadline
MOST: Final = 30.0  # seconds between two sweeps
LOOKED_AT: Final = 100  # until the loop has its turn


class Sweep(Generic[T]):
    """Has *look* look at each of *items*, from `start` until there are none.

    Args:
        loop: whose time it is.
        items: returns a new list of what to look at now.
        look: called with one of them and the time; tells whether that ended it.
    """

    __slots__ = ("_handle", "_items", "_look", "_loop", "_sweeping", "interval")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        items: Callable[[], list[T]],
        look: Callable[[T, float], bool],
    ) -> None:
        self._loop = loop
        self._items = items
        self._look = look
        self._handle: asyncio.Handle | None = None
        self._sweeping = False
        self.interval = math.inf  # seconds; *items* may set it

    def start(self, interval: float) -> None:
        """Be told that there is something, to be looked at every *interval* seconds or more often.

        With an infinite interval it is not.
        """
        if interval < self.interval:
            self.interval = interval
            if not self._sweeping:
                self._wait()

    def stop(self) -> None:
        """Sweep no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._sweeping = False
        self.interval = math.inf

    def _wait(self) -> None:
        self._sweeping = False
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(min(self.interval, MOST), self._begin)

    def _begin(self) -> None:
        items = self._items()
        if items:
            self._sweeping = True
            self._go_on(items)
        else:
            self.stop()

    def _go_on(self, items: list[T]) -> None:
        now, look = self._loop.time(), self._look
        try:
            for _ in range(min(LOOKED_AT, len(items))):
                if look(items.pop(), now):
                    break
        finally:  # whatever one of them raises, the others have their deadlines
            if not self._sweeping:
                pass  # stopped meanwhile
            elif items:
                self._handle = self._loop.call_soon(self._go_on, items)
            else:
                self._handle = None
                self._wait()


def deadlines_of(limits: Limits) -> tuple[Deadlines, float]:
    """Return what connections look back for, and how often they are to, in seconds."""
    deadlines = (
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
    return deadlines, shortest / LOOKS
