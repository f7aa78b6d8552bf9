"""How many bytes a listener's connections may hold together, and who goes when it is more.

The engines tell of each change of what a connection holds, unread and unsent, where it
is a connection's own memory. When all of it together is more than the budget, those
connections are reset that hold most for what they give (`_worth`), until what is held is
down to `RELIEF` of the budget. Ranking and ending are done in slices, between which the
loop has its turn.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from silly._engine import complaints
from silly.net.limits import Limits

if TYPE_CHECKING:
    from silly.net.conn import Conn

__all__ = ["MemoryBudget", "machine_memory", "memory_of"]

RELIEF: Final = 0.8  # of the budget
PAUSE: Final = 0.1  # seconds, when that could not be reached
RANKED: Final = 500  # connections, until the loop has its turn
ENDED: Final = 20  # likewise
_CGROUP_LIMITS: Final = (  # cgroups(7), version 2 and 1
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class MemoryBudget:
    """Counts what the connections that *conns* lists hold; keeps it within *limit* bytes."""

    __slots__ = ("_conns", "_handle", "_loop", "held", "limit")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int | None,
        conns: Callable[[], list[Conn]],
    ) -> None:
        self._loop = loop
        self._conns = conns
        self._handle: asyncio.Handle | None = None
        self.limit = limit
        self.held = 0

    def change(self, by: int) -> None:
        """Be told that a connection holds *by* bytes more (fewer, if negative)."""
        self.held += by
        if (
            self.limit is not None
            and self.held > self.limit
            and self._handle is None
            and not self._loop.is_closed()
        ):
            self._handle = self._loop.call_soon(self._relieve)

    def close(self) -> None:
        """End no more connections."""
        self.limit = None
        if self._handle is not None:
            self._handle.cancel()

    def _relieve(self) -> None:
        self._look_later()
        self._rank(self._conns(), [])

    def _rank(self, conns: list[Conn], ranked: list[tuple[float, int, Conn]]) -> None:
        """Find those that hold something, in slices."""
        self._look_later()
        now = time.time()
        for conn in conns[-RANKED:]:
            if conn._held:
                ranked.append((_worth(conn, now), len(ranked), conn))
        del conns[-RANKED:]
        if conns:
            self._plan(self._loop.call_soon(self._rank, conns, ranked))
        else:
            ranked.sort(reverse=True)
            self._end(ranked)

    def _end(self, ranked: list[tuple[float, int, Conn]]) -> None:
        """Reset the last of *ranked*, in slices, until there is relief."""
        self._look_later()
        for _, _, conn in ranked[-1 : -ENDED - 1 : -1]:
            if self.limit is None or self.held <= self.limit * RELIEF:
                return
            ranked.pop()
            conn._end_for("memory_budget", complaints.over_budget(conn._held))
        if ranked:
            self._plan(self._loop.call_soon(self._end, ranked))

    def _look_later(self) -> None:
        """Look again after a pause, even if the rest of this step raises."""
        self._plan(self._loop.call_later(PAUSE, self._look_again))

    def _plan(self, step: asyncio.Handle) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = step

    def _look_again(self) -> None:
        self._handle = None
        self.change(0)


def _worth(conn: Conn, now: float) -> float:
    """What *conn* gives for what it holds: bytes/second it has moved, for each byte held."""
    bytes_in, bytes_out = conn._counts
    opened_at, _ = conn._times
    moved = bytes_in - conn.unread_bytes + bytes_out
    return (moved / (now - opened_at + 1.0) + 1.0) / conn._held


def memory_of(limits: Limits) -> int | None:
    """Return `Limits.memory_budget` in bytes."""
    budget = limits.memory_budget
    if isinstance(budget, str):
        return int(machine_memory() * float(budget.rstrip("%")) / 100)
    return budget


@functools.cache
def machine_memory() -> int:
    """Return the memory of this machine, or of the container it is, in bytes."""
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
