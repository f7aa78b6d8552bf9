"""The worker processes: starting them together, and collecting their reports.

Even a single worker is a process of its own, so that the display does not delay
replies. They are forked: importing everything once more would take longer than many a
run. The signals in `STOPPING`, which a terminal or timeout(1) sends to all
processes, are blocked in the workers: only the fleet stops them. If this process
dies, their pipes end, and they exit.
"""

from __future__ import annotations

import heapq
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import ForkProcess
from typing import Any, Final, Self

from silly.bench import worker
from silly.bench.plan import Plan
from silly.bench.recorder import AFTER, Interval

__all__ = ["STOPPING", "Fleet", "NotStarted", "WorkerDied"]

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a run early."""

_FORK: Final = multiprocessing.get_context("fork")
_TOGETHER: Final = 0.05  # seconds between the order to start and the start
_KILLED: Final = "a benchmark worker was killed"


class NotStarted(Exception):  # noqa: N818 - named by what happened
    """The workers could not connect to the server."""


class WorkerDied(Exception):  # noqa: N818
    """A worker crashed or was killed: a bug, or the machine is out of memory."""


class Fleet:
    """The workers of one run. Use it in ``with``, which ends them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.series: dict[int, Interval] = {}
        """The reported intervals by index; those of all workers are merged."""
        self.summaries: list[dict[str, Any]] = []
        self.early = Interval(0)
        """The first figures, before the first interval is complete."""
        self.has_early = False
        """Whether all workers have reported `early`."""
        self.started = 0
        """When the load started, on the clock `time.perf_counter_ns`."""
        self.ended = 0
        """When the last worker finished; 0 until then."""
        self._processes: list[ForkProcess] = []
        self._pipes: list[Connection] = []
        self._reported: dict[Connection, int] = {}
        self._connected: set[Connection] = set()
        self._finished: set[Connection] = set()
        self._waiting: list[int] = []  # a heap of the intervals that are not complete
        self._early_left = plan.workers
        self._stopped = False

    def __enter__(self) -> Self:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            for part in range(self.plan.workers):
                ours, theirs = Pipe()
                with theirs:
                    self._pipes.append(ours)
                    process = _FORK.Process(target=self._work, args=(part, theirs))
                    process.start()
                self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def _work(self, part: int, pipe: Connection) -> None:
        """In a worker: run part number *part* of the plan."""
        for inherited in self._pipes:
            inherited.close()
        worker.main(worker.Job(self.plan, part), pipe)

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=2)
            process.kill()
            process.join()

    # ---------------------------------------------------------------------- a run

    def connect(self, patience: float) -> bool:
        """Wait for *patience* seconds at most; return whether all workers are connected.

        Raises:
            NotStarted: they could not connect; the message says why.
            WorkerDied: a worker crashed or was killed.
        """
        waiting = [pipe for pipe in self._pipes if pipe not in self._connected]
        for ready in wait(waiting, patience):
            assert isinstance(ready, Connection)
            _, errors = self._receive(ready)
            if errors:
                raise NotStarted(errors[0])
            self._connected.add(ready)
        return len(self._connected) == len(self._pipes)

    def start(self) -> None:
        """Start the load in all workers at the same time. They must be connected."""
        self.started = time.perf_counter_ns() + round(_TOGETHER * 1e9)
        for pipe in self._pipes:
            self._send(pipe, ("start", self.started))

    def stop(self) -> None:
        """Ask the workers to stop; `gather` must still collect their reports."""
        if not self._stopped:
            self._stopped = True
            for pipe in self._pipes:
                self._send(pipe, ("stop",))

    def gather(self, patience: float, each: Callable[[Interval], None]) -> bool:
        """Collect reports for *patience* seconds at most; return whether all workers are done.

        *each* is called with each interval that all workers have reported.
        """
        waiting = [pipe for pipe in self._pipes if pipe not in self._finished]
        for ready in wait(waiting, patience):
            assert isinstance(ready, Connection)
            kind, content = self._receive(ready)
            if kind == "done":
                self.summaries.append(content)
                self._finished.add(ready)
                self._reported[ready] = AFTER + 1
            elif kind == "early":
                self.early.merge(Interval.from_dict(content))
                self._early_left -= 1
                self.has_early = self._early_left == 0
            else:
                interval = Interval.from_dict(content)
                if interval.index not in self.series:
                    self.series[interval.index] = Interval(interval.index)
                    heapq.heappush(self._waiting, interval.index)
                self.series[interval.index].merge(interval)
                self._reported[ready] = interval.index
        self._pass_on(each)
        if len(self._finished) < len(self._pipes):
            return False
        self.ended = self.ended or time.perf_counter_ns()
        return True

    def _pass_on(self, each: Callable[[Interval], None]) -> None:
        """Call *each* with the intervals that have become complete."""
        if len(self._reported) < len(self._pipes):
            return
        whole = min(self._reported.values())
        while self._waiting and self._waiting[0] < whole:
            each(self.series[heapq.heappop(self._waiting)])

    def _receive(self, pipe: Connection) -> tuple[str, Any]:
        try:
            kind, content = pipe.recv()
        except (EOFError, OSError):
            raise WorkerDied(_KILLED) from None
        if kind == "crash":
            raise WorkerDied(f"a benchmark worker crashed; please report this:\n{content}")
        return kind, content

    def _send(self, pipe: Connection, order: tuple[Any, ...]) -> None:
        try:
            pipe.send(order)
        except OSError:
            raise WorkerDied(_KILLED) from None


def summed(intervals: Iterable[Interval]) -> Interval:
    """Return the sum of *intervals*."""
    whole = Interval(0)
    for interval in intervals:
        whole.merge(interval)
    return whole
