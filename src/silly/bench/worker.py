"""A worker: a process that runs a `Generator` and reports to the one that started it.

Down the pipe come a job (`Job`), then ``("start", clock)``, then perhaps
``("stop",)``; the end of the pipe means the same. Up go, in this order:
``("ready", errors)``, ``("early", plain)`` perhaps (the first quarter of a second of an
interval that goes on), any number of ``("interval", plain)``, and ``("done", summary)``;
or ``("crash", traceback)`` at any time.

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
    """What a worker is to do: its part, of as many as the plan has workers."""

    plan: Plan
    part: int


def main(descriptor: int) -> None:
    """Work for the process at the other end of the socket *descriptor*."""
    pipe = Connection(descriptor)
    try:
        job: Job = pipe.recv()
        _allow_descriptors()
        asyncio.run(_work(job, pipe))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # whom should it tell?
    except BaseException:  # noqa: BLE001 - it is a defect, and told as one
        pipe.send(("crash", traceback.format_exc()))
    # Nothing is left to be done, and taking everything apart would take its time.
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

    def told() -> None:
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
    asyncio.get_running_loop().add_reader(pipe.fileno(), told)
    try:
        await opening
        pipe.send(("ready", [text for texts in recorder.first_errors.values() for text in texts]))
        # What is there now stays; collecting it again and again would stall replies.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        start = await started
    except asyncio.CancelledError:
        return
    await generator.run(start)
    recorder.send_off(time.perf_counter_ns())
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
