"""The clock of a run: `time.perf_counter_ns`, the same for all processes of a machine."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns as clock
from typing import Final

__all__ = ["NEVER", "clock", "sleep_until"]

NEVER: Final = 1 << 62
"""A time that does not come, in nanoseconds."""


async def sleep_until(when: int) -> None:
    """Sleep until the clock shows *when*, and never wake early, as timers may."""
    while (left := when - clock()) > 0:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(left / 1e9)
