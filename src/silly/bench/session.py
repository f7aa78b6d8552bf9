"""One run from start to result: workers, what watches them, and the server's usage beside."""

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

_PATIENCE: Final = 0.1  # seconds between looks at whether it was interrupted, before the load


class Watcher(Protocol):
    """Who shows how a run goes."""

    period: float
    """Seconds between ticks; each takes a processor from the load for a moment."""

    def connecting(self) -> None:
        """The workers are being started, and connect."""

    def started(self, plan: Plan) -> None:
        """The load has started."""

    def interval(self, interval: Interval) -> None:
        """An interval is over, and this is what happened in it."""

    def early(self, interval: Interval) -> None:
        """The first interval goes on, and this is what happened so far."""

    def tick(self, seconds: float) -> None:
        """It is so many seconds since the start."""


def run(
    plan: Plan,
    watcher: Watcher,
    is_interrupted: Callable[[], bool],
    *,
    pid: int | None = None,
    claims: Sequence[Claim] = (),
) -> dict[str, Any] | None:
    """Run *plan* and return the result; None if it was interrupted before it had started.

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
                return  # it is gone: what it had used is known up to the last look

    with Fleet(plan) as fleet:
        watcher.connecting()
        while not fleet.connect(_PATIENCE):
            if is_interrupted():
                return None
        seen.clear()  # connecting is not of the load
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
