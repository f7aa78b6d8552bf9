"""A worker: a process that runs a `Generator` and reports to its parent.

The parent sends a `Job`, then ``("start", clock)``, then perhaps ``("stop",)``; the end
of the pipe also means stop. The worker sends, in this order: ``("ready", errors)``;
perhaps ``("early", plain)``, the first quarter of a second of a longer interval; any
number of ``("interval", plain)``; and ``("done", summary)``. It may send
``("crash", traceback)`` at any time.

The clock is `time.perf_counter_ns`, which on Linux and macOS is the same in all
processes.
"""

from __future__ import annotations

import asyncio
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

__all__ = ["Job", "main"]


@dataclass(frozen=True, slots=True)
class Job:
    """A worker's share of a plan: part number *part*, from 0, of `Plan.workers`."""

    plan: Plan
    part: int


def main(descriptor: int) -> None:
    """Run a worker for the process at the other end of the socket *descriptor*."""
    pipe = Connection(descriptor)
    try:
        job: Job = pipe.recv()
        _allow_descriptors()
        asyncio.run(_work(job, pipe))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except BaseException:  # noqa: BLE001 - a bug; the parent reports it
        pipe.send(("crash", traceback.format_exc()))
    # Skip the slow teardown of the interpreter.
    pipe.close()
    sys.stderr.flush()
    os._exit(0)


def _allow_descriptors() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _work(job: Job, pipe: Connection) -> None:
    def report(interval: Interval) -> None:
        pipe.send(("interval", interval.to_dict()))

    recorder = Recorder(job.plan.interval, report, time.process_time)
    generator = Generator(job.plan, job.part, recorder)
    generator.on_early = lambda interval: pipe.send(("early", interval.to_dict()))
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def receive_order() -> None:
        try:
            order: tuple[Any, ...] = pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            order = ("stop",)
        if order[0] == "start":
            started.set_result(order[1])
        else:
            generator.stop("interrupted")
            opening.cancel()
            if not started.done():
                started.cancel()

    opening = asyncio.create_task(generator.open())
    asyncio.get_running_loop().add_reader(pipe.fileno(), receive_order)
    try:
        await opening
        pipe.send(("ready", [text for texts in recorder.first_errors.values() for text in texts]))
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
    pipe.send(
        (
            "done",
            {
                "why": generator.why,
                "end": generator.end,
                "scheduled": generator.scheduled,
                "first_errors": recorder.first_errors,
                "max_rss": usage.ru_maxrss * 1024,
            },
        )
    )
    asyncio.get_running_loop().remove_reader(pipe.fileno())
