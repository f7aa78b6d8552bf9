"""Running the workers: starting them together, and gathering what they report.

The load is made in processes of its own, even if it is one, so that what the
terminal shows costs the replies no time. They ignore the signals of `STOPPING`, which
a terminal or timeout(1) sends to them, too (they are blocked when the workers are
started, and stay so): stopping them is the fleet's. If this process dies, their
pipes end, and so do they.
"""

from __future__ import annotations

import heapq
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Self

from silly.bench.plan import Plan
from silly.bench.recorder import AFTER, Interval
from silly.bench.worker import Job

__all__ = ["STOPPING", "Fleet", "NotStarted", "WorkerDied"]

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a run early."""

_START: Final = (
    "import sys; sys.path[:] = {path!r}\nfrom silly.bench.worker import main\nmain({descriptor})"
)
_TOGETHER: Final = 0.05  # seconds between the order to start and the start
_KILLED: Final = "a benchmark worker was killed"


class NotStarted(Exception):  # noqa: N818 - named by what happened
    """The connections that a run starts with could not be made."""


class WorkerDied(Exception):  # noqa: N818
    """A worker crashed or was killed: a defect, or the machine's memory."""


class Fleet:
    """The workers of one run. Use it in ``with``, which ends them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.series: dict[int, Interval] = {}
        """What was reported, by the interval; the workers' intervals are merged."""
        self.summaries: list[dict[str, Any]] = []
        self.early = Interval(0)
        """The first figures, before the first interval is whole."""
        self.has_early = False
        """Whether all workers have reported them."""
        self.started = 0
        """When the load started, on the clock `time.perf_counter_ns`."""
        self.ended = 0
        """When the last worker had finished; 0 before."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []
        self._reported: dict[Connection, int] = {}
        self._connected: set[Connection] = set()
        self._finished: set[Connection] = set()
        self._waiting: list[int] = []  # the intervals that are not whole, a heap
        self._early_left = plan.workers
        self._stopped = False

    def __enter__(self) -> Self:
        path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            for part in range(self.plan.workers):
                ours, theirs = socket.socketpair()
                with theirs:
                    code = _START.format(path=path, descriptor=theirs.fileno())
                    process = subprocess.Popen(  # noqa: S603 - our own interpreter
                        [sys.executable, "-c", code],
                        stdin=subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(),),
                    )
                pipe = Connection(ours.detach())
                self._processes.append(process)
                self._pipes.append(pipe)
                pipe.send(Job(self.plan, part))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # ---------------------------------------------------------------------- a run

    def connect(self, patience: float) -> bool:
        """Wait for *patience* seconds at most; tell whether all workers are connected.

        Raises:
            NotStarted: they could not connect; the message says why.
            WorkerDied: one of them did.
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
        """Start the load in all workers at the same time. They are connected."""
        self.started = time.perf_counter_ns() + round(_TOGETHER * 1e9)
        for pipe in self._pipes:
            self._send(pipe, ("start", self.started))

    def stop(self) -> None:
        """Have the workers stop soon; their reports are still to be gathered."""
        if not self._stopped:
            self._stopped = True
            for pipe in self._pipes:
                self._send(pipe, ("stop",))

    def gather(self, patience: float, each: Callable[[Interval], None]) -> bool:
        """Take what is reported within *patience* seconds; tell whether all is reported.

        *each* is called with each interval that all workers have reported.
        """
        waiting = [pipe for pipe in self._pipes if pipe not in self._finished]
        for ready in wait(waiting, patience):
            assert isinstance(ready, Connection)
            kind, told = self._receive(ready)
            if kind == "done":
                self.summaries.append(told)
                self._finished.add(ready)
                self._reported[ready] = AFTER + 1
            elif kind == "early":
                self.early.merge(Interval.from_dict(told))
                self._early_left -= 1
                self.has_early = self._early_left == 0
            else:
                interval = Interval.from_dict(told)
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
        """Call *each* with the intervals that are whole now and were not before."""
        if len(self._reported) < len(self._pipes):
            return
        whole = min(self._reported.values())
        while self._waiting and self._waiting[0] < whole:
            each(self.series[heapq.heappop(self._waiting)])

    def _receive(self, pipe: Connection) -> tuple[str, Any]:
        try:
            kind, told = pipe.recv()
        except (EOFError, OSError):
            raise WorkerDied(_KILLED) from None
        if kind == "crash":
            raise WorkerDied(f"a benchmark worker crashed; please report this:\n{told}")
        return kind, told

    def _send(self, pipe: Connection, order: tuple[Any, ...]) -> None:
        try:
            pipe.send(order)
        except OSError:
            raise WorkerDied(_KILLED) from None


def summed(intervals: Iterable[Interval]) -> Interval:
    """Return all *intervals* as one."""
    whole = Interval(0)
    for interval in intervals:
        whole.merge(interval)
    return whole
