"""The supervisor as an object, in the process of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from silly.workers import Supervisor, lending, restarts
from silly.workers.channel import Open, Refused
from silly.workers.process import Worker
from tests.workers.harness import script

pytestmark = pytest.mark.no_engine

DEADLINE = 60.0


@contextlib.asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[asyncio.Task[int]]:
    """Run *supervisor*; its first worker is ready."""
    run = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(DEADLINE):
        await ready(supervisor)
        yield run
        if not run.done():
            supervisor.stop(0)
            await run


async def ready(supervisor: Supervisor, after: int = 0) -> Worker:
    """Wait until a worker is ready that is not the process *after*; return it."""
    while True:
        for worker in supervisor._fleet.workers:
            is_ready = worker.became_ready.done() and worker.became_ready.result()
            if is_ready and worker.process.pid != after:
                return worker
        await asyncio.sleep(0.01)


async def test_a_cancelled_supervisor_leaves_its_workers_and_starts_no_others(
    tmp_path: Path,
) -> None:
    supervisor = Supervisor(str(script(tmp_path)), workers=1)
    async with running(supervisor) as run:
        (worker,) = supervisor._fleet.workers
        supervisor.restart()
        while len(supervisor._fleet.workers) < 2:
            await asyncio.sleep(0)
        started = supervisor._fleet.workers
        worker.process.send_signal(signal.SIGSTOP)  # it cannot drain
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        for each in started:
            each.process.kill()
        while supervisor._fleet.workers:
            await asyncio.sleep(0.01)
    assert supervisor._fleet.starts == 2
    assert all(slot.retry_timer is None for slot in supervisor._fleet.slots)


async def test_a_replacement_that_is_not_ready_in_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restarts, "_START_TIMEOUT", 0.0)
    supervisor = Supervisor(str(script(tmp_path)), workers=1)
    async with running(supervisor) as run:
        (old,) = supervisor._fleet.workers
        supervisor.restart()
        while supervisor._fleet.workers != [old] or supervisor._fleet.starts < 2:
            await asyncio.sleep(0.01)
        assert "was not ready after 0 s: it does not listen on 127.0.0.1:0" in caplog.text
        assert "the restart was abandoned; the other workers keep running" in caplog.text
        assert old.process.poll() is None
        supervisor.stop()
        assert await run == 0


ENDS_WITH_3 = """
import asyncio, sys
from silly.net import tcp
listener = tcp.listen("127.0.0.1:0", print)
try:
    await asyncio.sleep(1000)
except asyncio.CancelledError:
    sys.exit(3)
"""


async def test_nothing_is_started_or_removed_while_it_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(str(script(tmp_path, ENDS_WITH_3)), workers=1)
    async with running(supervisor) as run:
        supervisor.stop()
        supervisor.reload()
        supervisor.restart()
        supervisor.remove_worker()
        assert await run == 0
    assert supervisor._fleet.starts == 1
    assert "ended with exit code 3 while stopping" in caplog.text


async def test_a_worker_that_served_for_long_is_replaced_at_once(tmp_path: Path) -> None:
    supervisor = Supervisor(str(script(tmp_path)), workers=1)
    supervisor._settled = 0.0
    async with running(supervisor):
        (slot,) = supervisor._fleet.slots
        slot.failures = 5  # of earlier ones: another failure would be a longer back-off
        (worker,) = slot.workers
        worker.process.kill()
        await ready(supervisor, worker.process.pid)
        assert slot.failures == 0


async def test_a_worker_that_does_not_even_abort_is_killed(tmp_path: Path) -> None:
    supervisor = Supervisor(str(script(tmp_path)), workers=1, watchdog=0.4)
    async with running(supervisor):
        (worker,) = supervisor._fleet.workers
        os.kill(worker.process.pid, signal.SIGSTOP)
        await ready(supervisor, worker.process.pid)
        assert worker.process.returncode == -signal.SIGKILL


async def test_names_that_take_too_long_to_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "_RESOLVE_TIMEOUT", 0.0)
    lender = lending.Lender(Mock())

    async def resolve(*_: object) -> None:
        await asyncio.sleep(600)

    monkeypatch.setattr(lender._sockets, "resolve", resolve)
    worker = Mock()
    await lender.open(worker, Open("host.example:80", 0, 100, reuse_port=False, mode=None))
    worker.channel.send.assert_called_once_with(
        Refused(socket.EAI_AGAIN, "No name server answered", "host.example:80", unresolved=True)
    )
