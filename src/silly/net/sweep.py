"""Periodic checks of many items with one timer.

A listener checks its connections' deadlines this way, so a connection costs no timer
and a message no extra work; the deadlines that handlers set (deadline.py) are checked
likewise. Items are checked in batches, and the event loop runs between them. A batch
ends early when an item has been ended, because that costs far more (its handler is
woken and fails). While there are no items, there is no timer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from silly._engine.interface import Deadlines
from silly.net.limits import Limits

__all__ = ["CHECKS", "MAX_INTERVAL", "Sweep", "deadlines_of"]

T = TypeVar("T")

CHECKS: Final = 8  # within the shortest deadline
MAX_INTERVAL: Final = 30.0  # seconds between two sweeps
BATCH: Final = 100  # items


class Sweep(Generic[T]):
    """Calls *check* on each of *items*, periodically, from `start` until there are none.

    Args:
        loop: the event loop that runs the checks.
        items: returns a new list of the items to check.
        check: called with an item and the loop's time; returns whether it ended the item.
    """

    __slots__ = ("_check", "_handle", "_items", "_loop", "_sweeping", "interval")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        items: Callable[[], list[T]],
        check: Callable[[T, float], bool],
    ) -> None:
        self._loop = loop
        self._items = items
        self._check = check
        self._handle: asyncio.Handle | None = None
        self._sweeping = False
        self.interval = math.inf  # seconds; *items* may set it

    def start(self, interval: float) -> None:
        """Check the items at least every *interval* seconds; not at all if it is infinite.

        Call this for each new item.
        """
        if interval < self.interval:
            self.interval = interval
            if not self._sweeping:
                self._schedule()

    def stop(self) -> None:
        """Stop checking."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._sweeping = False
        self.interval = math.inf

    def _schedule(self) -> None:
        self._sweeping = False
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(min(self.interval, MAX_INTERVAL), self._begin)

    def _begin(self) -> None:
        items = self._items()
        if items:
            self._sweeping = True
            self._check_batch(items)
        else:
            self.stop()

    def _check_batch(self, items: list[T]) -> None:
        now, check = self._loop.time(), self._check
        try:
            for _ in range(min(BATCH, len(items))):
                if check(items.pop(), now):
                    break
        finally:  # an exception must not stop the sweep
            if not self._sweeping:
                pass  # stopped meanwhile
            elif items:
                self._handle = self._loop.call_soon(self._check_batch, items)
            else:
                self._handle = None
                self._schedule()


def deadlines_of(limits: Limits) -> tuple[Deadlines, float]:
    """Return the deadlines that connections check, and the interval of the checks in seconds."""
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
    return deadlines, shortest / CHECKS
