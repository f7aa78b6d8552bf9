"""Lanes, and the worker around them, at moments that few runs meet."""

from __future__ import annotations

import asyncio
import os
from multiprocessing import Pipe
from unittest.mock import Mock

import pytest

from silly.bench import worker
from silly.bench.clock import NEVER, clock
from silly.bench.connector import Connector
from silly.bench.dispatcher import Dispatcher
from silly.bench.generator import Generator
from silly.bench.lanes import OpenLane
from silly.bench.plan import Plan
from silly.bench.recorder import Recorder
from silly.net import tcp


async def silent(conn: tcp.Conn) -> None:
    await conn.read(1000)


async def test_a_request_for_a_connection_that_has_just_timed_out_is_lost_with_it() -> None:
    async with tcp.listen("127.0.0.1:0", silent) as listener, asyncio.timeout(10):
        plan = Plan(listener.local_addr, rate=1.0, depth=3)
        recorder = Recorder(plan.interval, lambda _: None, lambda: 0.0)
        recorder.start(0, 0, 1 << 62)
        dispatcher = Dispatcher(plan, 0, recorder)
        lane = OpenLane(dispatcher, Connector(dispatcher, 0))
        assert await lane.connect()
        task = asyncio.create_task(lane.live())
        while lane not in dispatcher.free:
            await asyncio.sleep(0)
        lane.send_due(1, 1)
        lane.time_out()
        lane.finish()
        lane.send_due(1, 1)  # the lane's task has not yet run
        await task
        assert recorder.first_errors == {
            "timeout": [
                "connection 0: no reply within 5 s while request 0 was unanswered (and 1 more)"
            ]
        }


async def test_what_is_sent_first_is_measured() -> None:
    sent: list[int] = []
    recorder = Recorder(1.0, lambda _: None, lambda: 0.0)
    dispatcher = Dispatcher(Plan("127.0.0.1:1", rate=100.0), 0, recorder)
    start = clock() + 5_000_000
    recorder.start(start - 5_000_000, start, NEVER)
    dispatcher.begin(start, NEVER)
    dispatcher.free[Mock(send_due=lambda *_: sent.append(recorder.now.index))] = 1
    pacing = asyncio.create_task(dispatcher.pace())
    while not sent:
        await asyncio.sleep(0.001)
    assert sent == [0]
    dispatcher.stopping = True
    await pacing


def test_an_error_of_a_connection_is_not_taken_for_the_end_of_the_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(_: Generator, start: int) -> None:
        raise ConnectionResetError(f"started at {start}")

    def leave(code: int) -> None:
        assert code == 0

    monkeypatch.setattr(Generator, "run", run)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(worker, "_allow_descriptors", lambda: None)
    monkeypatch.setattr(worker, "gc", Mock())
    ours, theirs = Pipe()
    with ours:
        job = worker.Job(Plan("127.0.0.1:1", rate=1.0, mode="reconnect"), 0)
        ours.send(("start", 7))
        with theirs:
            worker.main(job, theirs)
        assert ours.recv() == ("ready", [])
        kind, text = ours.recv()
        assert kind == "crash"
        assert "ConnectionResetError: started at 7" in text
