"""Server-sent events: what is sent, when nothing happens, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from silly.net import http, tcp
from silly.testing import run_virtual
from tests.net.http.client import listen


@pytest.mark.no_engine
def test_an_event_as_text() -> None:
    assert http.event("one") == "data: one\n\n"
    assert http.event("a\nb\r\nc\rd") == "data: a\ndata: b\ndata: c\ndata: d\n\n"
    assert http.event("", event="x", id="7", retry=500) == (
        "event: x\nid: 7\nretry: 500\ndata: \n\n"
    )
    for wrong in ("a\nb", "a\rb", "a\0b"):
        with pytest.raises(ValueError, match="cannot have line breaks"):
            http.event("x", id=wrong)


@pytest.mark.no_engine
def test_comments_are_sent_while_nothing_happens() -> None:
    async def source() -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(25)
        yield http.event("second", id="2")

    async def main(**options: Any) -> list[Any]:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        body: Any = http.events(source(), **options).body
        return [(each, loop.time() - begun) async for each in body]

    first, second = ("data: first\n\n", 0), ("id: 2\ndata: second\n\n", 25)
    assert run_virtual(main(keep_alive=10)) == [first, (":\n\n", 10), (":\n\n", 20), second]
    assert run_virtual(main(keep_alive=None)) == [first, second]
    assert len(run_virtual(main())) == 3


@pytest.mark.no_engine
def test_the_source_is_closed_at_once(caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    async def source(*, is_waiting: bool) -> AsyncIterator[str]:
        try:
            yield "one"
            if is_waiting:
                await asyncio.Event().wait()
            yield "two"
        finally:
            ended.append(is_waiting)

    async def main(*, is_waiting: bool) -> None:
        body: Any = http.events(source(is_waiting=is_waiting), keep_alive=1).body
        assert await anext(body) == "data: one\n\n"
        assert await anext(body) == (":\n\n" if is_waiting else "data: two\n\n")
        await body.aclose()

    for is_waiting in (True, False):
        run_virtual(main(is_waiting=is_waiting))
    assert ended == [True, False]
    assert not caplog.records


async def test_a_source_that_fails_cuts_the_connection() -> None:
    async def source() -> AsyncIterator[str]:
        yield "one"
        raise ZeroDivisionError

    async def handler(request: http.Request) -> http.Response:
        return http.events(source())

    listener = listen(handler)
    async with tcp.connect(listener.local_addr) as conn:
        conn.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await conn.read(b"\r\n\r\n", timeout=60)
        assert b"content-type: text/event-stream\r\n" in head
        assert b"cache-control: no-store\r\n" in head
        assert await conn.read(b"\n\n", timeout=60) == b"b\r\ndata: one\n\n"
        with pytest.raises((EOFError, OSError)):
            while True:
                assert b"0\r\n\r\n" not in await conn.read(timeout=60)
    assert http.service_of(listener).crashes == 1
    await listener.close()


async def test_a_client_that_leaves_ends_the_source() -> None:
    ended = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def handler(request: http.Request) -> http.Response:
        return http.events(source(), keep_alive=0.001)

    listener = listen(handler)
    conn = await tcp.connect(listener.local_addr)
    conn.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await conn.read(b"data: one\n\n", timeout=60)
    conn.abort()
    await asyncio.wait_for(ended.wait(), 60)
    await listener.close()


async def test_a_stream_can_end_when_its_listener_begins_to_close() -> None:
    closed = asyncio.Event()
    streaming = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        try:
            yield "first"
            streaming.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def handler(request: http.Request) -> http.Response:
        return http.events(source(), until_draining=request)

    listener = listen(handler)
    async with tcp.connect(listener.local_addr) as conn:
        await conn.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await streaming.wait()
        closing = listener.close(grace=60)
        received = b""
        with pytest.raises(EOFError):
            while True:
                received += await conn.read(timeout=30)
        await closing
    assert received.endswith(b"data: first\n\n\r\n0\r\n\r\n")
    assert closed.is_set()


async def test_a_handler_can_learn_of_a_drain_and_idle_connections_end_as_before() -> None:
    told = asyncio.Event()
    begun = asyncio.Event()

    async def handler(request: http.Request) -> http.Response:
        if request.path == "/quick":
            return http.Response("quick")
        request.conn.on_draining(told.set)
        begun.set()
        await told.wait()
        return http.Response("told")

    listener = listen(handler)
    async with tcp.connect(listener.local_addr) as idle, tcp.connect(listener.local_addr) as conn:
        for each, path in ((idle, b"/quick"), (conn, b"/long")):
            await each.write(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path)
        await begun.wait()
        assert b"quick" in await idle.read(b"quick")
        closing = listener.close(grace=60)
        with pytest.raises(EOFError):
            await idle.read(timeout=30)
        assert b"connection: close" in await conn.read(b"told", timeout=30)
        await closing
