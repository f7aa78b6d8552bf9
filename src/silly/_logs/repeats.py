"""Repeated log lines: the first of a kind is logged, the others are counted.

Those that follow within `QUIET_PERIOD` seconds are summarized in one line. A timer runs
only for kinds that were logged lately; at most `MAX_KINDS` of them are distinguished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["MAX_KINDS", "OTHER", "QUIET_PERIOD", "Repeats"]

QUIET_PERIOD: Final = 5.0  # seconds between two lines of the same kind
MAX_KINDS: Final = 100
OTHER: Final = "other"  # stands for all further kinds


class Repeats:
    """Selects what is logged at once; calls *summarize* with how many others there were."""

    __slots__ = ("_loop", "_summarize", "_timers", "_unlogged")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, summarize: Callable[[str, int], None]
    ) -> None:
        self._loop = loop
        self._summarize = summarize
        self._unlogged: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of kinds logged lately

    def add(self, kind: str) -> bool:
        """Count one more; return whether to log it now."""
        if kind not in self._timers and len(self._timers) >= MAX_KINDS:
            kind = OTHER
        if kind in self._timers:
            self._unlogged[kind] = self._unlogged.get(kind, 0) + 1
            return False
        self._timers[kind] = self._loop.call_later(QUIET_PERIOD, self._report, kind)
        return True

    def _report(self, kind: str) -> None:
        del self._timers[kind]
        unlogged = self._unlogged.pop(kind, 0)
        if unlogged:
            self._timers[kind] = self._loop.call_later(QUIET_PERIOD, self._report, kind)
            self._summarize(kind, unlogged)

    def close(self) -> None:
        """Summarize what is not logged yet, and stop the timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        unlogged, self._unlogged = self._unlogged, {}
        for kind, count in unlogged.items():
            self._summarize(kind, count)

    def forget(self) -> None:
        """In a forked child: drop what is not logged yet, which the parent logs."""
        self._unlogged.clear()
        self._timers.clear()
