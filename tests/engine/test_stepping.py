"""A handler behaves like any other task, however the engine steps it.

Each behaviour is tested twice, with a plain task that awaits an `asyncio.Queue` and with
a handler that reads lines. Both must behave the same.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import struct
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any

import pytest

import silly
from silly._engine.portable.stream import MAX_READS_IN_A_ROW
from silly.errors import ConcurrentRead, ConnectionClosed, EndOfStream
from silly.net import tcp
from silly.net.tcp import Conn
from tests.garbage import collecting

ANY = "127.0.0.1:0"

Get = Callable[[], Awaitable[bytes]]
Body = Callable[[Get, list[Any]], Coroutine[Any, Any, object]]
Drive = Callable[[asyncio.Task[Any], Callable[[bytes], Awaitable[None]]], Coroutine[Any, Any, None]]


def host_and_port(listener: tcp.Listener) -> tuple[str, int]:
    host, _, port = listener.local_addr.rpartition(":")
    return host, int(port)


async def rest() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def only_lines(task: asyncio.Task[Any], put: Callable[[bytes], Awaitable[None]]) -> None:
    for number in range(5):
        if task.done():
            return
        await put(b"%d\n" % number)


def outcome(task: asyncio.Task[Any]) -> Any:
    if task.cancelled():
        try:
            task.result()
        except asyncio.CancelledError as error:
            return ("cancelled", *error.args)
    raised = task.exception()
    return ("raised", repr(raised)) if raised is not None else ("returned", task.result())


async def as_plain_task(body: Body, drive: Drive) -> tuple[list[Any], Any]:
    log: list[Any] = []
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    task = asyncio.create_task(body(queue.get, log))

    async def put(line: bytes) -> None:
        queue.put_nowait(line)
        await rest()

    await rest()
    await drive(task, put)
    await asyncio.wait([task])
    return log, outcome(task)


async def as_handler(body: Body, drive: Drive) -> tuple[list[Any], Any]:
    log: list[Any] = []
    tasks: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()

    async def handler(conn: Conn) -> object:
        task = asyncio.current_task()
        assert task is not None
        tasks.put_nowait(task)
        await conn.read(b"warm\n")  # from now on, the engine may step it
        return await body(lambda: conn.read(b"\n"), log)

    async with tcp.listen(ANY, handler) as listener:
        async with await tcp.connect(listener.local_addr) as client:

            async def put(line: bytes) -> None:
                client.write(line)
                await rest()

            task = await tasks.get()
            await put(b"warm\n")
            await drive(task, put)
            await asyncio.wait([task])
            return log, outcome(task)


# ---------------------------------------------------------------------- bodies


async def returns(get: Get, log: list[Any]) -> object:
    log.extend([await get(), await get()])
    return "result"


async def raises(get: Get, log: list[Any]) -> object:
    log.append(await get())
    raise ValueError("of the handler")


async def yields_in_between(get: Get, log: list[Any]) -> object:
    for _ in range(3):
        log.append(await get())
        await asyncio.sleep(0)
    return None


async def awaits_other_futures(get: Get, log: list[Any]) -> object:
    loop = asyncio.get_running_loop()
    for number in range(3):
        log.append(await get())
        future = loop.create_future()
        loop.call_soon(future.set_result, number)
        log.append(await future)
    log.append(await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2)))
    return None


async def yields_what_cannot_be_awaited(get: Get, log: list[Any]) -> object:
    class Odd:
        def __await__(self) -> Any:
            yield "this"

    log.append(await get())
    try:
        await Odd()
    except RuntimeError as error:
        log.append(str(error).endswith("got bad yield: 'this'"))
    log.append(await get())
    return None


async def is_the_current_task(get: Get, log: list[Any]) -> object:
    first = asyncio.current_task()
    for _ in range(3):
        await get()
        log.append((asyncio.current_task() is first, first in asyncio.all_tasks()))
    return None


variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


async def keeps_its_context(get: Get, log: list[Any]) -> object:
    for _ in range(4):
        await get()
        log.append(variable.get())
        variable.set(variable.get() + 1)
    return None


async def cancels_itself(get: Get, log: list[Any]) -> object:
    log.append(await get())
    task = asyncio.current_task()
    assert task is not None
    log.append(task.cancel("enough"))
    log.append("goes on to its next await")
    await get()
    return "not reached"


async def cancels_and_uncancels_itself(get: Get, log: list[Any]) -> object:
    log.append(await get())
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    log.append(task.uncancel())
    try:
        log.append(await get())
    except asyncio.CancelledError:  # before Python 3.13
        log.append("cancelled all the same")
        log.append(await get())
    return None


async def survives_cancellation(get: Get, log: list[Any]) -> object:
    while len(log) < 4:
        try:
            log.append(await get())
        except asyncio.CancelledError as error:
            log.append(("cancelled", *error.args))
    return None


async def times_out(get: Get, log: list[Any]) -> object:
    log.append(await get())
    try:
        async with asyncio.timeout(0):
            await get()
    except TimeoutError:
        log.append("timeout")
    task = asyncio.current_task()
    assert task is not None
    log.append(task.cancelling())
    log.append(await get())
    return None


async def cleans_up(get: Get, log: list[Any]) -> object:
    try:
        while True:
            log.append(await get())
    finally:
        await asyncio.sleep(0)
        log.append("clean")


async def has_children(get: Get, log: list[Any]) -> object:
    async def child(number: int) -> None:
        await asyncio.sleep(0)
        log.append(number)

    log.append(await get())
    async with asyncio.TaskGroup() as group:
        group.create_task(child(1))
        group.create_task(child(2))
    log.append(await get())
    return None


# ---------------------------------------------------------------------- drives


async def one_cancel(task: asyncio.Task[Any], put: Callable[[bytes], Awaitable[None]]) -> None:
    await put(b"1\n")
    assert task.cancel("from outside")
    await rest()
    await only_lines(task, put)


async def two_cancels(task: asyncio.Task[Any], put: Callable[[bytes], Awaitable[None]]) -> None:
    await put(b"1\n")
    assert task.cancel("one")
    assert task.cancel("two")
    await rest()
    await only_lines(task, put)


BODIES = [
    returns,
    raises,
    yields_in_between,
    awaits_other_futures,
    yields_what_cannot_be_awaited,
    is_the_current_task,
    keeps_its_context,
    cancels_itself,
    cancels_and_uncancels_itself,
    times_out,
    has_children,
]


@pytest.mark.parametrize(
    ("body", "drive"),
    [
        *((body, only_lines) for body in BODIES),
        *((body, one_cancel) for body in (survives_cancellation, cleans_up, returns)),
        *((body, two_cancels) for body in (survives_cancellation, cleans_up)),
    ],
)
async def test_a_handler_behaves_as_a_task(body: Body, drive: Drive) -> None:
    assert await as_handler(body, drive) == await as_plain_task(body, drive)


async def test_a_cancellation_loses_no_bytes_that_arrive_with_it() -> None:
    reading = asyncio.Event()
    left: list[bytes] = []

    async def handler(conn: Conn) -> None:
        await conn.read(b"\n")
        reading.set()
        try:
            await conn.read(b"\n")
        except asyncio.CancelledError:
            left.append(await conn.read(b"\n"))

    async with tcp.listen(ANY, handler) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            client.write(b"1\n")
            await reading.wait()
            (task,) = listener._course.handling
            client.write(b"2\n")
            task.cancel()
            await asyncio.wait([task])
    assert left == [b"2\n"]


class OwnTask(asyncio.Task[Any]):
    """What a task factory may make."""


@pytest.mark.parametrize("factory", [False, True])
@pytest.mark.parametrize("end", ["returns", "returns later", "raises later", "cancelled", "stuck"])
async def test_callbacks_of_a_handler_come_after_the_end_of_its_connection(
    end: str, factory: bool
) -> None:
    """In their order, as often as they were added, each in its context."""
    where = contextvars.ContextVar("where", default="")
    calls: list[tuple[str, str, bool]] = []
    done = asyncio.Event()
    conns: list[Conn] = []

    def first(_: asyncio.Task[Any]) -> None:
        calls.append(("first", where.get(), conns[0].is_alive))

    def second(_: asyncio.Task[Any]) -> None:
        calls.append(("second", where.get(), conns[0].is_alive))

    async def handler(conn: Conn) -> None:
        conns.append(conn)
        task = asyncio.current_task()
        assert task is not None
        assert (type(task) is OwnTask) == factory
        for call, value in ((first, "a"), (second, "b"), (first, "c")):
            context = contextvars.copy_context()
            context.run(where.set, value)
            task.add_done_callback(call, context=context)
        task.add_done_callback(lambda _: done.set())
        await conn.read(b"\n")
        if end == "returns":
            return
        if end == "cancelled":
            task.cancel()
        await asyncio.sleep(0)
        if end == "raises later":
            raise EndOfStream("as if", partial=b"")
        if end == "stuck":
            await asyncio.get_running_loop().create_future()

    loop = asyncio.get_running_loop()
    if factory:
        loop.set_task_factory(lambda loop, coro, **kw: OwnTask(coro, loop=loop, **kw))
    try:
        async with tcp.listen(ANY, handler) as listener:
            async with await tcp.connect(listener.local_addr) as client:
                client.write(b"1\n")
                if end == "stuck":
                    await rest()
                    (task,) = listener._course.handling
                    task.cancel()
                async with asyncio.timeout(10):
                    await done.wait()
            assert not listener._course.handling
    finally:
        loop.set_task_factory(None)
    assert calls == [("first", "a", False), ("second", "b", False), ("first", "c", False)]


async def test_a_waiting_handler_can_be_inspected() -> None:
    reading = asyncio.Event()

    async def my_handler(conn: Conn) -> None:
        await conn.read(b"\n")
        reading.set()
        await conn.read(b"\n")

    async with tcp.listen(ANY, my_handler) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            client.write(b"1\n")
            await reading.wait()
            (task,) = listener._course.handling
            assert "my_handler() running at" in repr(task)
            assert __file__ in repr(task)
            (frame,) = task.get_stack()
            assert frame.f_code.co_name == "my_handler"
            coroutine: Any = task.get_coro()
            assert coroutine.__qualname__.endswith("my_handler")
            assert not coroutine.cr_running
            assert coroutine.cr_await is not None
            assert asyncio.iscoroutine(coroutine)
            client.close()
            await asyncio.wait([task])


async def test_the_traceback_of_a_crash_ends_where_it_happened() -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def deeper() -> None:
        raise ValueError("here")

    async def handler(conn: Conn) -> None:
        await conn.read(b"\n")
        await deeper()

    async with tcp.listen(ANY, handler) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            await rest()
            tasks.extend(listener._course.handling)
            client.write(b"1\n")
            await asyncio.wait(tasks)
    error = tasks[0].exception()
    assert error is not None
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-2:] == ["handler", "deeper"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_tasks() -> None:
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 13) and "uvloop" in type(loop).__module__:
        pytest.skip("uvloop cannot call the eager task factory of Python 3.13")
    factory: Any = vars(asyncio)["eager_task_factory"]

    async def handler(conn: Conn) -> None:
        async for line in conn:
            child = asyncio.ensure_future(conn.write(line))  # starts in this step
            await child
            reader = asyncio.ensure_future(conn.read(2))
            await conn.write(b"now two\n")
            await conn.write(await reader)

    loop.set_task_factory(factory)
    try:
        async with tcp.listen(ANY, handler) as listener:
            async with await tcp.connect(listener.local_addr) as client:
                for _ in range(3):
                    client.write(b"line\n")
                    assert await client.read(b"\n") == b"line\n"
                    assert await client.read(b"\n") == b"now two\n"
                    client.write(b"ab")
                    assert await client.read(2) == b"ab"
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("end", ["returns", "raises", "cancelled", "reset", "reads all"])
async def test_a_closed_connection_leaves_no_reference_cycles(end: str) -> None:
    """Everything is freed by reference counting; a garbage collection would pause all handlers."""

    async def handler(conn: Conn) -> None:
        async for line in conn:
            await conn.write(line)
            if end == "raises":
                raise EndOfStream("as if", partial=b"")
            if end == "cancelled":
                await asyncio.sleep(60)
            if end == "reads all":
                while await conn.read(timeout=60):
                    pass

    async with tcp.listen(ANY, handler) as listener:
        with collecting(
            lambda each: isinstance(each, CoroutineType) and each.cr_code is handler.__code__
        ) as left:
            for _ in range(3):
                reader, writer = await asyncio.open_connection(*host_and_port(listener))
                writer.write(b"x\n")
                assert await reader.readline() == b"x\n"
                if end == "cancelled":
                    await rest()
                    (task,) = listener._course.handling
                    task.cancel()
                    del task
                elif end == "reset":
                    writer.transport.abort()
                else:
                    writer.close()
                while listener.connections:
                    await asyncio.sleep(0)
                writer.close()
            await rest()
            assert not left()


@pytest.mark.parametrize("how", ["lines", "delimiter", "count"])
async def test_a_flood_of_short_reads_lets_other_tasks_run(how: str) -> None:
    turns = longest = 0
    done = asyncio.Event()

    async def turning() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    async def lines(conn: Conn) -> AsyncIterator[bytes]:
        if how == "lines":
            async for line in conn:
                yield line
        while True:
            yield await conn.read(b"\n" if how == "delimiter" else 1)

    async def handler(conn: Conn) -> None:
        nonlocal longest
        last = row = 0
        async for _ in lines(conn):
            if turns != last:
                last, row = turns, 0
            row += 1
            longest = max(longest, row)

    async with tcp.listen(ANY, handler) as listener:
        other = asyncio.create_task(turning())
        async with await tcp.connect(listener.local_addr) as client:
            await client.write(b"\n" * 100_000)
            client.close_write()
            with pytest.raises(EndOfStream):
                await client.read()
        done.set()
        await other
        assert listener.stats.bytes_in == 100_000
    assert 1 < longest <= 2 * MAX_READS_IN_A_ROW  # `turning` may run before or after


def eager_tasks() -> Any:
    """Return the eager task factory; skip the test if there is none that works."""
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    if sys.version_info >= (3, 13) and "uvloop" in type(asyncio.get_running_loop()).__module__:
        pytest.skip("uvloop cannot call the eager task factory of Python 3.13")
    return vars(asyncio)["eager_task_factory"]


async def test_an_eager_handler_closes_another_connection_in_its_first_step() -> None:
    """As with one session per user: a new one closes the old one, whose reader is woken."""
    current: list[Conn] = []
    ended: list[str] = []

    async def handler(conn: Conn) -> None:
        if current:
            current.pop().close()
        current.append(conn)
        try:
            async for line in conn:
                await conn.write(line)
        except ConnectionClosed:
            ended.append(conn.remote_addr)
            raise

    loop = asyncio.get_running_loop()
    loop.set_task_factory(eager_tasks())
    try:
        async with tcp.listen(ANY, handler) as listener:
            clients = []
            for number in range(5):
                client = await tcp.connect(listener.local_addr)
                clients.append(client)
                client.write(b"x\n")
                assert await client.read(b"\n", timeout=10) == b"x\n"
                await rest()
                assert len(ended) == number
            for client in clients[:-1]:
                with pytest.raises(EndOfStream):
                    await client.read(timeout=10)
                client.close()
            clients[-1].close()
            async with asyncio.timeout(10):
                while listener.connections:
                    await asyncio.sleep(0)
            assert not listener.stats.handler_errors
    finally:
        loop.set_task_factory(None)


async def test_an_eager_handler_waits_for_room_from_its_first_step() -> None:
    async def handler(conn: Conn) -> None:
        for _ in range(400):
            await conn.write(b"x" * 100_000)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(eager_tasks())
    try:
        async with tcp.listen(ANY, handler) as listener:
            async with await tcp.connect(listener.local_addr, read_limit=1) as client:
                await rest()
                assert len(await client.read(40_000_000, timeout=20)) == 40_000_000
            assert not listener.stats.ended
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("handles", [True, False], ids=["handler", "another task"])
async def test_a_thread_in_the_context_of_a_reader(handles: bool) -> None:
    """Its bytes are handed to it when the thread has left; nobody else is concerned."""
    if not handles and silly.engine() != "native":
        pytest.skip("it waits for a future of asyncio's, which does not wake it then")
    leave = threading.Event()
    threads: list[threading.Thread] = []
    contexts: dict[asyncio.Task[Any], contextvars.Context] = {}
    loop = asyncio.get_running_loop()

    def factory(
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        context = context or contextvars.copy_context()
        task = asyncio.Task(coroutine, loop=loop, context=context, **options)
        contexts[task] = context
        return task

    async def echo(conn: Conn) -> None:
        async for line in conn:
            if line == b"thread\n":
                task = asyncio.current_task()
                assert task is not None
                thread = threading.Thread(target=run_in, args=(contexts[task], stay))
                thread.start()
                threads.append(thread)
            await conn.write(line)

    async def handler(conn: Conn) -> None:
        await (echo(conn) if handles else asyncio.ensure_future(echo(conn)))

    def run_in(context: contextvars.Context, call: Callable[[], None]) -> None:
        while True:  # until the reader's step is over
            try:
                context.run(call)
            except RuntimeError:
                continue
            return

    entered = threading.Event()

    def stay() -> None:
        entered.set()
        leave.wait(20)

    loop.set_task_factory(factory)  # type: ignore[arg-type]
    try:
        async with (
            tcp.listen(ANY, handler) as listener,
            await tcp.connect(listener.local_addr) as a,
            await tcp.connect(listener.local_addr) as b,
        ):
            a.write(b"thread\n")
            assert await a.read(b"\n", timeout=10) == b"thread\n"
            assert await asyncio.to_thread(entered.wait, 20)
            a.write(b"again\n")
            until = loop.time() + 0.01  # it is tried again, and in vain again, meanwhile
            while loop.time() < until:
                b.write(b"meanwhile\n")
                assert await b.read(b"\n", timeout=10) == b"meanwhile\n"
            leave.set()
            assert await a.read(b"\n", timeout=10) == b"again\n"
            threads[0].join()
    finally:
        loop.set_task_factory(None)


async def test_tasks_written_in_python() -> None:
    """As those of a library that patches asyncio (nest_asyncio)."""
    kind: Any = vars(asyncio.tasks)["_PyTask"]
    loop = asyncio.get_running_loop()

    async def handler(conn: Conn) -> None:
        async for line in conn:
            if line == b"sleep\n":
                await asyncio.sleep(0)
            await conn.write(line)
        raise ZeroDivisionError

    loop.set_task_factory(lambda loop, coroutine, **options: kind(coroutine, loop=loop, **options))
    try:
        async with tcp.listen(ANY, handler) as listener:
            async with await tcp.connect(listener.local_addr) as client:
                for line in (b"1\n", b"sleep\n", b"2\n"):
                    client.write(line)
                    assert await client.read(b"\n", timeout=10) == line
                client.close_write()
                with pytest.raises(EndOfStream):
                    await client.read(timeout=10)
            assert listener.stats.handler_errors_by_type == {"ZeroDivisionError": 1}
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("shared", ["lines", "conn"])
@pytest.mark.parametrize("readers", ["tasks", "handlers"])
async def test_two_tasks_on_one_iterator(shared: str, readers: str) -> None:
    """The second is refused; the first gets every line, and the end."""
    source: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()
    got: list[list[bytes]] = []
    refused: list[BaseException] = []
    done: list[bytes] = []

    async def serve(conn: Conn) -> None:
        source.set_result(conn)
        await conn.wait_closed()

    async def take(lines: Any) -> None:
        mine: list[bytes] = []
        got.append(mine)
        try:
            async for line in lines:
                mine.append(line)  # noqa: PERF401 - the lines must survive an error
            done.extend(mine)
        except ConcurrentRead as error:
            refused.append(error)

    async with (
        tcp.listen(ANY, serve) as listener,
        await tcp.connect(listener.local_addr) as client,
    ):
        conn = await source
        lines = conn if shared == "conn" else aiter(conn)

        async def handler(_: Conn) -> None:
            await take(lines)

        async with tcp.listen(ANY, handler) as others:
            tasks, clients = [], []
            for _ in range(2):
                if readers == "tasks":
                    tasks.append(asyncio.create_task(take(lines)))
                else:
                    client_of_others = await tcp.connect(others.local_addr)
                    clients.append(client_of_others)
                await rest()
            async with asyncio.timeout(10):
                while len(refused) < 1:
                    await asyncio.sleep(0)
                for number in range(4):
                    client.write(b"%d\n" % number)
                    await rest()
                client.close_write()
                while not done:
                    await asyncio.sleep(0)
                await asyncio.gather(*tasks)
                for each in clients:
                    each.close()
        assert done == [b"0\n", b"1\n", b"2\n", b"3\n"]
        assert len(refused) == 1
        conn.close()


async def test_two_tasks_on_one_read() -> None:
    source: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    async def serve(conn: Conn) -> None:
        source.set_result(conn)
        await conn.wait_closed()

    async with (
        tcp.listen(ANY, serve) as listener,
        await tcp.connect(listener.local_addr) as client,
    ):
        conn = await source
        read = conn.read(b"\n")

        async def take() -> bytes:
            return await read

        first, second = asyncio.create_task(take()), asyncio.create_task(take())
        await rest()
        with pytest.raises(RuntimeError, match="awaited already"):
            await second
        client.write(b"x\n")
        assert await asyncio.wait_for(first, 10) == b"x\n"
        client.write(b"y\n")
        assert await conn.read(b"\n", timeout=10) == b"y\n"
        conn.close()


@pytest.mark.parametrize("how", ["close", "throw"])
async def test_a_coroutine_ended_from_outside_ends_its_task(how: str) -> None:
    async def handler(conn: Conn) -> None:
        async for line in conn:
            await conn.write(line)

    async with (
        tcp.listen(ANY, handler) as listener,
        await tcp.connect(listener.local_addr) as client,
    ):
        client.write(b"x\n")
        assert await client.read(b"\n") == b"x\n"
        await rest()
        (task,) = listener._course.handling
        coroutine = task.get_coro()
        if how == "close":
            coroutine.close()
        else:
            with pytest.raises(KeyError):
                coroutine.throw(KeyError("thrown"))
        with pytest.raises(EndOfStream):
            await client.read(timeout=10)
        assert listener.stats.handler_errors == 1


@pytest.mark.parametrize("how", ["send", "throw", "close"])
async def test_a_handler_that_steps_itself_does_not_stay_the_current_task(how: str) -> None:
    async def handle(conn: Conn) -> None:
        await conn.read(b"\n")
        task = asyncio.current_task()
        assert task is not None
        coroutine: Any = task.get_coro()
        with pytest.raises((ValueError, RuntimeError), match="already executing"):
            if how == "send":
                coroutine.send(None)
            elif how == "throw":
                coroutine.throw(KeyError("thrown"))
            else:
                coroutine.close()
        conn.write(b"done\n")

    async with tcp.listen("127.0.0.1:0", handle) as listener:
        here = asyncio.current_task()
        for _ in range(2):
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(b"\n")
                assert await conn.read(b"\n") == b"done\n"
                await asyncio.sleep(0)
                assert asyncio.current_task() is here


@pytest.mark.parametrize("size", [1, 100, 10_000, 100_000])
async def test_a_writer_learns_that_the_peer_is_gone(size: int) -> None:
    """Even if it writes in a loop, and no write needs to wait."""
    gone = asyncio.Event()
    ended: list[BaseException] = []

    async def handler(conn: Conn) -> None:
        await gone.wait()
        try:
            while True:
                await conn.write(b"x" * size)
        except OSError as error:
            ended.append(error)
            raise

    async with tcp.listen(ANY, handler, read_limit=1000) as listener:
        with socket.create_connection(host_and_port(listener), timeout=20) as client:
            client.sendall(b"x" * 20_000)  # never read, so that no receive reports the reset
            await rest()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()
        async with asyncio.timeout(20):
            while not ended:
                await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_a_handler_that_only_writes_lets_other_tasks_run(size: int) -> None:
    """Even if no write needs to wait, because the peer takes everything at once."""
    written = 0

    async def handler(conn: Conn) -> None:
        nonlocal written
        while not over:
            await conn.write(b"x" * size)
            written += size

    over = False
    async with tcp.listen(ANY, handler) as listener:
        with socket.create_connection(host_and_port(listener), timeout=20) as client:

            def take_all() -> None:
                while client.recv(1 << 22):
                    pass

            thread = threading.Thread(target=take_all)
            thread.start()
            async with asyncio.timeout(20):
                for _ in range(20):
                    before = written
                    await asyncio.sleep(0)
                    assert written - before <= 4_000_000
                while not written:
                    await asyncio.sleep(0)
            over = True
            await asyncio.to_thread(thread.join)


async def test_a_wrapped_handler_ends_with_its_wrapper() -> None:
    """A task factory may wrap the coroutine: the handler has ended when the task has."""
    loop = asyncio.get_running_loop()
    goes_on = asyncio.Event()

    async def wrapper(coroutine: Coroutine[Any, Any, object]) -> object:
        result = await coroutine
        await goes_on.wait()
        return result

    def factory(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(wrapper(coroutine), loop=loop, **options)

    async def handler(conn: Conn) -> None:
        async for _ in conn:
            pass

    async with tcp.listen(ANY, handler) as listener:
        loop.set_task_factory(factory)
        client = await tcp.connect(listener.local_addr)
        await client.write(b"line\n")
        await rest()
        loop.set_task_factory(None)
        client.close_write()
        await rest()
        (task,) = listener._course.handling
        assert listener.connections == 1
        goes_on.set()
        await task
        with pytest.raises(EndOfStream):
            await client.read()
        assert not listener._course.handling
        client.close()


async def test_callbacks_of_a_handlers_task() -> None:
    """They are called once each, in the order in which they were added, after it is done."""
    log: list[Any] = []

    async def handler(conn: Conn) -> None:
        task: Any = asyncio.current_task()
        for number in range(3):
            task.add_done_callback(lambda task, number=number: log.append((number, task.done())))
        async for _ in conn:
            pass

    async with tcp.listen(ANY, handler) as listener:
        client = await tcp.connect(listener.local_addr)
        await client.write(b"line\n")
        await rest()
        (conn,) = listener._course.handling.values()
        (task,) = listener._course.handling
        task.add_done_callback(lambda _: log.append(("closed", conn._is_closing)))
        client.close_write()
        with pytest.raises(EndOfStream):
            await client.read()
        await rest()
        assert log == [(0, True), (1, True), (2, True), ("closed", True)]
        client.close()


async def test_handlers_are_among_all_tasks() -> None:
    """From before their first step until they are done, as other tasks."""
    before = asyncio.all_tasks()
    seen: list[bool] = []

    async def handler(conn: Conn) -> None:
        task = asyncio.current_task()
        seen.append(task in asyncio.all_tasks())
        async for _ in conn:
            seen.append(task in asyncio.all_tasks())
            conn.write(b"reply\n")

    async with tcp.listen(ANY, handler) as listener:
        clients = [await tcp.connect(listener.local_addr) for _ in range(3)]
        for client in clients:
            client.write(b"line\n")
            assert await client.read(b"\n") == b"reply\n"
        handlers = set(listener._course.handling)
        assert asyncio.all_tasks() == before | handlers
        assert seen == [True] * 6
        kept: Any = getattr(asyncio.tasks, "_all_tasks", None)  # until Python 3.12
        if kept is not None:
            assert set(kept) >= handlers
            assert len(kept) == len(list(kept))
            assert all(task in kept for task in handlers)
            assert object() not in kept
        next(iter(handlers)).cancel()
        clients[0].close()
        clients[1].abort()
        clients[2].close()
        await asyncio.wait(handlers)
        assert asyncio.all_tasks() == before


async def test_a_defect_after_a_handler_goes_to_the_loops_exception_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    raised: list[Any] = []

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async def handler(conn: Conn) -> None:
        async for line in conn:
            await conn.write(line)
        raise EndOfStream("as if", partial=b"")

    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    try:
        async with tcp.listen(ANY, handler) as listener:
            monkeypatch.setattr(type(listener._course), "_log_error", fail)
            clients = [await tcp.connect(listener.local_addr) for _ in range(2)]
            for client in clients:
                await client.write(b"line\n")
            await rest()
            clients[0].close()
            while not raised or listener.connections > 1:
                await asyncio.sleep(0)
            assert await clients[1].read(b"\n") == b"line\n"  # it goes on
            monkeypatch.undo()
            clients[1].close()
    finally:
        loop.set_exception_handler(None)
    assert [type(error) for error in raised] == [ZeroDivisionError]


async def test_a_loop_inside_a_handler_that_has_read_everything() -> None:
    """The end of the stream is handled once, however often a nested loop polls meanwhile."""
    loop: Any = asyncio.get_running_loop()
    if not hasattr(loop, "_run_once"):
        pytest.skip("a loop cannot be run inside itself")
    ends: list[int] = []

    async def handler(conn: Conn) -> None:
        async for _ in conn:
            pass
        running = asyncio._get_running_loop()
        task: Any = asyncio.current_task()
        asyncio._set_running_loop(None)
        asyncio._leave_task(loop, task)
        try:
            for _ in range(5):
                loop.call_soon(len, ())  # so that it does not wait
                loop._run_once()
        finally:
            asyncio._enter_task(loop, task)
            asyncio._set_running_loop(running)
        ends.append(conn.unread_bytes)
        await conn.write(b"still there\n")

    async with tcp.listen(ANY, handler) as listener:
        client = await tcp.connect(listener.local_addr)
        await client.write(b"line\n")
        await rest()
        client.close_write()
        assert await client.read(b"\n") == b"still there\n"
        assert ends == [0]
        client.close()


async def test_what_the_task_of_a_handler_waits_for_is_a_future() -> None:
    async def handler(conn: Conn) -> None:
        async for line in conn:
            await conn.write(line)

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as client:
        client.write(b"x\n")
        assert await client.read(b"\n") == b"x\n"
        await rest()
        (task,) = listener._course.handling
        waits: Any = task.get_coro()
        assert asyncio.isfuture(waits)
        assert asyncio.ensure_future(waits) is waits  # of this loop
        assert (waits.done(), waits.cancelled()) == (False, False)
        for outcome in (waits.result, waits.exception):
            with pytest.raises(asyncio.InvalidStateError):
                outcome()
        assert waits.remove_done_callback(print) == 0
        client.write(b"y\n")
        assert await client.read(b"\n") == b"y\n"
