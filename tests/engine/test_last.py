"""What takes long is done last, and wakes the task that waits for it."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from silly._engine import engine
from silly.net import tcp

ANY = "127.0.0.1:0"


async def test_it_is_called_with_and_without_connections() -> None:
    loop = asyncio.get_running_loop()
    called: list[str] = []

    async def handler(conn: tcp.Conn) -> None:
        engine.call_last(loop, lambda: called.append("handler"))
        async for line in conn:
            engine.call_last(loop, lambda: called.append("line"))
            await conn.write(line)
            engine.call_last(loop, done.set)

    engine.call_last(loop, lambda: called.append("before"))
    done = asyncio.Event()
    async with tcp.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(b"x\n")
            assert await conn.read(b"\n") == b"x\n"
            await asyncio.wait_for(done.wait(), 30)
        engine.call_last(loop, lambda: called.append("last"))
    done.clear()
    engine.call_last(loop, done.set)
    await asyncio.wait_for(done.wait(), 30)
    assert sorted(called) == ["before", "handler", "last", "line"]


async def test_live_connections_are_served_between() -> None:
    loop = asyncio.get_running_loop()
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        if count < 1000 and not read:
            engine.call_last(loop, again)

    async def handler(conn: tcp.Conn) -> None:
        async for line in conn:
            await conn.write(line)

    read = b""
    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        engine.call_last(loop, again)
        await conn.write(b"x\n")
        read = await conn.read(b"\n")
        assert 0 < count < 1000


async def test_what_it_writes_is_sent() -> None:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[tcp.Conn] = loop.create_future()

    async def handler(conn: tcp.Conn) -> None:
        accepted.set_result(conn)
        await conn.read()

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        served = await accepted
        engine.call_last(loop, lambda: served.write(b"x\n"))
        assert await conn.read(b"\n", timeout=30) == b"x\n"


async def test_an_exception_does_not_stop_the_others() -> None:
    loop = asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))

    async def handler(conn: tcp.Conn) -> None:
        await conn.read()

    def fail() -> None:
        raise ValueError("no")

    done = asyncio.Event()
    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr):
        engine.call_last(loop, fail)
        engine.call_last(loop, done.set)
        await asyncio.wait_for(done.wait(), 30)
    assert [type(each) for each in failures] == [ValueError]


async def test_a_task_is_woken() -> None:
    loop = asyncio.get_running_loop()
    early = engine.new_waiter(loop)
    early.set_result(None)
    assert early.done()
    await early
    with pytest.raises(asyncio.InvalidStateError):
        early.set_result(None)

    waiter = engine.new_waiter(loop)
    loop.call_soon(waiter.set_result, None)
    await asyncio.wait_for(_wait(waiter), 30)


async def test_a_waiting_task_is_cancelled() -> None:
    waiter = engine.new_waiter(asyncio.get_running_loop())
    task = asyncio.create_task(_wait(waiter))
    await asyncio.sleep(0)
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiter.cancelled()


async def _wait(waiter: asyncio.Future[None]) -> None:
    await waiter


async def test_a_handler_awaits_what_is_done() -> None:
    """Or yields it by itself, as the coroutines of other libraries may."""
    loop = asyncio.get_running_loop()

    class Done:
        def __await__(self) -> Any:
            waiter: Any = engine.new_waiter(loop)
            waiter.set_result(None)
            waiter._asyncio_future_blocking = True
            yield waiter

    async def handler(conn: tcp.Conn) -> None:
        async for line in conn:
            await Done()
            await conn.write(line)

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        for _ in range(3):
            conn.write(b"x\n")
            assert await conn.read(b"\n", timeout=30) == b"x\n"


async def test_a_waiter_that_is_stepped_by_hand() -> None:
    loop = asyncio.get_running_loop()
    for by_name in (False, True):
        waiter: Any = engine.new_waiter(loop)
        steps = waiter.__await__()
        step = steps.__next__ if by_name else functools.partial(next, steps)
        assert step() is waiter
        waiter.set_result(None)
        with pytest.raises(StopIteration):
            step()
