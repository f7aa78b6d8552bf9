"""A supervisor asks its workers, and keeps the answers of those that have ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from silly.workers import Supervisor
from silly.workers.answers import (
    _obey,
    _providers,
    act,
    answer,
    answer_all,
    answer_later,
    obey,
    provide,
)
from silly.workers.questions import Questions
from tests.workers.harness import ECHO, script

pytestmark = pytest.mark.no_engine

PROVIDES = """
from silly.workers.answers import provide

provide("stats", lambda: {"accepted": listener.stats.accepted, "pid": os.getpid()})
provide("broken", lambda: 1 / 0)
"""


@pytest.fixture
def merging() -> Iterator[None]:
    def merge(so_far: Any, last: Any) -> Any:
        return {"accepted": (so_far or {"accepted": 0})["accepted"] + last["accepted"]}

    provide("stats", dict, merge=merge)
    yield
    del _providers["stats"]


async def answers(supervisor: Supervisor, count: int) -> list[Any]:
    """Return the answers once there are *count* of them."""
    while True:
        await asyncio.sleep(0.02)  # each question takes processor time from starting workers
        found = await supervisor.ask("stats")
        if len(found) == count:
            return found


async def supervised(path: Path) -> tuple[Supervisor, asyncio.Task[int]]:
    text = path.read_text()
    path.write_text(text + textwrap.dedent(PROVIDES))
    supervisor = Supervisor(str(path), workers=2)
    run = asyncio.create_task(supervisor.run())
    await asyncio.sleep(0)
    return supervisor, run


async def connect(path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"x\n")
    assert await reader.readline() == b"x\n"
    writer.close()
    await writer.wait_closed()


@pytest.mark.heavy
async def test_answers_of_ended_workers_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    text = ECHO.replace('"127.0.0.1:0"', repr(f"unix:{path}"))
    supervisor, run = await supervised(script(tmp_path, text))
    await answers(supervisor, 2)
    for _ in range(10):
        await connect(path)
    first = await answers(supervisor, 2)
    assert sum(each["accepted"] for each in first) == 10
    assert {each["pid"] for each in first} == set(supervisor.pids)
    assert await supervisor.ask("broken") == await supervisor.ask("unknown") == []

    hung = supervisor.pids[0]
    os.kill(hung, signal.SIGSTOP)
    for _ in range(3):  # its previous answer is used, and no question is kept
        assert await supervisor.ask("stats", timeout=0.01) == first
    assert not any(worker.pending_answers for worker in supervisor._fleet.workers)
    os.kill(hung, signal.SIGCONT)

    supervisor.restart()
    second = await answers(supervisor, 4)
    assert sum(each["accepted"] for each in second) == 10
    old = {each["pid"] for each in first}  # these may still be draining
    killed = next(pid for pid in supervisor.pids if pid not in old)
    os.kill(killed, signal.SIGKILL)  # its previous answer is used
    third = await answers(supervisor, 5)
    assert sum(each["accepted"] for each in third) == 10
    assert killed not in supervisor.pids
    supervisor.stop()
    assert await run == 0


@pytest.mark.heavy
async def test_answers_of_ended_workers_can_be_merged(tmp_path: Path, merging: None) -> None:
    path = tmp_path / "x.sock"
    text = ECHO.replace('"127.0.0.1:0"', repr(f"unix:{path}"))
    supervisor, run = await supervised(script(tmp_path, text))
    await answers(supervisor, 2)
    for _ in range(5):
        await connect(path)
    for _ in range(2):
        before = {each["pid"] for each in await supervisor.ask("stats") if "pid" in each}
        supervisor.restart()
        while before & set(supervisor.pids):
            await asyncio.sleep(0.02)
        found = await answers(supervisor, 3)
        assert found[2] == {"accepted": 5}
    supervisor.stop()
    assert await run == 0


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, SystemExit])
def test_last_answers_that_cannot_be_merged(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def merge(so_far: Any, last: Any) -> Any:
        if last == "bad":
            raise error
        return [*(so_far or []), last]

    def ended(answer: str) -> None:
        questions.worker_ended(Mock(answers={"stats": answer}))

    questions = Questions(Mock())
    provide("stats", dict, merge=merge)
    try:
        ended("first")
        if error is SystemExit:
            with pytest.raises(SystemExit):
                ended("bad")
        else:
            ended("bad")
            assert [record.exc_info is not None for record in caplog.records] == [True]
        ended("last")
    finally:
        del _providers["stats"]
    assert list(questions._last_answers["stats"]) == [["first", "last"]]


async def test_what_a_worker_is_told_to_do(caplog: pytest.LogCaptureFixture) -> None:
    async def does(command: str) -> str:
        if command == "bad":
            raise ValueError("no such command: bad")
        return command[{"first": 0}[command]]

    before = _obey[:]  # of another test's program
    _obey.clear()
    try:
        assert await act("first") == (None, "this worker takes no commands")
        obey(does)
        assert await act("first") == ("f", None)
        assert await act("bad") == (None, "no such command: bad")
        assert await act("other") == (None, "cannot do it (KeyError): see the log")
        assert [record.getMessage() for record in caplog.records] == ["cannot do 'other'"]
        obey(str.upper)
        assert await act("first") == ("FIRST", None)
    finally:
        _obey[:] = before


async def test_answers_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def later() -> int:
        return 1 // 0

    provide("broken", later, meanwhile=later)
    try:
        assert await answer_later("broken") == (False, None)
        provide("broken", lambda: 1 // 0)
        assert answer("broken") == (False, None)
        assert "broken" not in answer_all()
        provide("broken", sys.exit)
        with pytest.raises(SystemExit):
            answer("broken")
    finally:
        del _providers["broken"]
    assert {record.getMessage() for record in caplog.records} == {"cannot answer for 'broken'"}
