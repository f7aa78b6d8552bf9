"""One run from start to result: runs the workers, and samples the server's usage."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from silly.bench import result
from silly.bench.asserts import Claim
from silly.bench.fleet import Fleet
from silly.bench.plan import Plan
from silly.bench.process import Usage, usage
from silly.bench.recorder import Interval

__all__ = ["Watcher", "run"]

_PATIENCE: Final = 0.1  # seconds between checks for an interruption while connecting


class Watcher(Protocol):
    """Shows the progress of a run."""

    period: float
    """Seconds between ticks; each tick takes processor time from the load."""

    def connecting(self) -> None:
        """The workers are starting and connecting."""

    def started(self, plan: Plan) -> None:
        """The load has started."""

    def interval(self, interval: Interval) -> None:
        """An interval has ended."""

    def early(self, interval: Interval) -> None:
        """The first interval is still running; these are its figures so far."""

    def tick(self, seconds: float) -> None:
        """The load started *seconds* ago."""


def run(
    plan: Plan,
    watcher: Watcher,
    is_interrupted: Callable[[], bool],
    *,
    pid: int | None = None,
    claims: Sequence[Claim] = (),
) -> dict[str, Any] | None:
    """Run *plan* and return the result; None if it was interrupted while connecting.

    Raises:
        NotStarted, WorkerDied: see `silly.bench.fleet`.
        OSError: there is no process *pid*.
    """
    seen: list[Usage] = [usage(pid)] if pid is not None else []
    began = dt.datetime.now(dt.UTC)

    def interval_over(interval: Interval) -> None:
        if interval.index < 0:
            seen.clear()  # the warm-up is left out of the server's figures, too
        look()
        watcher.interval(interval)

    def look() -> None:
        if pid is not None:
            try:
                seen.append(usage(pid))
            except OSError:
                return  # the process is gone; its earlier usage is known

    with Fleet(plan) as fleet:
        watcher.connecting()
        while not fleet.connect(_PATIENCE):
            if is_interrupted():
                return None
        seen.clear()  # connecting is not part of the load
        look()
        fleet.start()
        watcher.started(plan)
        while not fleet.gather(watcher.period, interval_over):
            if is_interrupted():
                fleet.stop()
            if fleet.has_early:
                watcher.early(fleet.early)
            watcher.tick((time.perf_counter_ns() - fleet.started) / 1e9)
        look()
        return result.build(
            plan,
            fleet,
            began=began,
            interrupted=is_interrupted(),
            server=seen,
            pid=pid,
            claims=claims,
        )
