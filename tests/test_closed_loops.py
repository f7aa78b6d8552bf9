"""Closing an event loop closes what the program left open, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from silly import admin, task, time
from silly._loop import signals
from silly.net import tcp
from silly.testing import run_virtual
from tests.conftest import open_descriptors

Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def echo(conn: tcp.Conn) -> None:
    async for line in conn:
        await conn.write(line)


def run_uvloop(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def run_by_hand(main: Coroutine[Any, Any, Any]) -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()  # without cancelling its tasks


def run_in_a_thread(main: Coroutine[Any, Any, Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(main)))
    thread.start()
    thread.join()
    return results[0]


RUNS = [asyncio.run, run_uvloop, run_by_hand, run_in_a_thread, run_virtual]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    gc.enable()


async def leave_all(addr: str, path: Path) -> str:
    """Leave listeners, connections, timers and tasks open; return an address."""
    listener = tcp.listen(addr, echo)
    conn = await tcp.connect(listener.local_addr)
    await conn.write(b"x\n")
    assert await conn.read(b"\n") == b"x\n"
    tcp.listen(f"unix:{path}/own", echo)
    await tcp.connect(f"unix:{path}/own")
    admin.serve(f"unix:{path}/admin")
    await tcp.connect(f"unix:{path}/admin")
    draining = tcp.listen("127.0.0.1:0", echo)
    await tcp.connect(draining.local_addr)
    await asyncio.sleep(0.001)
    draining.close(600)
    time.after(600, print)
    task.fork(asyncio.sleep, 600)
    return listener.local_addr


@pytest.mark.parametrize("run", RUNS)
def test_ports_paths_and_descriptors_are_free(run: Run, tmp_path: Path) -> None:
    addr = run(leave_all("127.0.0.1:0", tmp_path))
    before = open_descriptors()
    assert list(tmp_path.iterdir()) == []
    for _ in range(3):
        assert run(leave_all(addr, tmp_path)) == addr
    assert open_descriptors() == before


@pytest.mark.parametrize("run", RUNS)
def test_they_are_free_after_an_exception(run: Run, tmp_path: Path) -> None:
    addrs: list[str] = []

    async def fail() -> None:
        addrs.append(await leave_all(addrs[0] if addrs else "127.0.0.1:0", tmp_path))
        raise SystemExit if len(addrs) > 1 else ZeroDivisionError

    for error in (ZeroDivisionError, SystemExit):
        if run is not run_in_a_thread:
            with pytest.raises(error):
                run(fail())
    assert len(set(addrs)) <= 1
    assert list(tmp_path.iterdir()) == []


def test_listeners_are_closed(tmp_path: Path) -> None:
    listeners: list[tcp.Listener] = []

    async def main() -> None:
        listeners.append(tcp.listen("127.0.0.1:0", echo))

    asyncio.run(main())
    assert listeners[0].state == "closed"
    assert listeners[0].connections == 0


def test_a_running_loop_cannot_be_closed_and_keeps_its_connections() -> None:
    async def main() -> None:
        async with tcp.listen("127.0.0.1:0", echo) as listener:
            with pytest.raises(RuntimeError, match="running event loop"):
                asyncio.get_running_loop().close()
            async with await tcp.connect(listener.local_addr) as conn:
                await conn.write(b"x\n")
                assert await conn.read(b"\n") == b"x\n"

    asyncio.run(main())


def test_a_loop_that_cannot_run_any_more_is_closed() -> None:
    loop = asyncio.new_event_loop()
    reported: list[str] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))

    async def main() -> tcp.Listener:
        listener = tcp.listen("127.0.0.1:0", echo)
        with pytest.raises(RuntimeError, match="running"):
            loop.close()
        return listener

    listener = loop.run_until_complete(main())

    def fails(ending: Coroutine[Any, Any, None]) -> None:
        ending.close()
        raise RuntimeError("no")

    loop.run_until_complete = fails  # type: ignore[assignment, method-assign]
    loop.close()
    assert loop.is_closed()
    assert reported == ["not everything could be closed with the loop"]
    del listener


def test_waits_that_block_the_loop_are_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    with signals.interruptible():
        pass
    monkeypatch.setattr(signals, "_is_stopping", True)  # a signal has arrived before
    with pytest.raises(asyncio.CancelledError), signals.interruptible():
        raise AssertionError
    waited: list[int] = []

    def wait() -> None:
        with signals.interruptible():  # signals are handled in the main thread: nobody's here
            waited.append(1)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert waited == [1]
