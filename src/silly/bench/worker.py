"""A worker: a process that runs a `Generator` and reports to its parent.

The parent sends ``("start", clock)``, then perhaps ``("stop",)``; the end of the pipe also
means stop. The worker sends, in this order: ``("ready", errors)``;
perhaps ``("early", plain)``, the first quarter of a second of a longer interval; any
number of ``("interval", plain)``; and ``("done", summary)``. It may send
``("crash", traceback)`` at any time.

The clock is `time.perf_counter_ns`, which on Linux and macOS is the same in all
processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from silly.bench.generator import Generator
from silly.bench.plan import Plan
from silly.bench.recorder import Interval, Recorder
from silly.runtime import loop_factory

__all__ = ["Job", "main"]


@dataclass(frozen=True, slots=True)
class Job:
    """A worker's share of a plan: part number *part*, from 0, of `Plan.workers`."""

    plan: Plan
    part: int


class _ParentGone(Exception):  # noqa: N818 - named by what happened
    """The pipe to the parent has ended."""


class _Parent:
    """The process at the other end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def fileno(self) -> int:
        """Return the pipe's descriptor, which is readable when `receive` returns at once."""
        return self._pipe.fileno()

    def receive(self) -> Any:
        """Return what the parent sends next. Raises _ParentGone."""
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            raise _ParentGone from None

    def send(self, kind: str, content: object) -> None:
        """Send a report. Raises _ParentGone."""
        try:
            self._pipe.send((kind, content))
        except OSError:
            raise _ParentGone from None

    def close(self) -> None:
        """Close the pipe."""
        self._pipe.close()


def main(job: Job, pipe: Connection) -> None:
    """Do *job* for the process at the other end of *pipe*, and exit."""
    parent = _Parent(pipe)
    with contextlib.suppress(_ParentGone):
        try:
            _allow_descriptors()
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(_work(job, parent))
        except _ParentGone:
            raise
        except BaseException:  # noqa: BLE001 - a bug; the parent reports it
            parent.send("crash", traceback.format_exc())
    # Skip the slow teardown of the interpreter.
    parent.close()
    sys.stderr.flush()
    os._exit(0)


def _allow_descriptors() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _work(job: Job, parent: _Parent) -> None:
    def report(interval: Interval) -> None:
        parent.send("interval", interval.to_dict())

    recorder = Recorder(job.plan.interval, report, time.process_time)
    generator = Generator(job.plan, job.part, recorder)
    generator.on_early = lambda interval: parent.send("early", interval.to_dict())
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def receive_order() -> None:
        try:
            order: tuple[Any, ...] = parent.receive()
        except _ParentGone:
            asyncio.get_running_loop().remove_reader(parent.fileno())
            order = ("stop",)
        if order[0] == "start":
            started.set_result(order[1])
        else:
            generator.stop("interrupted")
            opening.cancel()
            if not started.done():
                started.cancel()

    opening = asyncio.create_task(generator.open())
    asyncio.get_running_loop().add_reader(parent.fileno(), receive_order)
    try:
        await opening
        parent.send("ready", [text for texts in recorder.first_errors.values() for text in texts])
        # These objects stay alive; collecting them again and again would delay replies.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        start = await started
    except asyncio.CancelledError:
        return
    await generator.run(start)
    recorder.report(time.perf_counter_ns())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    parent.send(
        "done",
        {
            "why": generator.why,
            "end": generator.end,
            "scheduled": generator.scheduled,
            "first_errors": recorder.first_errors,
            "negotiated": recorder.negotiated,
            "statuses": recorder.statuses,
            "repeated": recorder.repeated,
            "max_rss": usage.ru_maxrss * 1024,
        },
    )
    asyncio.get_running_loop().remove_reader(parent.fileno())
