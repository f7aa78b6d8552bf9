"""However a handler answers, waits or fails, its client gets the response that belongs to it."""

from __future__ import annotations

import asyncio
import functools
import sys
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

import silly
from silly.errors import EndOfStream
from silly.net import http, tcp
from silly.net.limits import Limits
from silly.runtime import inspection
from silly.testing import run_virtual
from tests.net.http.wire import ANY, TIME, reply

BODY = "text"


class Awaited:
    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __await__(self) -> Any:
        if self.iterator is None:
            raise ZeroDivisionError
        return self.iterator


class NoGenerator:
    """An iterator that has neither `throw` nor `close`, and whose end never comes."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    def __iter__(self) -> NoGenerator:
        return self

    def __next__(self) -> Any:
        self.begun.set()
        future: Any = asyncio.get_running_loop().create_future()
        future._asyncio_future_blocking = True
        return future


@types.coroutine
def generator() -> Generator[Any, None, str]:
    return (yield from waiting())


def waiting() -> Generator[Any, None, str]:
    yield from asyncio.sleep(0).__await__()
    return BODY


async def text(_request: http.Request) -> str:
    await asyncio.sleep(0)
    return BODY


async def plain(_request: http.Request) -> http.Response:
    return http.Response(BODY)


async def failing(_request: http.Request) -> http.Response:
    raise http.HTTPError(403)


async def wrong(_request: http.Request) -> object:
    return HTTP_404


async def timed_out(_request: http.Request) -> http.Response:
    """Wait for something else after it was cancelled."""
    try:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    except TimeoutError:
        return http.Response(BODY)
    raise AssertionError


async def suspended_again(_request: http.Request) -> http.Response:
    try:
        async with asyncio.timeout(0):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
    except TimeoutError:
        await asyncio.sleep(0)
    return http.Response(BODY)


async def failing_late(_request: http.Request) -> http.Response:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()
    raise AssertionError


async def huge_status() -> http.Response:
    return http.Response(BODY, status=10**30)


def forbidden(_request: http.Request) -> Any:
    raise http.HTTPError(403)


HTTP_404 = http.HTTPError(404)
HANDLERS: dict[str, tuple[Callable[[http.Request], Any], int]] = {
    "/text": (text, 200),
    "/plain": (plain, 200),
    "/failing": (failing, 403),
    "/wrong": (wrong, 500),
    "/timed-out": (timed_out, 200),
    "/suspended-again": (suspended_again, 200),
    "/failing-late": (failing_late, 500),
    "/forbidden": (forbidden, 403),
    "/partial": (functools.partial(text), 200),
    "/task": (lambda request: asyncio.ensure_future(plain(request)), 200),
    "/awaitable": (lambda _: Awaited(waiting()), 200),
    "/generator": (lambda _: generator(), 200),
    "/iterator": (lambda _: Awaited(iter([None])), 500),  # which returns None
    "/no-iterator": (lambda _: Awaited(7), 500),
    "/no-await": (lambda _: Awaited(None), 500),
    "/huge-status": (lambda _: huge_status(), 500),
    "/nothing": (lambda _: http.Response(BODY), 500),
}


def handle(request: http.Request) -> Awaitable[Any]:
    answered: Awaitable[Any] = HANDLERS[request.path][0](request)
    return answered


class Watching:
    """An observer, with which nothing is answered natively."""

    def request_started(self, *_: object) -> None:
        pass

    def request_ended(self, *_: object) -> None:
        pass

    opened = closed = request_ended


@pytest.mark.parametrize("observer", [None, Watching()])
async def test_handlers_of_every_kind(observer: Any) -> None:
    async with http.listen(ANY, handle, observer=observer) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            for path in HANDLERS:
                conn.write(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            for path, (_, status) in HANDLERS.items():
                got = await reply(conn)
                assert (path, got.status) == (path, status)
                assert got.body == BODY.encode() or status != 200
        service = http.service_of(listener)
        assert service.crashes == sum(status == 500 for _, status in HANDLERS.values())
        assert sum(service.responses.values()) == len(HANDLERS)


async def test_handlers_are_stepped_by_a_traced_interpreter() -> None:
    """With a tracer, as a debugger has, it steps what is awaited in another way."""
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        async with http.listen(ANY, handle) as listener:
            async with tcp.connect(listener.local_addr) as conn:
                for path, (_, status) in HANDLERS.items():
                    conn.write(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
                    assert (path, (await reply(conn)).status) == (path, status)
    finally:
        sys.settrace(before)


async def test_a_handler_that_nothing_can_be_thrown_into_ends_with_the_listener() -> None:
    waits = NoGenerator()
    async with http.listen(ANY, lambda _: Awaited(waits)) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            conn.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.wait_for(waits.begun.wait(), TIME)
            await asyncio.wait_for(listener.close(grace=0), TIME)
            with pytest.raises((EndOfStream, ConnectionResetError)):
                await conn.read(timeout=TIME)


@pytest.mark.parametrize(
    ("following", "then"), [(b"", None), (b"BAD\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n", None)]
)
async def test_a_handler_that_was_cancelled_is_the_last(following: bytes, then: int | None) -> None:
    async with http.listen(ANY, handle) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            conn.write(b"GET /timed-out HTTP/1.1\r\nhost: a\r\n\r\n" + following)
            conn.close_write()
            assert (await reply(conn)).status == 200
            if then is not None:
                assert (await reply(conn)).status == then
            with pytest.raises(EndOfStream):
                await conn.read(timeout=TIME)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_handler_ends_the_program(kind: type[BaseException]) -> None:
    async def interrupted(_request: http.Request) -> http.Response:
        raise kind

    async def main() -> None:
        async with http.listen(ANY, interrupted) as listener:
            async with tcp.connect(listener.local_addr) as conn:
                conn.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                await conn.read(timeout=TIME)

    with pytest.raises(kind), asyncio.Runner(loop_factory=silly.loop_factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("can_close", [True, False])
@pytest.mark.filterwarnings("ignore:the \\(type, exc, tb\\) signature:DeprecationWarning")
@pytest.mark.parametrize("how", ["close", "throw"])
async def test_a_handler_is_ended_from_outside(how: str, can_close: bool) -> None:
    """As the garbage collector closes the coroutines of a loop that is dropped."""
    ended: list[BaseException] = []
    begun = asyncio.Event()
    waits = NoGenerator()

    async def handler(_request: http.Request) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(error)
            raise
        return BODY

    handle = handler if can_close else lambda _: Awaited(waits)
    async with http.listen(ANY, handle) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            conn.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.wait_for((begun if can_close else waits.begun).wait(), TIME)
            await asyncio.sleep(0)
            (task,) = listener._course.handling
            coroutine = task.get_coro()
            if how == "close":
                coroutine.close()
            else:
                coroutine.throw(KeyError, "thrown", None)
                assert (await reply(conn)).status == 500
            task.cancel()
        await asyncio.wait_for(listener.close(grace=0), TIME)
    kinds = [GeneratorExit] if how == "close" else [KeyError]
    assert [type(error) for error in ended] == kinds * can_close


async def test_a_cancelled_handler_ends_its_connection() -> None:
    async def handler(request: http.Request) -> http.Response:
        task = asyncio.current_task()
        assert task is not None
        if request.path == "/cancelled":
            task.cancel()
            await asyncio.sleep(0)
        return http.Response(BODY)

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            conn.write(b"GET /cancelled HTTP/1.1\r\nhost: a\r\n\r\n")
            with pytest.raises((EndOfStream, ConnectionResetError)):
                await conn.read()
        async with tcp.connect(listener.local_addr) as conn:
            conn.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reply(conn)).body == BODY.encode()


async def test_it_is_known_where_a_handler_waits() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waiting_for_it(_request: http.Request) -> str:
        begun.set()
        await go_on.wait()
        return BODY

    async with http.listen(ANY, waiting_for_it) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            conn.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            async with asyncio.timeout(TIME):
                await begun.wait()
                await asyncio.sleep(0)  # until it waits
            groups = inspection.connections(asyncio.get_running_loop())
            (group,) = (each for each in groups if each["listener"] == listener.local_addr)
            assert "waiting_for_it" in group["connections"][0]["at"]
            go_on.set()
            await reply(conn)


async def test_a_client_that_does_not_read_is_not_served_further() -> None:
    served = 0

    async def handler(_request: http.Request) -> bytes:
        nonlocal served
        served += 1
        return bytes(60_000)

    async with http.listen(ANY, handler, limits=Limits(max_pipelined=1000)) as listener:
        async with tcp.connect(listener.local_addr, read_limit=1000) as conn:
            conn.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 400)
            async with asyncio.timeout(TIME):
                before = -1
                while before != served or not listener.stats.unsent_bytes:
                    before = served
                    await asyncio.sleep(0.01)
            assert served < 400
            assert listener.stats.unsent_bytes < 1_000_000
            conn.read_limit = 1_000_000
            for _ in range(400):
                assert len((await reply(conn)).body) == 60_000
    assert served == 400


@pytest.mark.parametrize("method", ["native", "observed"])
def test_the_time_that_a_body_takes_is_that_of_its_own_request(method: str) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(await request.body())

    async def main() -> list[int]:
        limits = Limits(read_deadline=10, min_receive_rate=None)
        observer: Any = Watching() if method == "observed" else None
        statuses = []
        async with http.listen(ANY, handler, limits=limits, observer=observer) as listener:
            async with tcp.connect(listener.local_addr) as conn:
                for _ in range(3):
                    conn.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n")
                    await asyncio.sleep(6)
                    conn.write(b"ok")
                    statuses.append((await reply(conn)).status)
        return statuses

    assert run_virtual(main()) == [200] * 3
