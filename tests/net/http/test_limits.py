"""What HTTP clients may use, and that it is counted when they want more."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from silly.errors import EndOfStream
from silly.net import http, tcp
from silly.net.http.session import ServerSession
from silly.net.limits import Limits
from tests.net.http.wire import ANY, exchange

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


async def answer(request: http.Request) -> http.Response:
    await request.body()
    return http.Response("ok\n")


def statuses(received: bytes) -> list[int]:
    return [int(each) for each in re.findall(rb"^HTTP/1\.1 (\d+)", received, re.MULTILINE)]


@pytest.mark.parametrize("request_", [GET, POST, CHUNKED])
async def test_requests_in_the_pipeline(request_: bytes) -> None:
    limits = Limits(max_pipelined=5)
    async with http.listen(ANY, answer, limits=limits) as listener:
        assert statuses(await exchange(listener.local_addr, request_ * 5)) == [200] * 5
        assert listener.stats.ended == {}
        assert statuses(await exchange(listener.local_addr, request_ * 9)) == [200] * 5 + [429]
        assert statuses(await exchange(listener.local_addr, request_ * 5)) == [200] * 5
    assert listener.stats.ended == {"max_pipelined": 1}


@pytest.mark.no_engine
@pytest.mark.parametrize("first", [0, 1])
def test_the_session_keeps_those_that_came_first(first: int) -> None:
    session = ServerSession(Limits(max_pipelined=3))
    targets = [b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number for number in range(6)]
    session.feed(b"".join(targets[:first]))
    session.feed(b"".join(targets[first:]))
    taken = []
    while request := session.take(None, None):
        taken.append(request.target)
    assert taken == ["/0", "/1", "/2"]
    assert (session.limit, session.error is not None) == ("max_pipelined", True)


@pytest.mark.parametrize(
    ("limit", "value", "data", "status"),
    [
        (
            "max_head_bytes",
            100,
            b"GET / HTTP/1.1\r\nhost: a\r\na: " + b"b" * 300 + b"\r\n\r\n",
            431,
        ),
        ("max_headers", 2, GET[:-2] + b"a: b\r\nc: d\r\n\r\n", 431),
        ("max_target_bytes", 10, b"GET /aaaaaaaaaaaaaa HTTP/1.1\r\nhost: a\r\n\r\n", 414),
        ("max_body_bytes", 1, POST, 413),
        ("max_body_bytes", 1, CHUNKED, 413),
    ],
)
async def test_what_a_client_is_refused_for_is_counted(
    limit: str, value: Any, data: bytes, status: int
) -> None:
    limits = replace(Limits(), **{limit: value})
    async with http.listen(ANY, answer, limits=limits) as listener:
        assert statuses(await exchange(listener.local_addr, data)) == [status]
    assert listener.stats.ended == {limit: 1}


async def test_a_head_that_takes_too_long_is_counted() -> None:
    async with http.listen(ANY, answer, limits=Limits(head_timeout=0.05)) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(GET[:10])
            received = b""
            with pytest.raises(EndOfStream):
                while True:
                    received += await conn.read()
    assert statuses(received) == [408]
    assert listener.stats.ended == {"head_timeout": 1}
