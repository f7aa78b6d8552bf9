"""Using the awaitables of the API: in tasks, in ``async with``, and with a missing `await`."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import silly
from silly import task
from silly._engine.drain import DRAINED, Draining
from silly.net import tcp
from silly.net.awaitables import Closing
from silly.net.tcp import Conn

ANY = "127.0.0.1:0"


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def sink(conn: Conn) -> None:
    await conn.wait_closed()


# ------------------------------------------------------------------------------ tasks


async def test_a_wait_for_work_ends_as_the_work() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Closing(asyncio.create_task(fails()))
    work = asyncio.create_task(asyncio.Event().wait())
    closing = Closing(work)  # type: ignore[arg-type]
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_create_task_accepts_a_write() -> None:
    async with tcp.listen(ANY, echo) as listener, tcp.connect(listener.local_addr) as conn:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(conn.write(b"%d\n" % number))
        forked = task.fork(conn.write(b"3\n"))
        await forked
        lines = [await conn.read(b"\n", timeout=30) for _ in range(4)]
        assert lines == [b"0\n", b"1\n", b"2\n", b"3\n"]


async def test_a_task_of_a_write_waits_for_room_and_can_be_cancelled() -> None:
    arrived: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    async def hold(conn: Conn) -> None:
        conn.read_limit = 1
        arrived.set_result(conn)
        await conn.wait_closed()

    async with tcp.listen(ANY, hold) as listener, tcp.connect(listener.local_addr) as conn:
        peer = await arrived
        waiting = asyncio.create_task(conn.write(bytes(4 << 20)))
        cancelled = asyncio.create_task(conn.write(b"the last"))
        never = asyncio.create_task(conn.write(b"."))
        never.cancel()  # before its first step
        while not conn.unsent_bytes:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        cancelled.cancel()
        await asyncio.wait((cancelled, never))
        assert cancelled.cancelled()
        assert never.cancelled()
        assert len(await peer.read((4 << 20) + 9)) == (4 << 20) + 9  # nothing was unqueued
        await waiting
        await listener.close(0)


async def test_a_task_of_a_write_raises_the_loss() -> None:
    async with tcp.listen(ANY, sink) as listener, tcp.connect(listener.local_addr) as conn:
        conn.read_limit = 1
        waiting = asyncio.create_task(conn.write(bytes(4 << 20)))
        await asyncio.sleep(0)
        assert not waiting.done()
        conn.abort()
        with pytest.raises(silly.ConnectionClosed):
            await waiting
        await listener.close(0)


async def test_create_task_accepts_the_closing_of_a_listener() -> None:
    listener = tcp.listen(ANY, echo)
    await asyncio.create_task(listener.close())
    assert listener.state is tcp.ListenerState.CLOSED
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(tcp.listen(ANY, echo).close(0))
    await asyncio.gather(listener.close(), asyncio.wait_for(listener.close(), 30))


async def test_cancelling_a_task_of_closing_does_not_stop_the_closing() -> None:
    goes_on = asyncio.Event()

    async def handler(conn: Conn) -> None:
        await goes_on.wait()

    listener = tcp.listen(ANY, handler)
    async with tcp.connect(listener.local_addr) as conn:
        while not listener.connections:
            await asyncio.sleep(0)
        closing = asyncio.create_task(listener.close(30))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        goes_on.set()
        await listener.wait_closed()
        with pytest.raises(EOFError):
            await conn.read()


async def test_connect_can_be_awaited_entered_or_made_a_task(port: int) -> None:
    async with tcp.listen(f"127.0.0.1:{port}", echo) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(b"entered\n")
            assert await conn.read(b"\n") == b"entered\n"
        assert not conn.is_alive
        async with await tcp.connect(listener.local_addr) as conn:
            assert conn.is_alive
        made = await asyncio.create_task(tcp.connect(listener.local_addr))
        async with made, await asyncio.wait_for(tcp.connect(listener.local_addr), 30):
            pass
        async with await task.fork(tcp.connect(listener.local_addr)):
            pass
    with pytest.raises(ConnectionRefusedError):
        async with tcp.connect(listener.local_addr):
            pass


async def test_cancelling_a_block_of_connect_aborts_the_connection() -> None:
    entered = asyncio.Event()

    async def client(addr: str) -> None:
        async with tcp.connect(addr):
            entered.set()
            await asyncio.Event().wait()

    lost = asyncio.get_running_loop().create_future()

    async def handler(conn: Conn) -> None:
        try:
            await conn.read()
        except Exception as error:
            lost.set_result(type(error))

    async with tcp.listen(ANY, handler) as listener:
        running = asyncio.create_task(client(listener.local_addr))
        await entered.wait()
        running.cancel()
        assert await lost is ConnectionResetError


# --------------------------------------------------------------------- a missing await


async def decodes(conn: Conn) -> None:
    conn.read(b"\n").decode()  # type: ignore[attr-defined]


async def decodes_a_line(conn: Conn) -> None:
    conn.__aiter__().__anext__().decode()  # type: ignore[attr-defined]


async def measures(conn: Conn) -> None:
    len(conn.read())  # type: ignore[arg-type]


async def adds(conn: Conn) -> None:
    b"> " + conn.read(5)  # type: ignore[operator]


async def writes(conn: Conn) -> None:
    await conn.write(conn.read(b"\n"))  # type: ignore[arg-type]


async def writes_several(conn: Conn) -> None:
    await conn.write([b"> ", conn.read(b"\n")])  # type: ignore[list-item]


async def uses_own(conn: Conn) -> None:
    async def answer() -> bytes:
        return b""

    answer().decode()  # type: ignore[attr-defined]


async def uses_connect(conn: Conn) -> None:
    tcp.connect(conn.local_addr).write(b"")


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(
    "handler",
    [decodes, decodes_a_line, measures, adds, writes, writes_several, uses_own, uses_connect],
)
async def test_a_missing_await_is_reported(
    handler: Callable[[Conn], Awaitable[object]], caplog: pytest.LogCaptureFixture
) -> None:
    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        with pytest.raises(EOFError):
            await conn.read()
    text = logged(caplog)
    assert text.count("`await` is missing") == 1, text


async def iterates(conn: Conn) -> None:
    for _line in conn:  # type: ignore[attr-defined]
        pass


async def enters(conn: Conn) -> None:
    with conn:  # type: ignore[attr-defined]
        pass


@pytest.mark.parametrize("handler", [iterates, enters])
async def test_a_missing_async_is_reported(
    handler: Callable[[Conn], Awaitable[object]], caplog: pytest.LogCaptureFixture
) -> None:
    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        with pytest.raises(EOFError):
            await conn.read()
    assert logged(caplog).count("`async` is missing") == 1


async def test_other_mistakes_are_not_reported_as_a_missing_await(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(conn: Conn) -> None:
        conn.reed()  # type: ignore[attr-defined]

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        with pytest.raises(EOFError):
            await conn.read()
    assert "is missing" not in logged(caplog)


def drop(_: object) -> None:
    """Take the last reference, and drop it."""


async def test_the_warning_about_a_missing_await_has_the_public_name() -> None:
    async with tcp.listen(ANY, echo) as listener, tcp.connect(listener.local_addr) as conn:
        with pytest.warns(RuntimeWarning, match=r"'Conn\.read' was never awaited"):
            drop(conn.read(b"\n"))
        with pytest.warns(RuntimeWarning, match=r"'tcp\.connect' was never awaited"):
            drop(tcp.connect(listener.local_addr))


# ------------------------------------------------------------------------- tracebacks


async def fails(conn: Conn) -> None:
    try:
        await asyncio.wait_for(conn.read(timeout=0), 30)
    except TimeoutError as error:
        raise LookupError("no such thing") from error


@pytest.mark.parametrize("start", ["handler", "fork"])
async def test_a_traceback_has_only_the_programs_frames(
    start: str, caplog: pytest.LogCaptureFixture, loop_kind: str
) -> None:
    async def fork(conn: Conn) -> None:
        with pytest.raises(LookupError):
            await task.fork(fails, conn)

    handler = fails if start == "handler" else fork
    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        with pytest.raises(EOFError):
            await conn.read()
    text = logged(caplog)
    files = [line.split('"')[1] for line in text.splitlines() if line.startswith('  File "')]
    assert "no such thing" in text
    if loop_kind == "debug":  # which shows all frames
        assert set(files) > {__file__}
    else:
        assert set(files) == {__file__}


def logged(caplog: pytest.LogCaptureFixture) -> str:
    errors: list[Any] = [record.exc_info for record in caplog.records if record.exc_info]
    return "\n".join("".join(traceback.format_exception(*error)) for error in errors)


@pytest.mark.no_engine
async def test_a_write_is_a_coroutine_object() -> None:
    waiting = asyncio.Event()
    ends: list[str] = []

    async def drain() -> None:
        try:
            await waiting.wait()
        finally:
            ends.append("ended")

    for write in (DRAINED, Draining(drain)):
        write.close()
        with pytest.raises(ZeroDivisionError):
            write.throw(ZeroDivisionError())
    assert not ends  # it had not begun
    begun = Draining(drain)
    begun.send(None)
    begun.close()
    assert ends == ["ended"]
