"""`silly.testing.ask`: a handler is asked as a server would ask it."""

from __future__ import annotations

import asyncio

import pytest

from silly import testing
from silly.net import http
from silly.net.limits import Limits


async def echo(request: http.Request) -> http.Response:
    if request.path == "/crash":
        raise ZeroDivisionError
    if request.path == "/stream":
        return http.Response(iter(["a", "b"]))
    if request.path == "/broken":
        return http.Response(iter([b"a", None]))  # type: ignore[arg-type]
    if request.path == "/gone":
        raise http.HTTPError(410, "gone")
    return http.Response(await request.body(), headers={"x": request.target})


async def test_a_handler_is_asked() -> None:
    reply = await testing.ask(echo, "POST", "/a b", params={"c": "d"}, data=b"text")
    assert (reply.status, reply.headers["x"], await reply.body()) == (200, "/a%20b?c=d", b"text")
    assert await (await testing.ask(echo, "GET", "/stream")).text() == "ab"
    assert (await testing.ask(echo, "GET", "/gone")).status == 410
    assert (await testing.ask(echo, "GET", "http://other/x")).headers["x"] == "/x"
    small = Limits(max_body_bytes=3)
    assert (await testing.ask(echo, "POST", "/", data=b"text", limits=small)).status == 413


async def test_what_a_handler_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await testing.ask(echo, "GET", "/crash")
    with pytest.raises(TypeError):
        await testing.ask(echo, "GET", "/broken")


@pytest.mark.no_engine
def test_time_can_be_virtual() -> None:
    async def slow(_: http.Request) -> http.Response:
        await asyncio.sleep(1000)
        return http.Response("late")

    async def main() -> str:
        with pytest.raises(TimeoutError):
            await testing.ask(slow, "GET", "/")
        return await (await testing.ask(slow, "GET", "/", timeout=None)).text()

    assert testing.run_virtual(main()) == "late"
