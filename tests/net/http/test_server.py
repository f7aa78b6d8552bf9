"""The server over real connections: messages, and how connections go on or end."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from silly.errors import EndOfStream
from silly.net import http, tcp
from silly.net.conn import Conn
from silly.net.http import connection
from silly.net.http.session import ServerSession
from silly.net.limits import Limits
from tests.net.http.wire import ANY, TIME, ask, exchange, reply, rest
from tests.net.tls import certificates

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def get(target: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: a", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body: bytes, *fields: str) -> bytes:
    return get("/", f"Content-Length: {len(body)}", *fields, method="POST") + body


async def anything(request: http.Request) -> http.Response:
    """Answer with what came."""
    body = await request.body()
    return http.json(
        {
            "method": request.method,
            "target": request.target,
            "path": request.path,
            "query": request.query.pairs,
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, value in request.raw_headers
            ],
            "cookies": request.cookies,
            "body": body.decode("latin-1"),
            "trailers": dict(request.trailers),
        }
    )


async def hello(request: http.Request) -> str:
    return "hello"


async def told(data: bytes, method: str = "GET") -> dict[str, Any]:
    """Return what `anything` says of the request *data*."""
    async with http.listen(ANY, anything) as listener:
        got, _ = await ask(listener.local_addr, data, method)
    assert got.status == 200, got
    value: dict[str, Any] = json.loads(got.body)
    return value


async def until(condition: Any) -> None:
    async with asyncio.timeout(TIME):
        while not condition():
            await asyncio.sleep(0.001)


# ------------------------------------------------------------------------- keep-alive


async def test_a_connection_serves_many_requests() -> None:
    async with http.listen(ANY, hello) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            for _ in range(3):
                await conn.write(GET)
                got = await reply(conn)
                assert (got.status, got.body, got.ends) == (200, b"hello", False)
        assert listener.stats.accepted == 1
    assert http.service_of(listener).responses == {("GET", 200): 3}


async def test_pipelined_requests_are_answered_in_order_and_in_one_send() -> None:
    async def handler(request: http.Request) -> str:
        return request.path

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(b"".join(get(f"/{number}") for number in range(50)))
            first = await conn.read()
            assert first.count(b"HTTP/1.1 200") == 50
            assert [first.find(b"\r\n\r\n/%d" % number) for number in range(50)] == sorted(
                first.find(b"\r\n\r\n/%d" % number) for number in range(50)
            )


async def test_pipelined_requests_with_bodies_and_slow_handlers() -> None:
    async def handler(request: http.Request) -> bytes:
        body = await request.body()
        if body == b"slow":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return body

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            bodies = [b"slow", b"", b"quick", b"slow", b"x" * 100_000]
            await conn.write(b"".join(post(body) for body in bodies))
            assert [(await reply(conn)).body for _ in bodies] == bodies


@pytest.mark.parametrize(
    ("version", "fields", "ends"),
    [
        ("1.1", [], False),
        ("1.1", ["Connection: close"], True),
        ("1.1", ["Connection: CLOSE"], True),
        ("1.1", ["Connection: foo, close"], True),
        ("1.1", ["Connection: foo", "Connection: bar,close,baz"], True),
        ("1.1", ["Connection: keep-alive"], False),
        ("1.1", ["Connection: closed"], False),
        ("1.0", [], True),
        ("1.0", ["Connection: keep-alive"], False),
        ("1.0", ["Connection: foo, Keep-Alive"], False),
        ("1.0", ["Connection: keep-alive, close"], True),
    ],
)
async def test_whether_a_connection_goes_on(version: str, fields: list[str], ends: bool) -> None:
    async with http.listen(ANY, hello) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(get("/", *fields, version=version))
            got = await reply(conn)
            assert (got.body, got.ends) == (b"hello", ends)
            if version == "1.0" and not ends:
                assert got.headers["connection"] == "keep-alive"
            if ends:
                assert await rest(conn) == b""
            else:
                await conn.write(GET)
                assert (await reply(conn)).status == 200


async def test_what_follows_the_last_request_is_ignored() -> None:
    async with http.listen(ANY, hello) as listener:
        data = get("/", "Connection: close") + GET + b"garbage"
        assert (await exchange(listener.local_addr, data)).count(b"HTTP/1.1") == 1
    assert http.service_of(listener).responses == {("GET", 200): 1}


async def test_an_idle_connection_keeps_nothing_of_its_requests() -> None:
    async with http.listen(ANY, anything) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(post(b"x" * 1000))
            assert (await reply(conn)).status == 200
            (connection,) = http.service_of(listener).connections
            await until(lambda: connection._session.is_waiting)
            gc.collect()
            assert not [each for each in gc.get_objects() if type(each) is http.Request]


# ------------------------------------------------------------------------- responses


@pytest.mark.parametrize("body", ["text", b"bytes", ["pie", b"ces"]], ids=["str", "bytes", "list"])
async def test_head_has_the_fields_of_get_and_no_body(body: Any) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(body, headers={"x-a": "b"})

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(GET)
            whole = await reply(conn)
            await conn.write(get("/", method="HEAD"))
            head = await reply(conn, "HEAD")
            whole.headers.pop("date")
            assert head.headers.pop("date")
            assert head.headers == whole.headers
            await conn.write(GET)
            assert (await reply(conn)).body == whole.body


@pytest.mark.parametrize("body", ["text", b"", ["pie", b"ces"]], ids=["str", "nothing", "list"])
@pytest.mark.parametrize("status", [204, 205, 304])
async def test_statuses_without_a_body(status: int, body: Any) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(body, status)

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            for _ in range(2):
                await conn.write(GET)
                got = await reply(conn)
                assert (got.status, got.body) == (status, b"")
                assert "transfer-encoding" not in got.headers
                assert got.headers.get("content-length") == ("0" if status == 205 else None)


async def test_pieces_are_sent_as_they_are_made() -> None:
    proceed = asyncio.Event()

    async def pieces() -> AsyncIterator[Any]:
        yield "text "
        await proceed.wait()
        for piece in (b"", "", b"bytes ", bytearray(b"array "), memoryview(b"view")):
            yield piece

    async def handler(request: http.Request) -> http.Response:
        return http.Response(pieces(), content_type="text/plain")

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(GET)
            assert (await conn.read(b"\r\n\r\n5\r\ntext \r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
            proceed.set()
            received = b""
            while not received.endswith(b"0\r\n\r\n"):
                received += await conn.read()
            assert received == b"6\r\nbytes \r\n6\r\narray \r\n4\r\nview\r\n0\r\n\r\n"


@pytest.mark.parametrize("fields", [[], ["Connection: keep-alive"]])
async def test_pieces_for_http_1_0_end_with_the_connection(fields: list[str]) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one "
        yield b"two"

    async def handler(request: http.Request) -> http.Response:
        return http.Response(pieces())

    async with http.listen(ANY, handler) as listener:
        got, _ = await ask(listener.local_addr, get("/", *fields, version="1.0"))
        assert (got.body, got.ends) == (b"one two", True)
        assert "transfer-encoding" not in got.headers


async def test_a_generator_is_closed_when_the_client_has_gone() -> None:
    ended = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.set()

    async def handler(request: http.Request) -> http.Response:
        return http.Response(pieces())

    async with http.listen(ANY, handler) as listener:
        conn = await tcp.connect(listener.local_addr)
        await conn.write(GET)
        await conn.read(b"\r\n\r\n")
        conn.abort()
        async with asyncio.timeout(TIME):
            await ended.wait()
    assert http.service_of(listener).crashes == 0


async def test_a_client_that_stops_reading_stops_the_stream() -> None:
    made = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(16_384):  # 1 GiB
            yield b"x" * 65536
            made += 65536

    async def handler(request: http.Request) -> http.Response:
        return http.Response(pieces())

    limits = Limits(min_send_rate=1e9, send_window=0.2)
    async with http.listen(ANY, handler, limits=limits) as listener:
        async with tcp.connect(listener.local_addr, read_limit=1000) as conn:
            await conn.write(GET)
            await conn.read(b"\r\n\r\n")
            await until(lambda: listener.stats.ended.get("min_send_rate"))
        assert 0 < made < 64 * 2**20  # what the kernel's buffers hold, and ours
    assert http.service_of(listener).crashes == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x\r\ny", "z"),
        ("x", "y\r\nSet-Cookie: a=b"),
        ("x", "y\nz"),
        ("x", "y\0"),
        ("x y", "z"),
        ("", "z"),
        ("x", "\u20ac"),
        ("content-type", "text/plain\r\nx: y"),
        ("content-length", "7"),
        ("Transfer-Encoding", "chunked"),
    ],
)
def test_header_injection_raises(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"header field|set by the server"):
        http.Response("", headers={name: value})
    with pytest.raises(ValueError, match=r"header field|set by the server"):
        http.Response().add_header(name, value)


def test_injection_elsewhere_raises() -> None:
    for make in (
        lambda: http.Response("", content_type="text/plain\r\nx: y"),
        lambda: http.redirect("/\r\nx: y"),
        lambda: http.Response().set_cookie("a", "b\r\nx: y"),
        lambda: http.Response().set_cookie("a", "b", path="/; x"),
        lambda: http.Response().set_cookie("a=b", "c"),
        lambda: http.event("x", event="a\nb"),
        lambda: http.Response("", 1000),
        lambda: http.Response("", 101),
    ):
        with pytest.raises(ValueError, match=r"header field|cookie|line breaks|status"):
            make()


# --------------------------------------------------------------------------- requests


async def test_chunks_with_extensions_and_trailers() -> None:
    data = (
        get("/", "Transfer-Encoding: chunked", "Trailer: X-Sum", method="POST")
        + b'5;a=b;c="d e"\r\nhello\r\n1;x\r\n \r\n5\r\nworld\r\n'
        + b"0;last\r\nX-Sum: 7\r\nX-B: 8\r\n\r\n"
    )
    value = await told(data, "POST")
    assert value["body"] == "hello world"
    assert value["trailers"] == {"x-sum": "7", "x-b": "8"}


async def test_what_is_strange_in_a_request() -> None:
    got = await told(get("/", "Cookie: a=1; b@c=2; d=3", "Cookie: a=4"))
    assert got["cookies"] == {"a": "4", "d": "3"}
    async with http.listen(ANY, anything) as listener:
        reply, _ = await ask(listener.local_addr, get("/?" + "a&" * 1001))
        assert (reply.status, reply.body) == (400, b"the query: Max number of fields exceeded\n")


async def test_what_a_handler_has_of_a_request() -> None:
    async def handler(request: http.Request) -> str:
        request.state["a"] = 1
        assert request.state == {"a": 1}
        assert request.cookies is request.cookies
        assert repr(request) == "<Request POST /x?y>"
        assert await request.body() == b"12345"
        assert [piece async for piece in request] == [b"12345"]
        return "done"

    async with http.listen(ANY, handler) as listener:
        got, _ = await ask(listener.local_addr, post(b"12345").replace(b"/", b"/x?y", 1), "POST")
        assert (got.status, got.body) == (200, b"done")
    with pytest.raises(TypeError, match="handler must be a coroutine function"):
        http.listen(ANY, None)  # type: ignore[arg-type]


async def test_absolute_form_names_the_host() -> None:
    value = await told(get("http://b.example:81/x?y=z"))
    assert (value["target"], value["path"]) == ("/x?y=z", "/x")
    assert value["headers"] == [["host", "b.example:81"]]
    assert (await told(get("http://b.example?y")))["target"] == "/?y"


async def test_options_asterisk() -> None:
    value = await told(get("*", method="OPTIONS"), "OPTIONS")
    assert (value["method"], value["path"]) == ("OPTIONS", "*")


async def test_percent_encoding() -> None:
    value = await told(get("/a%20b/%C3%A9%2F%25?x=%C3%A9+%26&y&x=2"))
    assert value["path"] == "/a b/\u00e9/%"
    assert value["query"] == [["x", "\u00e9 &"], ["y", ""], ["x", "2"]]
    async with http.listen(ANY, anything) as listener:
        assert (await ask(listener.local_addr, get("/%ff")))[0].status == 400


async def test_fields_that_occur_twice() -> None:
    seen: list[http.Request] = []

    async def handler(request: http.Request) -> str:
        seen.append(request)
        return ""

    async with http.listen(ANY, handler) as listener:
        await ask(
            listener.local_addr,
            get("/", "X-A: 1", "x-a:   2  ", "Cookie: a=1; b=2", 'cookie: c="3"; bad; a=4'),
        )
    (request,) = seen
    assert request.headers["X-a"] == "1, 2"
    assert request.headers.get_all("x-A") == ["1", "2"]
    assert "x-b" not in request.headers
    assert request.headers.get("x-b") is None
    assert request.cookies == {"a": "4", "b": "2", "c": "3"}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_upgrades_that_are_not_made(version: str) -> None:
    """The bytes that follow are HTTP."""
    fields = ["Connection: keep-alive, Upgrade", "Upgrade: websocket"]
    async with http.listen(ANY, anything) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            for body in (b"", b"body"):
                first = get("/1", *fields, f"Content-Length: {len(body)}", version=version) + body
                await conn.write(first + first + get("/3"))
                targets = [json.loads((await reply(conn)).body)["target"] for _ in range(3)]
                assert targets == ["/1", "/1", "/3"]
                await conn.write(get("/4"))
                assert (await reply(conn)).status == 200


# -------------------------------------------------------------------------- 100-continue


async def test_continue_is_sent_when_the_body_is_asked_for() -> None:
    asked = asyncio.Event()

    async def handler(request: http.Request) -> bytes:
        await asked.wait()
        return await request.body()

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(get("/", "Expect: 100-Continue", "Content-Length: 5", method="PUT"))
            with pytest.raises(TimeoutError):
                await conn.read(timeout=0.05)
            asked.set()
            assert (await reply(conn)).status == 100
            await conn.write(b"hello")
            got = await reply(conn)
            assert (got.status, got.body, got.ends) == (200, b"hello", False)


async def test_continue_is_not_sent_for_a_body_that_has_come() -> None:
    async with http.listen(ANY, anything) as listener:
        for data in (
            post(b"hello", "Expect: 100-continue"),
            get("/", "Expect: 100-continue", "Content-Length: 0", method="POST"),
            post(b"hello", "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0"),
        ):
            got, _ = await ask(listener.local_addr, data)
            assert got.status == 200


async def test_who_is_not_told_to_continue_may_not_send() -> None:
    """So the connection cannot go on."""
    async with http.listen(ANY, hello) as listener:
        data = get("/", "Expect: 100-continue", "Content-Length: 5", method="PUT")
        got, after = await ask(listener.local_addr, data)
        assert (got.status, got.ends, after) == (200, True, b"")


# ------------------------------------------------------------------------------ failures


async def test_a_handler_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: http.Request) -> str:
        if request.path == "/bad":
            raise RuntimeError("on purpose")
        return "ok"

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            for target, status in (("/bad", 500), ("/", 200), ("/bad", 500), ("/", 200)):
                await conn.write(get(target))
                got = await reply(conn)
                assert (got.status, got.ends) == (status, False)
                assert b"purpose" not in got.body
    service = http.service_of(listener)
    assert service.crashes == 2
    assert service.responses == {("GET", 500): 2, ("GET", 200): 2}
    assert [record.name for record in caplog.records if record.exc_info] == ["silly.http"]
    assert listener.stats.handler_errors_by_type == {"RuntimeError": 2}


async def test_a_response_that_is_cut_off_is_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: http.Request) -> http.Response:
        if request.path == "/bad":
            await gone.wait()
            raise RuntimeError("on purpose")
        return http.Response(b"x" * 65536 for _ in range(1000))

    caplog.set_level(logging.INFO, "silly.access")
    gone = asyncio.Event()
    async with http.listen(ANY, handler, access_log=True) as listener:
        service = http.service_of(listener)
        conn = await tcp.connect(listener.local_addr)
        await conn.write(GET)
        await conn.read(b"\r\n\r\n")
        conn.abort()
        await until(lambda: service.responses == {("GET", 200): 1})
        conn = await tcp.connect(listener.local_addr)
        await conn.write(get("/bad"))
        await until(lambda: any(each.stats.bytes_in for each in conns_of(listener)))
        conn.abort()
        gone.set()
        await until(lambda: service.responses == {("GET", 200): 1, ("GET", 500): 1})
    assert service.crashes == 1
    lines = [record.getMessage() for record in caplog.records if record.name == "silly.access"]
    assert '"GET / HTTP/1.1" 200 -' in lines[0]


@pytest.mark.parametrize("value", [None, 7, {"a": "dict"}], ids=["None", "int", "dict"])
async def test_a_handler_that_returns_something_else(value: Any) -> None:
    async def handler(request: http.Request) -> Any:
        return value

    async with http.listen(ANY, handler) as listener:
        assert (await ask(listener.local_addr, GET))[0].status == 500
    assert http.service_of(listener).crashes == 1


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_body_that_fails_cuts_the_connection(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"some"
        await sent.wait()
        raise RuntimeError("on purpose")

    async def handler(request: http.Request) -> http.Response:
        return http.Response(pieces())

    sent = asyncio.Event()
    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(get("/", version=version))
            await conn.read(b"some")
            sent.set()
            with pytest.raises(ConnectionResetError):
                await rest(conn)
    assert http.service_of(listener).crashes == 1
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_http_error() -> None:
    async def handler(request: http.Request) -> str:
        if request.path == "/":
            raise http.HTTPError(404)
        raise http.HTTPError(429, "slow down", {"retry-after": "7"})

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(GET + get("/x"))
            first, second = await reply(conn), await reply(conn)
    assert (first.status, first.body) == (404, b"Not Found\n")
    assert (second.status, second.body) == (429, b"slow down\n")
    assert second.headers["retry-after"] == "7"
    assert http.service_of(listener).crashes == 0


# ------------------------------------------------------------------------ unread bodies


async def test_a_small_body_that_nobody_reads() -> None:
    async with http.listen(ANY, hello) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(post(b"x" * 200_000) + GET)
            for _ in range(2):
                got = await reply(conn)
                assert (got.status, got.ends) == (200, False)


async def test_a_small_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not send the rest of it soon after the response loses the connection."""
    monkeypatch.setattr(connection, "DISCARD_TIME", 0.01)
    async with http.listen(ANY, hello) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(post(b"12345")[:-1])
            got = await reply(conn)
            assert (got.status, got.body, got.ends) == (200, b"hello", False)
            assert await rest(conn) == b""
        assert http.service_of(listener).crashes == 0


@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "chunked"])
async def test_a_large_body_that_nobody_reads(chunked: bool) -> None:
    """The client is still sending when the response comes, and gets it whole."""

    async def handler(request: http.Request) -> bytes:
        return b"y" * 1_000_000

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            size = 8 * 2**20
            if chunked:
                data = b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"
                head = get("/", "Transfer-Encoding: chunked", method="POST")
            else:
                data = b"x" * size
                head = get("/", f"Content-Length: {size}", method="POST")
            await conn.write(head)
            for start in range(0, len(data), 65536):
                await conn.write(data[start : start + 65536])
            got = await reply(conn)
            assert (got.status, got.body, got.ends) == (200, b"y" * 1_000_000, True)
            assert await rest(conn) == b""


async def test_an_error_before_a_body_is_read() -> None:
    async def handler(request: http.Request) -> str:
        raise http.HTTPError(403)

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(post(b"x" * 100_000) + GET)
            for _ in range(2):
                got = await reply(conn)
                assert (got.status, got.ends) == (403, False)


async def test_a_body_that_is_read_in_part() -> None:
    async def handler(request: http.Request) -> str:
        async for piece in request:
            return str(len(piece) > 0)
        return "nothing"

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            for _ in range(2):
                await conn.write(post(b"x" * 100_000) + post(b""))
                assert [(await reply(conn)).body for _ in range(2)] == [b"True", b"nothing"]


async def test_a_body_that_is_invalid_while_it_is_answered() -> None:
    """A stream that reads the request cannot be finished: the connection is cut."""

    async def handler(request: http.Request) -> http.Response:
        return http.Response(request)

    async with http.listen(ANY, handler) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(get("/", "Transfer-Encoding: chunked", method="POST") + b"1\r\nx\r\n")
            assert (await conn.read(b"x\r\n")).startswith(b"HTTP/1.1 200")
            await conn.write(b"-1\r\n")
            with pytest.raises(ConnectionResetError):
                await rest(conn)
    assert http.service_of(listener).crashes == 0


# ------------------------------------------------------------------------------- limits


SMALL = Limits(max_head_bytes=1000, max_headers=5, max_target_bytes=200, max_body_bytes=1000)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post(b"x" * 1001), 413),
        (get("/" + "x" * 200), 414),
        (get("/", *[f"X-{number}: 1" for number in range(5)]), 431),
        (get("/", "X: " + "y" * 1000), 431),
        (get("/", *["A: b"] * 9, " bad\0"), 400),  # the first fault counts
        (get("/", "Expect: 200-ok"), 417),
        (get("/", "Transfer-Encoding: gzip, chunked"), 501),
        (get("a:1", method="CONNECT"), 501),
        (get("/", version="2.0"), 505),
        (get("/", version="1.2"), 505),
        (b"\x16\x03\x01\x00\xf1\x01\x00\x00\xed\x03\x03", 400),  # TLS
        (get("/", method="BREW"), 400),
        (get("/", "Host: b"), 400),
    ],
)
async def test_refused_requests(data: bytes, status: int) -> None:
    async with http.listen(ANY, hello, limits=SMALL) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(GET + data)
            assert (await reply(conn)).status == 200
            got = await reply(conn)
            assert (got.status, got.ends) == (status, True)
            assert await rest(conn) == b""
        assert listener.stats.handler_errors == 0
    assert http.service_of(listener).responses == {("GET", 200): 1, ("-", status): 1}


def test_a_defect_is_no_fault_of_the_client() -> None:
    class Defective(ServerSession):
        def on_url(self, url: bytes) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Defective(Limits()).feed(GET.replace(b"GET", b"PURGE"))


async def test_a_chunked_body_that_is_too_long() -> None:
    async with http.listen(ANY, anything, limits=SMALL) as listener:
        data = get("/", "Transfer-Encoding: chunked", method="POST") + (b"64\r\n" + b"x" * 100)
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(data)
            for _ in range(9):
                await conn.write(b"\r\n64\r\n" + b"x" * 100)
            await conn.write(b"\r\n1\r\nx")
            got = await reply(conn)
            assert (got.status, got.ends) == (413, True)
    assert http.service_of(listener).responses == {("POST", 413): 1}


async def test_too_many_trailers() -> None:
    async with http.listen(ANY, anything, limits=SMALL) as listener:
        head = get("/", "Transfer-Encoding: chunked", method="POST")
        for count, status in ((5, 200), (6, 431)):
            data = head + b"0\r\n" + b"A: b\r\n" * count + b"\r\n"
            got, _ = await ask(listener.local_addr, data)
            assert got.status == status


async def test_a_body_that_is_too_long_is_not_asked_for() -> None:
    """And a client that sends it all the same gets the response."""
    size = 8 * 2**20
    async with http.listen(ANY, anything, limits=SMALL) as listener:
        head = get("/", "Expect: 100-continue", f"Content-Length: {size}", method="POST")
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(head)
            for _ in range(size // 65536):
                await conn.write(b"x" * 65536)
            got = await reply(conn)
            assert (got.status, got.ends) == (413, True)
            assert await rest(conn) == b""


@pytest.mark.parametrize(
    "head",
    [
        get("/", "Content-Length: 5000000", method="POST"),
        get("/", "Content-Length: 5000000", "Expect: 100-continue", method="POST"),
        get("/", "Content-Length: 900", method="POST") + b"x",  # the handler reads none of it
        b"POST / HTTP/9.9\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n",
    ],
)
async def test_a_client_that_is_refused_while_it_sends_is_not_reset(head: bytes) -> None:
    """Even if nothing of it was on its way at that time: it would lose the response."""

    async def handler(request: http.Request) -> http.Response:
        if request.headers.get("Content-Length") == "900":
            return http.Response("no\n", 403, headers={"Connection": "close"})
        return await anything(request)

    async with http.listen(ANY, handler, limits=SMALL) as listener:
        async with tcp.connect(listener.local_addr) as conn, asyncio.timeout(20):
            await conn.write(head)
            while not listener.stats.accepted or listener._course.handling:
                await asyncio.sleep(0)
            for _ in range(10):
                await conn.write(b"x" * 64)
                await asyncio.sleep(0)
            got = await reply(conn)
            assert got.status >= 400
            assert await rest(conn) == b""


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
        b"GET / HTTP/1.1\r\nHost: a\r\nX",
        b"GET /",
        b"GET / HTTP/1.1\r\nHost: a\r\nX:",  # spaces follow
    ],
)
async def test_an_endless_line(start: bytes) -> None:
    more = b" " if start.endswith(b":") else b"y"
    async with http.listen(ANY, hello, limits=SMALL) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(start)
            replying = asyncio.create_task(reply(conn))
            sent = 0
            while not replying.done():
                await conn.write(more)
                sent += 1
                await asyncio.sleep(0)
            assert (await replying).status in (414, 431)
            assert sent < 100_000
    assert listener.stats.handler_errors == 0


@pytest.mark.parametrize("start", [b"5;x=", b"0\r\nX: "], ids=["extension", "trailer"])
async def test_an_endless_line_in_a_body(start: bytes) -> None:
    async with http.listen(ANY, anything, limits=SMALL) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(get("/", "Transfer-Encoding: chunked", method="POST") + start)
            replying = asyncio.create_task(reply(conn))
            while not replying.done():
                await conn.write(b"y" * 10)
                await asyncio.sleep(0)
            assert (await replying).status == 431
            assert await rest(conn) == b""


async def test_a_slow_head() -> None:
    async with http.listen(ANY, hello, limits=Limits(head_timeout=0.05)) as listener:
        got, after = await ask(listener.local_addr, b"GET / HTTP/1.1\r\nHost")
        assert (got.status, got.ends, after) == (408, True, b"")
    assert http.service_of(listener).responses == {("-", 408): 1}


async def test_a_client_that_was_too_slow_is_not_waited_for() -> None:
    async with http.listen(ANY, hello, limits=Limits(head_timeout=0.05)) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(b"GET / HTTP/1.1\r\nHost")
            assert (await reply(conn)).status == 408
            assert await rest(conn) == b""
            assert not listener.connections
            assert not listener._course.lingering


async def test_a_slow_body() -> None:
    limits = Limits(read_deadline=0.05, min_receive_rate=1e6)
    async with http.listen(ANY, anything, limits=limits) as listener:
        data = get("/", "Content-Length: 10", method="POST") + b"some"
        got, after = await ask(listener.local_addr, data)
        assert (got.status, got.ends, after) == (408, True, b"")
    assert http.service_of(listener).responses == {("POST", 408): 1}


@pytest.mark.parametrize("data", [b"GET / HT", post(b"12345")[:-1]], ids=["head", "body"])
async def test_a_limit_of_the_connection_within_a_request(data: bytes) -> None:
    """It ends the connection: there is nobody to be answered."""
    async with http.listen(ANY, anything, limits=Limits(idle_timeout=0.05)) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(data)
            with pytest.raises((ConnectionError, EndOfStream)):
                await conn.read(timeout=TIME)
        await until(lambda: not listener.connections)
        assert listener.stats.ended == {"idle_timeout": 1}
        assert http.service_of(listener).responses == {}
        assert http.service_of(listener).crashes == 0


@pytest.mark.parametrize("first", [GET, b"", b"\r\n"], ids=["a request", "nothing", "a line end"])
async def test_idle_connections_are_closed(first: bytes) -> None:
    async with http.listen(ANY, hello, limits=Limits(keep_alive_timeout=0.1)) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(first)
            if first == GET:
                assert (await reply(conn)).status == 200
            assert await rest(conn) == b""
        assert listener.stats.handler_errors == 0


# ------------------------------------------------------------------------------ draining


async def test_draining() -> None:
    """Idle connections end at once, and running requests are finished."""
    started, proceed = asyncio.Event(), asyncio.Event()

    async def handler(request: http.Request) -> str:
        if request.path == "/slow":
            started.set()
            await proceed.wait()
        return "done"

    listener = http.listen(ANY, handler)
    async with (
        tcp.connect(listener.local_addr) as idle,
        tcp.connect(listener.local_addr) as new,
        tcp.connect(listener.local_addr) as busy,
    ):
        await idle.write(GET)
        await reply(idle)
        await busy.write(get("/slow") + GET)
        await started.wait()
        closing = asyncio.ensure_future(listener.close(grace=TIME))
        assert await rest(idle) == b""
        assert await rest(new) == b""
        proceed.set()
        got = await reply(busy)
        assert (got.body, got.ends) == (b"done", True)
        assert await rest(busy) == b""
        await closing
    assert listener.stats.handler_errors == 0


@pytest.mark.parametrize("state", ["in the backlog", "new", "used"])
async def test_requests_on_their_way_when_draining_begins(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered, and the connection ends."""
    monkeypatch.setattr(connection, "IN_FLIGHT", TIME)
    monkeypatch.setattr(connection, "FIRST_REQUEST", TIME)
    loop = asyncio.get_running_loop()
    listener = http.listen(ANY, anything)
    host, _, port = listener.local_addr.rpartition(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.setblocking(False)
        if state != "in the backlog":
            await until(lambda: listener.stats.accepted == 1)
        if state == "used":
            await loop.sock_sendall(sock, GET)
            assert await loop.sock_recv(sock, 65536)
        if state == "in the backlog":
            sock.send(GET)
        closing = listener.close(grace=TIME)
        if state != "in the backlog":
            await until(lambda: http.service_of(listener).is_draining)
            sock.send(GET[:9])
            await asyncio.sleep(0)
            sock.send(GET[9:])
        received = b""
        while piece := await loop.sock_recv(sock, 65536):
            received += piece
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in received
    await closing
    assert listener.stats.handler_errors == 0


# --------------------------------------------------------------------------- client ends


async def test_a_client_that_has_finished_gets_its_responses() -> None:
    async with http.listen(ANY, hello) as listener:
        assert (await exchange(listener.local_addr, GET * 3)).count(b"hello") == 3


@pytest.mark.parametrize(
    "data",
    [b"GET / HT", get("/", "Content-Length: 10", method="POST") + b"some"],
    ids=["head", "body"],
)
@pytest.mark.parametrize("reset", [False, True], ids=["finish", "reset"])
async def test_a_client_that_ends_too_early(
    data: bytes, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with http.listen(ANY, anything) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(data)
            await until(lambda: any(each.stats.bytes_in for each in conns_of(listener)))
            if reset:
                conn.abort()
            else:
                conn.close_write()
                assert await rest(conn) == b""
        await until(lambda: not listener.connections)
        assert listener.stats.handler_errors == 0
    assert http.service_of(listener).crashes == 0
    assert not caplog.records


def conns_of(listener: Any) -> list[Conn]:
    return list(listener._course.handling.values()) + list(listener._course.lingering)


# ---------------------------------------------------------------------------- TLS, curl


async def test_tls() -> None:
    async def handler(request: http.Request) -> str:
        assert request.tls is not None
        return f"{request.tls.version} {len(await request.body())}"

    async with http.listen(ANY, handler, tls=certificates.server()) as listener:
        async with tcp.connect(listener.local_addr, tls=certificates.client()) as conn:
            for size in (10, 300_000):
                await conn.write(post(b"x" * size))
                assert (await reply(conn)).body == b"TLSv1.3 %d" % size


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.heavy
async def test_curl() -> None:
    async def handler(request: http.Request) -> Any:
        if request.path == "/stream":
            return http.Response([b"a" * 10, b"b" * 10])
        return f"{request.method} {len(await request.body())}"

    async def curl(*arguments: str) -> str:
        program = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--max-time", "30", *arguments, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await program.communicate()
        assert program.returncode == 0
        return output.decode()

    async with http.listen(ANY, handler) as listener:
        url = f"http://{listener.local_addr}"
        assert await curl(url, url) == "GET 0" * 2
        assert await curl("--data-binary", "x" * 2000, url) == "POST 2000"
        long = ["-H", "Expect: 100-continue", "--data-binary", "x" * 100_000]
        assert await curl(*long, url) == "POST 100000"
        chunked = ["-H", "Transfer-Encoding: chunked", "--data-binary", "x" * 1000]
        assert await curl(*chunked, url) == "POST 1000"
        assert await curl(f"{url}/stream") == "a" * 10 + "b" * 10
        assert await curl("-0", f"{url}/stream") == "a" * 10 + "b" * 10
        assert "content-length: 6" in await curl("-I", url)
        assert listener.stats.accepted == 7
    async with http.listen(ANY, handler, tls=certificates.server()) as listener:
        port = listener.local_addr.rpartition(":")[2]
        url = f"https://localhost:{port}/"
        assert await curl("--cacert", certificates.ca_file(), url) == "GET 0"
