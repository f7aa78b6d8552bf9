"""Counts by reason, logged at a bounded rate.

The first occurrence of a reason is logged at once; those that follow within
`QUIET_PERIOD` seconds are summarized in one line. A timer runs only for reasons that
were logged lately. At most `MAX_REASONS` are distinguished, because they may be
unbounded (the types of exceptions).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["MAX_REASONS", "OTHER", "QUIET_PERIOD", "Tally"]

QUIET_PERIOD: Final = 5.0  # seconds between two lines about the same reason
MAX_REASONS: Final = 100
OTHER: Final = "other"  # stands for all further reasons


class Tally:
    """Counts each reason; calls *summarize* with the number of those not logged one by one."""

    __slots__ = ("_loop", "_summarize", "_timers", "_unlogged", "counts")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, summarize: Callable[[str, int], None]
    ) -> None:
        self._loop = loop
        self._summarize = summarize
        self.counts: dict[str, int] = {}
        self._unlogged: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of reasons logged lately

    def add(self, reason: str) -> bool:
        """Count one occurrence; return whether to log it now."""
        if reason not in self.counts and len(self.counts) >= MAX_REASONS:
            reason = OTHER
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if reason in self._timers:
            self._unlogged[reason] = self._unlogged.get(reason, 0) + 1
            return False
        self._timers[reason] = self._loop.call_later(QUIET_PERIOD, self._report, reason)
        return True

    def _report(self, reason: str) -> None:
        del self._timers[reason]
        unlogged = self._unlogged.pop(reason, 0)
        if unlogged:
            self._timers[reason] = self._loop.call_later(QUIET_PERIOD, self._report, reason)
            self._summarize(reason, unlogged)

    def close(self) -> None:
        """Summarize what is not logged yet, and stop the timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        unlogged, self._unlogged = self._unlogged, {}
        for reason, count in unlogged.items():
            self._summarize(reason, count)
