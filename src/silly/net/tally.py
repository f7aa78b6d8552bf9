"""Counts by reason, and a log of them that no flood can flood.

The first of a reason is logged at once; what follows within `QUIET` seconds is
one line with their number. A timer exists only while there is something to say.
Of reasons that are not known beforehand (the type of an exception), only so many
are told apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["OTHER", "QUIET", "REASONS", "Tally"]

QUIET: Final = 5.0  # seconds between two lines about the same reason
REASONS: Final = 100  # that are told apart
OTHER: Final = "other"  # stands for all reasons after those


class Tally:
    """How often each reason occurred; *summarize* is called for those not logged one by one."""

    __slots__ = ("_loop", "_summarize", "_timers", "_unsaid", "counts")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, summarize: Callable[[str, int], None]
    ) -> None:
        self._loop = loop
        self._summarize = summarize
        self.counts: dict[str, int] = {}
        self._unsaid: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of reasons that were logged lately

    def add(self, reason: str) -> bool:
        """Count one more; tell whether to log it now."""
        if reason not in self.counts and len(self.counts) >= REASONS:
            reason = OTHER
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if reason in self._timers:
            self._unsaid[reason] = self._unsaid.get(reason, 0) + 1
            return False
        self._timers[reason] = self._loop.call_later(QUIET, self._say, reason)
        return True

    def _say(self, reason: str) -> None:
        del self._timers[reason]
        unsaid = self._unsaid.pop(reason, 0)
        if unsaid:
            self._timers[reason] = self._loop.call_later(QUIET, self._say, reason)
            self._summarize(reason, unsaid)

    def close(self) -> None:
        """Say what is unsaid, and stop."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        unsaid, self._unsaid = self._unsaid, {}
        for reason, count in unsaid.items():
            self._summarize(reason, count)
