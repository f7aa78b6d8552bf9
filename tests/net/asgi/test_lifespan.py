"""Startup and shutdown of applications."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from silly.net import asgi, tcp
from silly.net.asgi.types import Receive, Scope, Send
from tests.net.asgi.applications import ANY, GET, application, respond

pytestmark = pytest.mark.no_engine


class App:
    """An application with a lifespan, which notes what happens to it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self.events.append((await receive())["type"])
            scope["state"]["answer"] = 42
            await send({"type": "lifespan.startup.complete"})
            self.events.append((await receive())["type"])
            await self.may_end.wait()
            await send({"type": "lifespan.shutdown.complete"})
            self.events.append("over")
        else:
            scope["state"]["answer"] += 1  # of this request only
            await respond(send, b"%d" % scope["state"]["answer"])


ALL = ["lifespan.startup", "lifespan.shutdown", "over"]


async def test_the_lifespan() -> None:
    app = App()
    listener = await asgi.listen(ANY, app)
    for _ in range(2):
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(GET)
            await conn.read(b"\r\n\r\n")
            assert await conn.read(2) == b"43"
    assert app.events == ALL[:1]
    await listener.close()
    assert app.events == ALL


async def test_an_application_is_started_once_for_all_its_listeners() -> None:
    app, other = App(), App()
    listeners = await asyncio.gather(*[asgi.listen(ANY, app) for _ in range(3)])
    elsewhere = await asgi.listen(ANY, other)
    assert app.events == other.events == ALL[:1]
    await listeners[0].close()
    await listeners[2].close()
    assert app.events == ALL[:1]
    await listeners[1].close()
    assert app.events == ALL
    again = await asgi.listen(ANY, app)
    assert app.events == [*ALL, ALL[0]]
    await again.close()
    await elsewhere.close()


async def test_a_listener_that_cannot_listen_ends_the_application() -> None:
    app = App()
    listener = await asgi.listen(ANY, App())
    with pytest.raises(OSError, match="in use"):
        await asgi.listen(listener.local_addr, app)
    assert app.events == ALL
    await listener.close()


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
    raise RuntimeError("no database")


async def test_an_application_that_cannot_start() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.failed"})

    for app, why in ((failing, "no database"), (silent, "it does not say why")):
        with pytest.raises(asgi.StartupError, match=f"the application did not start: {why}"):
            await asgi.listen(ANY, app)


async def test_an_application_that_does_not_start_in_time() -> None:
    cancelled = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    with pytest.raises(asgi.StartupError, match=r"the application did not start within 0.01 s"):
        await asgi.listen(ANY, app, startup_timeout=0.01)
    assert cancelled


async def test_an_application_without_a_lifespan(caplog: pytest.LogCaptureFixture) -> None:
    async def hello(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"hello")

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    for app, why in (
        (application(hello), "AssertionError"),
        (hello, "ValueError: ASGI: 'http.response.start' is not understood in a lifespan"),
        (nothing, "it does not answer"),
    ):
        await (await asgi.listen(ANY, app)).close()
        with pytest.raises(asgi.StartupError, match=f"the application has no lifespan: {why}"):
            await asgi.listen(ANY, app, lifespan="on")
    assert not caplog.messages


async def test_a_failure_before_the_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise ValueError("a failure of the test")

    await (await asgi.listen(ANY, app)).close()
    (message,) = caplog.messages
    assert message.endswith("in which the application failed: ValueError: a failure of the test")


@pytest.mark.parametrize(
    ("end", "text"),
    [
        ({"type": "lifespan.shutdown.failed", "message": "x"}, "did not end as it should: x"),
        ({"type": "lifespan.shutdown.failed"}, "did not end as it should: it does not say why"),
        (ValueError("a failure of the test"), "the lifespan of the application failed"),
        ({"type": "lifespan.startup.complete"}, "the lifespan of the application failed"),
    ],
)
async def test_failures_at_the_end(end: Any, text: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if isinstance(end, Exception):
            raise end
        await send(end)

    listener = await asgi.listen(ANY, app)
    await listener.close()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert text in caplog.messages[0]


async def test_the_traceback_of_a_failed_end_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send(
            {"type": "lifespan.shutdown.failed", "message": "Traceback ...\n  x\nError: y\n"}
        )
        raise ValueError("y")  # as Starlette

    await (await asgi.listen(ANY, app)).close()
    first, last = caplog.messages
    assert first == "the lifespan of the application failed"
    assert last == "the application did not end as it should: Error: y"


async def test_an_application_ends_although_listening_fails_and_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ending, may_end = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        ending.set()
        await may_end.wait()
        await send({"type": "lifespan.shutdown.complete"})

    with socket.create_server(("127.0.0.1", 0)) as sock:
        addr = f"127.0.0.1:{sock.getsockname()[1]}"
        listening = asyncio.create_task(asgi.listen(addr, app))
        await ending.wait()
        listening.cancel()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await listening
    assert not caplog.messages


async def test_a_second_close_does_not_wait_for_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("silly.net.listener._AFTER_CANCEL", 0.01)
    app = App()
    app.may_end.clear()
    listener = await asgi.listen(ANY, app)
    closing = listener.close(3600)
    while app.events != ALL[:2]:
        await asyncio.sleep(0)
    listener.close(0)
    await closing
    assert app.events == ALL[:2]


async def test_work_after_the_response_has_the_grace_period() -> None:
    may_end, done = asyncio.Event(), []

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"hello")
        try:
            await may_end.wait()
            done.append("finished")
        except asyncio.CancelledError:
            done.append("cancelled")
            raise

    for grace, end in ((3600.0, "finished"), (0.0, "cancelled")):
        listener = await asgi.listen(ANY, application(part), lifespan="off")
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(GET)
            await conn.read(b"hello")
        closing = listener.close(grace)
        for _ in range(5):
            await asyncio.sleep(0)
        may_end.set()
        await closing
        may_end.clear()
        assert done.pop() == end
