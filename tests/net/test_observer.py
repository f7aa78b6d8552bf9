"""Observers are notified of every connection and how it ended, and cannot affect it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest

from silly.net import observer as observing
from silly.net import tcp
from silly.net.conn import StreamConn
from silly.net.observer import Ending
from silly.net.tcp import Conn, Listener

ANY = "127.0.0.1:0"


class Recorder:
    """Records the notifications; `ended` waits for the next ending."""

    def __init__(self) -> None:
        self.opened_conns: list[Conn] = []
        self.endings: asyncio.Queue[Ending] = asyncio.Queue()

    def opened(self, conn: Conn, listener: Listener) -> None:
        assert listener.is_accepting
        self.opened_conns.append(conn)

    def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:
        assert conn in self.opened_conns
        assert cast(StreamConn, conn)._is_closed
        self.endings.put_nowait(ending)

    async def ended(self) -> Ending:
        return await self.endings.get()


Handler = Callable[[Conn], Coroutine[Any, Any, None]]
Client = Callable[[Conn], Coroutine[Any, Any, object]]


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def keeps_readinge(conn: Conn) -> None:
    await conn.read(b"\n")


async def keeps_reading(conn: Conn) -> None:
    await conn.read(b"no such line\n")


async def swallows_the_loss(conn: Conn) -> None:
    try:
        await conn.read(b"no such line\n")
    except OSError:
        return


async def closes_first(conn: Conn) -> None:
    await conn.read(b"\n")
    conn.close()
    await conn.wait_closed()


async def crashes(conn: Conn) -> None:
    await conn.read(b"\n")
    raise ZeroDivisionError


async def finishes(conn: Conn) -> None:
    conn.write(b"x\n")
    conn.close_write()
    await conn.wait_closed() if False else None


async def stays(conn: Conn) -> None:
    conn.write(b"x\n")


async def resets(conn: Conn) -> None:
    conn.write(b"x\n")
    await conn.write(b"")
    await asyncio.sleep(0)
    conn.abort()


@pytest.mark.parametrize(
    ("handler", "client", "how", "error"),
    [
        (echo, finishes, "peer_finished", None),
        (keeps_reading, finishes, "peer_finished", "EndOfStream"),
        (keeps_readinge, stays, "closed_here", None),
        (closes_first, stays, "closed_here", None),
        (keeps_reading, resets, "reset", "ConnectionResetError"),
        (swallows_the_loss, resets, "reset", None),
        (crashes, stays, "handler_error", "ZeroDivisionError"),
    ],
)
async def test_how_a_connection_ended(
    handler: Handler, client: Client, how: str, error: str | None
) -> None:
    recorder = Recorder()
    async with tcp.listen(ANY, handler, observer=recorder) as listener:
        conn = await tcp.connect(listener.local_addr)
        await client(conn)
        ending = await recorder.ended()
        conn.abort()
    assert (ending.how, ending.error and type(ending.error).__name__) == (how, error)
    assert ending.how in observing.ENDINGS
    assert 0 <= ending.handler_seconds <= ending.seconds
    assert len(recorder.opened_conns) == 1
    assert recorder.endings.empty()
    assert not listener._course._observed


async def test_an_idle_connection_and_a_cancelled_handler() -> None:
    recorder = Recorder()
    async with tcp.listen(ANY, echo, idle_timeout=0.001, observer=recorder) as listener:
        async with await tcp.connect(listener.local_addr):
            assert (await recorder.ended()).how == "idle_timeout"
    listener = tcp.listen(ANY, echo, observer=recorder)
    async with await tcp.connect(listener.local_addr) as conn:
        conn.write(b"x\n")
        await conn.read(b"\n")
        await listener.close(0)
        ending = await recorder.ended()
        assert (ending.how, ending.error) == ("cancelled", None)


async def test_a_connection_is_over_when_the_handler_outlives_it() -> None:
    recorder = Recorder()
    go_on = asyncio.Event()
    lost = asyncio.Event()

    async def handler(conn: Conn) -> None:
        await conn.wait_closed()
        lost.set()
        await go_on.wait()

    async with tcp.listen(ANY, handler, observer=recorder) as listener:
        conn = await tcp.connect(listener.local_addr)
        await asyncio.sleep(0)
        conn.abort()
        await lost.wait()
        assert recorder.endings.empty()
        assert listener._course._observed
        go_on.set()
        assert (await recorder.ended()).how == "reset"
        assert not listener._course._observed


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class SetsVariable:
    seen: str | None = None

    def opened(self, conn: Conn, listener: Listener) -> None:
        variable.set("set by the observer")

    def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:
        self.seen = variable.get()


async def test_observers_and_handler_share_a_context() -> None:
    seen: list[str] = []
    recorder, setter = Recorder(), SetsVariable()

    async def handler(conn: Conn) -> None:
        await conn.read(b"\n")
        seen.append(variable.get())
        variable.set("set by the handler")
        seen.append(await asyncio.create_task(child()))

    async def child() -> str:
        return variable.get()

    observing.register(setter)
    try:
        async with tcp.listen(ANY, handler, observer=recorder) as listener:
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(b"x\n")
                await recorder.ended()
    finally:
        observing.unregister(setter)
    assert seen == ["set by the observer", "set by the handler"]
    assert setter.seen == "set by the handler"
    assert variable.get() == "unset"


class Fails:
    def opened(self, conn: Conn, listener: Listener) -> None:
        raise ZeroDivisionError("of opened")

    def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:
        raise ZeroDivisionError("of closed")


async def test_an_observer_that_fails_is_logged_and_affects_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder()
    observing.register(recorder)
    try:
        async with tcp.listen(ANY, echo, observer=Fails()) as listener:
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(b"x\n")
                assert await conn.read(b"\n") == b"x\n"
            assert (await recorder.ended()).how == "peer_finished"
    finally:
        observing.unregister(recorder)
    failures = [record for record in caplog.records if record.exc_info]
    assert [str(record.exc_info[1]) for record in failures if record.exc_info] == [
        "of opened",
        "of closed",
    ]
    assert listener.stats.handler_errors == 0


async def test_nothing_is_kept_without_observers() -> None:
    async with tcp.listen(ANY, echo) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"x\n")
            await conn.read(b"\n")
            assert not listener._course._observed


@pytest.fixture
def registered() -> Iterator[Recorder]:
    recorder = Recorder()
    observing.register(recorder)
    observing.register(recorder)  # registering twice does nothing
    yield recorder
    observing.unregister(recorder)
    observing.unregister(recorder)


async def test_the_process_wide_observer_is_notified_once(registered: Recorder) -> None:
    listener = tcp.listen(ANY, echo)
    async with await tcp.connect(listener.local_addr) as conn:
        conn.close_write()
        await registered.ended()
    await listener.close()
    assert registered.endings.empty()
    observing.unregister(registered)
    async with tcp.listen(ANY, echo) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.close_write()
            await conn.wait_closed() if False else None
    assert registered.endings.empty()
    gc.collect()


async def test_other_objects_are_refused_as_observers() -> None:
    for wrong in (1, print, Recorder):
        with pytest.raises(TypeError, match="observer must be an object with the methods"):
            tcp.listen(ANY, echo, observer=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="observer must be an object with the methods"):
            observing.register(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("proxies", [None, ("127.0.0.0/8",)], ids=["handler", "preface"])
async def test_what_cannot_be_started_is_reset_and_the_listener_goes_on(
    proxies: tuple[str, ...] | None,
) -> None:
    """As when there is no memory for a task."""

    async def hello(conn: Conn) -> None:
        await conn.write(b"hello")

    def fail(*_: object) -> None:
        raise MemoryError

    loop, told, recorder = asyncio.get_running_loop(), [], Recorder()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(type(context["exception"])))
    async with tcp.listen(ANY, hello, observer=recorder, proxy_protocol=proxies) as listener:
        course: Any = listener._course
        starts = course._start_task
        course._start_task = fail
        with pytest.raises(ConnectionResetError):
            await (await tcp.connect(listener.local_addr)).read()
        assert told == [MemoryError]
        course._start_task = starts
        if proxies is None:
            ending = await recorder.ended()
            assert (ending.how, type(ending.error)) == ("handler_error", MemoryError)
        header = b"" if proxies is None else b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(header)
            assert await conn.read(5) == b"hello"
    loop.set_exception_handler(before)
