"""The memory budget of a listener: how many bytes its connections may hold together.

The engines report each change in the memory that a connection holds for its unread and
unsent bytes. When the total exceeds the budget, connections are reset until it is down
to `TARGET` of the budget: first those that move the fewest bytes for the memory they
hold (`_worth`). Ranking and resetting are done in batches, and the event loop runs
between them.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from silly._engine import engine, stream_errors
from silly.net.conn import StreamConn
from silly.net.limits import Limits

__all__ = ["MemoryBudget", "machine_memory", "memory_of"]

TARGET: Final = 0.8  # of the budget, to be reached by resetting connections
RETRY_DELAY: Final = 0.1  # seconds, when the target was not reached
RANK_BATCH: Final = 500  # connections
RESET_BATCH: Final = 20  # connections
_CGROUP_LIMITS: Final = (  # cgroups(7), version 2 and 1
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


if TYPE_CHECKING:
    from silly._engine.account import Account
else:
    Account = engine.Account


class MemoryBudget(Account):
    """Keeps the memory held by the connections that *conns* returns within *limit* bytes."""

    __slots__ = ("_conns", "_handle", "_loop")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int | None,
        conns: Callable[[], Sequence[StreamConn]],
    ) -> None:
        self._loop = loop
        self._conns = conns
        self._handle: asyncio.Handle | None = None
        self._begin(limit)

    def _exceeded(self) -> None:
        if self._handle is None and not self._loop.is_closed():
            self._handle = self._loop.call_soon(self._relieve)

    def close(self) -> None:
        """Stop resetting connections."""
        self.limit = None
        if self._handle is not None:
            self._handle.cancel()

    def _relieve(self) -> None:
        self._retry_later()
        self._rank([*self._conns()], [])

    def _rank(self, conns: list[StreamConn], ranked: list[tuple[float, int, StreamConn]]) -> None:
        """Rank the connections that hold anything, a batch at a time."""
        self._retry_later()
        now = time.time()
        for conn in conns[-RANK_BATCH:]:
            if conn._held_bytes:
                ranked.append((_worth(conn, now), len(ranked), conn))
        del conns[-RANK_BATCH:]
        if conns:
            self._schedule(self._loop.call_soon(self._rank, conns, ranked))
        else:
            ranked.sort(reverse=True)
            self._reset(ranked)

    def _reset(self, ranked: list[tuple[float, int, StreamConn]]) -> None:
        """Reset connections from the end of *ranked*, a batch at a time, down to the target."""
        self._retry_later()
        for _, _, conn in ranked[-1 : -RESET_BATCH - 1 : -1]:
            if self.limit is None or self.held <= self.limit * TARGET:
                return
            ranked.pop()
            conn._end_for_limit("memory_budget", stream_errors.over_budget(conn._held_bytes))
        if ranked:
            self._schedule(self._loop.call_soon(self._reset, ranked))

    def _retry_later(self) -> None:
        """Schedule a retry, which happens even if the rest of this step raises."""
        self._schedule(self._loop.call_later(RETRY_DELAY, self._retry))

    def _schedule(self, step: asyncio.Handle) -> None:
        """Make *step* the only one that is scheduled."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = step

    def _retry(self) -> None:
        self._handle = None
        self.change(0)


def _worth(conn: StreamConn, now: float) -> float:
    """Return the bytes/second that *conn* has moved per byte of memory that it holds."""
    bytes_in, bytes_out = conn._counts
    opened_at, _ = conn._times
    moved = bytes_in - conn.unread_bytes + bytes_out
    return (moved / (now - opened_at + 1.0) + 1.0) / conn._held_bytes


def memory_of(limits: Limits) -> int | None:
    """Return `Limits.memory_budget` in bytes."""
    budget = limits.memory_budget
    if isinstance(budget, str):
        return int(machine_memory() * float(budget.rstrip("%")) / 100)
    return budget


@functools.cache
def machine_memory() -> int:
    """Return the memory of this machine, or of this container if it has less, in bytes."""
    found = []
    if hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in _CGROUP_LIMITS:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            found.append(int(text))
    return min(found, default=1 << 30)
