"""Counts by reason, logged at a bounded rate.

At most `MAX_REASONS` are distinguished, because they may be unbounded (the types of
exceptions).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from silly._logs.repeats import OTHER, Repeats

__all__ = ["MAX_REASONS", "Tally", "count"]

MAX_REASONS: Final = 100


class Tally(Repeats):
    """Counts each reason; calls *summarize* with the number of those not logged one by one."""

    __slots__ = ("counts",)

    def __init__(
        self, loop: asyncio.AbstractEventLoop, summarize: Callable[[str, int], None]
    ) -> None:
        super().__init__(loop, summarize)
        self.counts: dict[str, int] = {}

    def add(self, reason: str) -> bool:
        """Count one occurrence; return whether to log it now."""
        return super().add(count(self.counts, reason))


def count(counts: dict[str, int], reason: str) -> str:
    """Count one occurrence of *reason*; return it, or `OTHER` if there are too many."""
    if reason not in counts and len(counts) >= MAX_REASONS:
        reason = OTHER
    counts[reason] = counts.get(reason, 0) + 1
    return reason
