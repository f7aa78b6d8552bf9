"""A handler may fail at any of its awaits, and clocks may jump.

A handler that reads, writes and waits in every way is disturbed at its k-th
suspension, for every k until it ends by itself. All that it had written must reach the
client, all that was acknowledged must be stored, nothing may be left over, and the
server must still answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

import pytest

from silly.errors import ConnectionClosed, EndOfStream
from silly.net import tcp
from silly.net.tcp import Conn
from silly.testing import VirtualClockLoop, run_virtual

ANY: Final = "127.0.0.1:0"
BULK: Final = b"0123456789abcdef" * 200_000  # more than socket buffers and queues hold


class Boom(Exception):  # noqa: N818 - only for this test
    """The injected exception."""


# --------------------------------------------------------- disturbing a coroutine


class Disturbance:
    """A fault to inject at a suspension; records whether the coroutine got that far."""

    def __init__(self, how: str, at: int) -> None:
        self.how = how
        self.at = at
        self.reached = False

    @types.coroutine
    def of(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run *coroutine* as ``await`` would, and inject the fault."""
        suspensions = 0
        step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
        while True:
            try:
                yielded = step()
            except StopIteration as stop:
                return stop.value
            now = suspensions == self.at
            suspensions += 1
            if now:
                self.reached = True
                if self.how == "raise instead of waiting":
                    step = lambda: coroutine.throw(Boom())  # noqa: E731
                    continue
                task = asyncio.current_task()
                assert task is not None
                if self.how == "cancel before waiting":
                    task.cancel()
                elif self.how == "cancel while waiting":
                    asyncio.get_running_loop().call_soon(task.cancel)
            try:
                value = yield yielded
            except BaseException as error:
                step = lambda error=error: coroutine.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                if now and self.how == "raise after waiting":
                    step = lambda: coroutine.throw(Boom())  # noqa: E731
                else:
                    step = lambda value=value: coroutine.send(value)  # type: ignore[misc]  # noqa: E731


WAYS = [
    "raise instead of waiting",
    "raise after waiting",
    "cancel before waiting",
    "cancel while waiting",
]


# ------------------------------------------------------------------------ handlers

Serve = Callable[[Conn, Callable[[bytes], Any]], Coroutine[Any, Any, None]]


async def reads_of_each_kind(conn: Conn, ack: Callable[[bytes], Any]) -> None:
    ack(await conn.read(b"\n"))
    await ack(await conn.read(7))
    await ack(await conn.read(b"\r\n", timeout=60))
    ack(await conn.read(b"end", limit=100))
    piece = await conn.read()
    while not piece.endswith(b"."):
        piece += await conn.read()
    await ack(piece)


async def lines(conn: Conn, ack: Callable[[bytes], Any]) -> None:
    async for line in conn:
        await ack(line)
        if line == b"stop\n":
            break
    async with asyncio.timeout(60):
        await ack(await conn.read(b"\n"))
    await ack(await asyncio.wait_for(conn.read(b"\n"), 60))


async def other_waits(conn: Conn, ack: Callable[[bytes], Any]) -> None:
    ack(await conn.read(b"\n"))
    await asyncio.sleep(0)
    ack(await asyncio.ensure_future(conn.read(b"\n")))
    one, other = await asyncio.gather(conn.read(b"\n"), asyncio.sleep(0.001, b""))
    ack(one + other)
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(conn.read(b"\n"))
        group.create_task(asyncio.sleep(0))
    with pytest.raises(TimeoutError):  # the client is waiting for its answer
        await conn.read(b"\n", timeout=0.001)
    await ack(reader.result())
    await asyncio.to_thread(int)
    try:
        await ack(await conn.read(b"\n"))
    finally:
        await asyncio.sleep(0)  # slow clean-up


async def a_great_deal(conn: Conn, ack: Callable[[bytes], Any]) -> None:
    ack(await conn.read(b"\n"))
    for _ in range(2):
        await ack(BULK)
    ack(await conn.read(b"\n"))
    conn.close_write()
    with pytest.raises(EndOfStream):
        await conn.read(b"\n")


REQUESTS: dict[Serve, list[bytes]] = {
    reads_of_each_kind: [b"a line\n", b"7 bytes", b"cr\n and lf\r\n", b"the end", b"piece."],
    lines: [b"one\n", b"two\n", b"stop\n", b"in time\n", b"and again\n"],
    other_waits: [b"1\n", b"2\n", b"3\n", b"4\n", b"5\n"],
    a_great_deal: [b"all\n", b"thanks\n"],
}


async def rest() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def client_of(addr: str, requests: list[bytes], serve: Serve) -> bytes:
    """Send the requests in turn, each in two pieces; return everything received until the end."""
    received = bytearray()
    async with await tcp.connect(addr, read_limit=10_000) as conn:
        try:
            for request in requests:
                half = len(request) // 2
                conn.write(request[:half])
                await rest()
                conn.write(request[half:])
                expected = len(request)
                if request == b"all\n":
                    expected += 2 * len(BULK)
                    await rest()
                while expected:
                    piece = await conn.read()
                    expected -= len(piece)
                    received += piece
            conn.close_write()
            while True:
                received += await conn.read()
        except (EndOfStream, ConnectionResetError, BrokenPipeError):
            pass
        return bytes(received) + await conn.read(conn.unread_bytes if conn.is_alive else 0)


@pytest.mark.heavy
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("serve", REQUESTS, ids=lambda serve: serve.__name__)
async def test_a_handler_may_end_at_any_await(
    serve: Serve, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "silly.net")
    tolerate_deserted_children()
    disturbance: Disturbance | None = None
    written: list[bytes] = []
    stored: list[bytes] = []
    ends: list[str] = []

    async def handler(conn: Conn) -> None:
        def ack(request: bytes) -> Any:
            stored.append(request)
            writing = conn.write(request)
            written.append(request)
            return writing

        try:
            assert disturbance is not None
            if disturbance.at < 0:
                async for line in conn:
                    await conn.write(line)
            else:
                await disturbance.of(serve(conn, ack))
                ends.append("done")
        except BaseException as error:
            ends.append(type(error).__name__)
            raise

    async with tcp.listen(ANY, handler, read_limit=10_000) as listener:
        errors = 0
        for at in range(200):
            disturbance = Disturbance(how, at)
            written.clear()
            stored.clear()
            ends.clear()
            received = await client_of(listener.local_addr, REQUESTS[serve], serve)
            assert received == b"".join(written)
            assert stored == written
            await until(lambda: listener.connections == 0)
            if not disturbance.reached:
                assert ends == ["done"]
                break
            # A cancellation at the same time as the bytes may lose to the end of the stream.
            expected = {"Boom"} if how.startswith("raise") else {"CancelledError", "done"}
            assert {ends[0].replace("ExceptionGroup", "Boom")} <= expected, (at, ends)
            errors += how.startswith("raise")
            assert listener.stats.handler_errors == errors
            disturbance = Disturbance(how, -1)
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(b"still there\n")
                assert await conn.read(b"\n") == b"still there\n"
            await until(lambda: listener.connections == 0)
        else:
            raise AssertionError("the handler never ended by itself")
        assert at >= len(REQUESTS[serve])


def tolerate_deserted_children() -> None:
    """Ignore what asyncio reports of child tasks that a failed handler left behind."""
    loop = asyncio.get_running_loop()
    complain: Any = loop.get_exception_handler()

    def filtered(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        deserted = any(
            words in context["message"]
            for words in ("exception was never retrieved", "has errored out but its parent task")
        )
        if not (deserted and isinstance(context.get("exception"), ConnectionClosed)):
            complain(loop, context)

    loop.set_exception_handler(filtered)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


# ----------------------------------------------------------------------- clock jumps


def jump(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    loop.jump(seconds)


def test_a_clock_jump_past_deadlines_loses_nothing() -> None:
    timeouts = 0

    async def handler(conn: Conn) -> None:
        nonlocal timeouts
        while True:
            try:
                await conn.write(await conn.read(b"\n", timeout=10))
            except TimeoutError:
                timeouts += 1
            except EndOfStream:
                return

    async def main() -> None:
        async with tcp.listen(ANY, handler, limits=tcp.Limits.none()) as listener:
            async with await tcp.connect(listener.local_addr) as conn:
                for number in range(50):
                    line = b"line %d\n" % number
                    conn.write(line[:3])
                    await rest()
                    jump(3600)  # deadline and bytes in one pass of the loop
                    conn.write(line[3:])
                    if number % 2:
                        await rest()
                        jump(3600)
                    assert await conn.read(b"\n", timeout=7200) == line
                conn.write(b"unfinished")
                jump(1e9)
        assert listener.connections == 0
        assert listener.stats.handler_errors == 0

    run_virtual(main())
    assert timeouts > 10


def test_a_clock_jump_closes_only_idle_connections() -> None:
    async def handler(conn: Conn) -> None:
        async for line in conn:
            await conn.write(line)

    async def main() -> None:
        async with tcp.listen(ANY, handler, idle_timeout=60) as listener:
            idle = await tcp.connect(listener.local_addr)
            idle.write(b"hello\n")
            assert await idle.read(b"\n") == b"hello\n"
            jump(3600)
            with pytest.raises(EndOfStream):
                await idle.read(b"\n")
            async with await tcp.connect(listener.local_addr) as fresh:
                fresh.write(b"hello\n")
                assert await fresh.read(b"\n") == b"hello\n"
                assert fresh.is_alive
            idle.close()
            await idle.wait_closed()
        assert listener.stats.handler_errors == 0

    run_virtual(main())


def test_a_clock_jump_past_grace_and_linger_ends_a_drain() -> None:
    cancelled = 0

    async def handler(conn: Conn) -> None:
        nonlocal cancelled
        conn.write(BULK * 4)  # far more than the kernel takes
        try:
            await conn.read(b"\n")
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async def main() -> None:
        listener = tcp.listen(ANY, handler)
        conn = await tcp.connect(listener.local_addr, read_limit=1000)
        await conn.read(1)
        closing = listener.close(600)
        await rest()
        jump(1e6)
        await closing
        assert listener.connections == 0
        with pytest.raises((EndOfStream, ConnectionResetError)):
            while True:
                await conn.read()
        conn.abort()
        await conn.wait_closed()

    run_virtual(main())
    assert cancelled == 1


@pytest.mark.parametrize("days", [-10_000, 10_000])
async def test_the_time_of_day_may_be_set(days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(conn: Conn) -> None:
        async for line in conn:
            await conn.write(line)

    real = time.time
    async with tcp.listen(ANY, handler, idle_timeout=3600) as listener:
        async with await tcp.connect(listener.local_addr, idle_timeout=3600) as conn:
            reader = asyncio.ensure_future(conn.read(b"\n", timeout=3600))
            await rest()
            monkeypatch.setattr(time, "time", lambda: real() + days * 86_400)
            conn.write(b"one\n")
            assert await reader == b"one\n"
            with pytest.raises(TimeoutError):
                await conn.read(b"\n", timeout=0.01)
            conn.write(b"two\n")
            assert await conn.read(b"\n", timeout=3600) == b"two\n"
            assert conn.is_alive
            opened = conn.stats.opened_at
            assert conn.stats.last_activity >= opened
            assert conn.stats.last_activity - opened < 3600
