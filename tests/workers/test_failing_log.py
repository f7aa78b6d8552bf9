"""A supervisor works and ends although every call of its log handler fails."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from silly.workers import Supervisor
from tests.workers.harness import ECHO, script

pytestmark = pytest.mark.no_engine


class Odd(BaseException):
    """Not an `Exception`."""


class Broken(logging.Handler):
    calls = 0

    def handle(self, record: logging.LogRecord) -> bool:
        Broken.calls += 1
        raise Odd


@pytest.mark.heavy
async def test_workers_are_replaced_and_restarted_and_stop(tmp_path: Path) -> None:
    logger = logging.getLogger("silly.workers")
    handler = Broken()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        supervisor = Supervisor(str(script(tmp_path, ECHO)), [f"unix:{tmp_path}/x"], workers=2)
        run = asyncio.create_task(supervisor.run())

        async def ready(excluded: set[int]) -> set[int]:
            while True:
                workers = [slot.worker for slot in supervisor._fleet.slots]
                pids = {worker.process.pid for worker in workers if worker is not None}
                if len(pids) == 2 and not pids & excluded:
                    return pids
                await asyncio.sleep(0.01)

        first = await ready(set())
        killed = min(first)
        os.kill(killed, signal.SIGKILL)
        second = await ready({killed})
        supervisor.restart()
        await ready(second)
        supervisor.remove_worker()
        supervisor.remove_worker()  # the last one stays
        supervisor.stop()
        assert await run == 0
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert Broken.calls >= 6


@pytest.mark.heavy
async def test_it_gives_up_a_program_that_cannot_start(tmp_path: Path) -> None:
    logger = logging.getLogger("silly.workers")
    handler = Broken()
    logger.addHandler(handler)
    try:
        supervisor = Supervisor(str(script(tmp_path, "import sys\nsys.exit(7)\n")), give_up=1)
        assert await supervisor.run() == 7
    finally:
        logger.removeHandler(handler)
