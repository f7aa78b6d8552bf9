"""ASGI applications: what they get, what clients get, and how both end."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from silly._engine import engine
from silly.errors import EndOfStream
from silly.net import asgi, http, tcp
from silly.net.asgi.exchange import Exchange
from silly.net.asgi.types import Message, Receive, Scope, Send
from silly.net.tcp import Limits
from tests.net.asgi.applications import ANY, GET, Server, application, respond


async def test_a_request_and_its_scope() -> None:
    scopes = []

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send, b"hello", headers=[(b"content-type", b"text/plain"), (b"x", b"1")])

    async with Server(part) as server:
        for _ in range(2):  # the connection goes on
            head, body = await server.ask()
            assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx: 1\r\ndate: ")
            assert body == b"hello"
        scope = scopes[0]
        assert (scope["path"], scope["raw_path"]) == ("/a b", b"/a%20b")
        assert (scope["query_string"], scope["method"], scope["scheme"]) == (b"x=1", "GET", "http")
        assert scope["headers"] == [(b"host", b"x")]
        for end, addr in (
            ("client", server.conn.local_addr),
            ("server", server.listener.local_addr),
        ):
            host, port = scope[end]
            assert f"{host}:{port}" == addr


@pytest.mark.skipif(engine.NAME != "native", reason="only the native engine does that")
@pytest.mark.parametrize("more", [{}, {"more_body": False}])
async def test_the_usual_messages_are_taken_without_a_coroutine(more: dict[str, bool]) -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (
            {"type": "http.response.start", "status": 200, "headers": [(b"x", b"1")]},
            {"type": "http.response.body", "body": b"hello", **more},
        ):
            sent = send(message)
            assert not inspect.iscoroutine(sent)
            await sent

    async with Server(part) as server:
        for _ in range(3):
            head, body = await server.ask()
            assert head.startswith(b"HTTP/1.1 200 OK\r\nx: 1\r\ndate: ")
            assert body == b"hello"


async def test_a_body_comes_in_pieces_and_a_response_goes_in_pieces() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(
                {"type": "http.response.body", "body": message["body"].upper(), "more_body": True}
            )
        await send({"type": "http.response.body"})

    async with Server(part) as server:
        post = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await server.conn.write(post + b"3\r\nabc\r\n")
        head = await server.conn.read(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert await server.conn.read(8) == b"3\r\nABC\r\n"
        await server.conn.write(b"2\r\nde\r\n0\r\n\r\n")
        assert await server.conn.read(12) == b"2\r\nDE\r\n0\r\n\r\n"


async def test_receive_tells_when_the_client_is_gone() -> None:
    left: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["more_body"] is False
        left.set_result(await receive())
        assert await receive() == {"type": "http.disconnect"}
        with pytest.raises(OSError, match="the client is gone"):
            await respond(send, b"nobody", b"listens")

    async with Server(part) as server:
        await server.conn.write(GET)
        server.conn.close()
        assert await left == {"type": "http.disconnect"}


async def test_a_request_that_waits_for_the_client_does_not_lose_the_next() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        leaves = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await respond(send, scope["raw_path"])
        assert await leaves == {"type": "http.disconnect"}

    async with Server(part) as server:
        await server.conn.write(GET + GET.replace(b"a%20b", b"next"))
        assert (await server.reply())[1] == b"/a%20b"
        assert (await server.reply())[1] == b"/next"
        assert (await server.ask())[1] == b"/a%20b"


async def test_a_client_that_sends_more_than_may_wait() -> None:
    """Its connection is watched on, without taking more of it."""
    left: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        begun.set()
        left.set_result(await receive())

    begun = asyncio.Event()
    async with Server(part, limits=Limits(max_pipelined=2)) as server:
        await server.conn.write(GET)
        await begun.wait()
        await server.conn.write(GET * 2)
        while server.listener.stats.bytes_in < 3 * len(GET):
            await asyncio.sleep(0)
        server.conn.abort()
        assert await left == {"type": "http.disconnect"}


async def test_pieces_for_http_1_0_end_with_the_connection() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})  # it knows none
        await respond(send, b"one ", b"two", headers=[(b"date", b"mine"), (b"x-a", b"1")])

    async with Server(part) as server:
        await server.conn.write(
            GET[:-2].replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n"
        )
        assert await server.conn.read(b"\r\n\r\n") == (
            b"HTTP/1.1 200 OK\r\ndate: mine\r\nx-a: 1\r\nconnection: close\r\n\r\n"
        )
        assert await server.conn.read(7) == b"one two"
        with pytest.raises(EndOfStream):
            await server.conn.read()


async def test_head_stops_an_endless_response() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(OSError, match="there is nobody who gets the body"):
            await respond(send, *[bytes(10_000)] * 1000)
        await send({"type": "http.response.body"})

    async with Server(part) as server:
        await server.conn.write(GET.replace(b"GET", b"HEAD") * 2)
        for _ in range(2):
            assert (await server.conn.read(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_failure_while_it_waits_for_the_client() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        try:
            raise ZeroDivisionError
        finally:
            waiting.cancel()

    async with Server(part) as server:
        head, _ = await server.ask()
        assert head.startswith(b"HTTP/1.1 500 ")
        assert http.service_of(server.listener).crashes == 1


async def test_a_cancellation_while_it_waits_for_the_client() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        begun.set()
        try:
            await receive()
        finally:
            ended.set()

    async with Server(part) as server:
        await server.conn.write(GET)
        await begun.wait()
        await server.listener.close(grace=0)
        assert ended.is_set()


async def test_what_comes_after_the_response_does_not_hold_up_the_connection() -> None:
    done = asyncio.Event()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"first")
        await done.wait()

    async with Server(part) as server:
        assert (await server.ask())[1] == b"first"
        assert (await server.ask())[1] == b"first"
        done.set()


async def test_failures() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["raw_path"] == b"/none":
            return
        if scope["raw_path"] == b"/early":
            raise ValueError("a failure of the test")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ValueError("a failure of the test")

    async with Server(part) as server:
        for path in (b"/early", b"/none"):
            head, _ = await server.ask(GET.replace(b"/a%20b", path))
            assert head.startswith(b"HTTP/1.1 500 ")
        await server.conn.write(GET)
        await server.conn.read(b"x\r\n")
        with pytest.raises(ConnectionResetError):
            await server.conn.read(100)


@pytest.mark.parametrize(
    ("limits", "status"),
    [(Limits(max_body_bytes=5), 413), (Limits(read_deadline=0.01, min_receive_rate=None), 408)],
)
async def test_a_body_that_is_refused_is_a_disconnect(limits: Limits, status: int) -> None:
    received: list[Message] = []

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        while not received or received[-1]["type"] == "http.request":
            received.append(await receive())
        with pytest.raises(OSError, match="the client is gone"):
            await respond(send, b"too late")

    async with Server(part, limits=limits) as server:
        post = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await server.conn.write(post + b"3\r\nabc\r\n")
        if status == 413:
            await server.conn.write(b"3\r\ndef\r\n")
        head = await server.conn.read(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
    assert [message["type"] for message in received][-1:] == ["http.disconnect"]


async def test_a_body_that_breaks_off_is_a_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    last: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        last.set_result(message["type"])

    async with Server(part) as server:
        service = http.service_of(server.listener)
        await server.conn.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        server.conn.close()
        assert await last == "http.disconnect"
    assert set(service.responses) <= {("POST", 499)}
    assert not caplog.messages


@pytest.mark.parametrize("headers", [[], ()])  # the second is of the slower kind
async def test_the_route_that_a_framework_names_is_noted(
    headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "silly.access")

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = SimpleNamespace(path="/items/{number}")
        await respond(send, b"item", headers=headers)

    async with Server(part, access_log=True) as server:
        for _ in range(2):
            await server.ask()
    assert [vars(record)["route"] for record in caplog.records] == ["/items/{number}"] * 2


PLAIN = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "field",
    [
        (b"x", b"1\r\nset-cookie: a=b"),
        (b"x", b"1\ny: z"),
        (b"x", b"1\ry: z"),
        (b"x", b"\n"),
        (b"x", b"1234567\n"),
        (b"x", b"1234567890\ny"),
        (b"x: 1\r\nset-cookie", b"a=b"),
        (b"x\n", b"y"),
    ],
)
async def test_header_injection_is_refused(field: tuple[bytes, bytes]) -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"", headers=[field])

    async with Server(part) as server:
        for request in (GET, PLAIN):
            await server.conn.write(request)
            head = await server.conn.read(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 500 ")
            assert b"cookie" not in head
            await server.conn.read(int(head.lower().split(b"content-length: ")[1].split()[0]))


@pytest.mark.parametrize(
    ("headers", "body", "kept"),
    [
        ([[b"x-list", b"1"]], b"hello", [b"x-list: 1"]),
        ([(b"x-bytearray", bytearray(b"1"))], b"hello", [b"x-bytearray: 1"]),
        ([(b"content-length", b"5")], b"hello", [b"content-length: 5"]),
        ([(b"Content-Length", b"100000")], b"x" * 100_000, [b"Content-Length: 100000"]),
        ([], b"x" * 100_000, []),
        ([(b"transfer-encoding", b"chunked")], b"hello", []),
        ([(b"x-seventeen-bytes", b"")], b"hello", [b"x-seventeen-bytes: "]),
        ([(b"connection", b"close")], b"hello", [b"connection: close"]),
        ([(b"x-10-bytes", b"y")], b"", [b"x-10-bytes: y"]),
    ],
)
async def test_fields_and_bodies_of_all_sorts(headers: Any, body: bytes, kept: list[bytes]) -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, body, headers=headers)

    for request in (GET, PLAIN):
        async with Server(part) as server:
            head, got = await server.ask(request)
            assert got == body
            assert [line for line in head.split(b"\r\n") if line in kept] == kept
            lengths = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
            assert len(lengths) <= 1


async def test_an_application_that_goes_on_when_it_is_cancelled() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        await respond(send, b"hello")

    async with Server(part) as server:
        for request in (GET, PLAIN, PLAIN):
            assert (await server.ask(request))[1] == b"hello"


async def test_an_application_whose_task_is_closed_ends() -> None:
    """As the garbage collector closes the coroutines of a loop that is dropped."""
    ended: list[str] = []
    began = asyncio.Event()
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        try:
            await over
        finally:
            ended.append(scope["path"])

    async with Server(part) as server:
        await server.conn.write(PLAIN)
        await asyncio.wait_for(began.wait(), 10)
        await asyncio.sleep(0)
        (task,) = server.listener._course.handling
        task.get_coro().close()
        assert ended == ["/"]
        over.set_result(None)  # which wakes the task
        with pytest.raises((EndOfStream, ConnectionError)):
            await server.conn.read(timeout=10)


@pytest.mark.parametrize("more", [False, True])
async def test_header_fields_are_those_that_were_sent(*, more: bool) -> None:
    """Not those that the application's list has when the response is complete."""

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"x-first", b"1"), (b"X-Second", b"a: b"), (b"x-empty", b"")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        headers[0] = (b"x-first", b"1\r\nset-cookie: a=b")
        headers.append((b"x-long", b"x" * 1_000_000))
        if more:
            await send({"type": "http.response.body", "body": b"hel", "more_body": True})
            await send({"type": "http.response.body", "body": b"lo"})
        else:
            await send({"type": "http.response.body", "body": b"hello"})

    async with Server(part) as server:
        for _ in range(3):
            head, body = await server.ask(PLAIN)
            fields = head.split(b"\r\n")[1:-2]
            assert fields[:3] == [b"x-first: 1", b"X-Second: a: b", b"x-empty: "]
            assert len(fields) == 5  # and the date, and the length of the body
            assert body == b"hello"


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_plain_response_to_any_request(method: bytes, version: bytes) -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"hello", status=202, headers=[(b"X-a", b"b"), (b"x-a", b"c: d")])

    options: list[dict[str, Any]] = [{}, {"access_log": True}]
    for option in options:
        async with Server(part, **option) as server:
            for _ in range(2):
                await server.conn.write(b"%b / HTTP/%b\r\nHost: x\r\n\r\n" % (method, version))
                head = await server.conn.read(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 202 Accepted\r\nX-a: b\r\nx-a: c: d\r\n")
                if method == b"GET":
                    assert await server.conn.read(5) == b"hello"
                if version == b"1.0":
                    break
            assert http.service_of(server.listener).responses == {
                (method.decode(), 202): 1 if version == b"1.0" else 2
            }


async def test_what_an_application_keeps_of_a_request_is_of_that_request() -> None:
    kept: list[tuple[Scope, Receive, Send]] = []
    errors: list[str] = []

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/kept":
            kept.append((scope, receive, send))
        for _, its_receive, its_send in kept if path == "/late" else ():
            assert await its_receive() == {"type": "http.disconnect"}
            for kind in ("start", "body", "unknown"):
                with pytest.raises((RuntimeError, ValueError)) as raised:
                    await respond(its_send, b"late", headers=[])
                errors.append(str(raised.value))
                with pytest.raises((RuntimeError, ValueError)) as raised:
                    await its_send({"type": f"http.response.{kind}", "body": b"late"})
                errors.append(str(raised.value))
        await respond(send, path.encode(), headers=[])

    async with Server(part) as server:
        for path in (b"/1", b"/kept", b"/2", b"/late", b"/3", b"/kept", b"/late", b"/4"):
            request = PLAIN.replace(b"/ ", path + b" ", 1)
            assert (await server.ask(request))[1] == path
    assert [scope["path"] for scope, _, _ in kept] == ["/kept", "/kept"]
    start = "ASGI: a second http.response.start"
    late = "ASGI: http.response.body after the last one"
    unknown = "ASGI: 'http.response.unknown' is not understood"
    assert errors == [start, start, start, late, start, unknown] * 3


async def test_requests_at_the_same_time_do_not_meet() -> None:
    came: list[str] = []
    all_came = asyncio.Event()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path != "/":
            came.append(path)
            if len(came) == 5:
                all_came.set()
            await all_came.wait()
        await respond(send, f"{path} {scope['path']}".encode(), headers=[])

    async def ask(server: Server, number: int) -> None:
        async with tcp.connect(server.listener.local_addr) as conn:
            for path in ("/", f"/{number}", "/"):
                await conn.write(PLAIN.replace(b"/ ", path.encode() + b" ", 1))
                head = await conn.read(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                body = f"{path} {path}".encode()
                assert await conn.read(len(body)) == body

    async with Server(part) as server, asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(ask(server, number))


@pytest.mark.parametrize("when", ["before", "between", "after"])
async def test_receiving_around_a_plain_response(when: str) -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        if when == "before":
            assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if when == "between":
            assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        await send({"type": "http.response.body", "body": b"hello"})
        if when == "after":
            assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
            assert await receive() == {"type": "http.disconnect"}

    async with Server(part) as server:
        for _ in range(3):
            assert (await server.ask(PLAIN))[1] == b"hello"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"hello")


async def test_only_trusted_proxies_say_who_the_client_is() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, f"{scope['client'][0]} {scope['scheme']}".encode())

    request = (
        GET[:-2] + b"X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n"
    )
    for trusted, seen in (
        (("127.0.0.0/8",), b"192.0.2.7 https"),
        (("127.0.0.0/8", "192.0.2.0/24"), b"203.0.113.9 https"),
        (("10.0.0.0/8",), b"127.0.0.1 http"),
    ):
        async with Server(part, trusted_proxies=trusted) as server:
            for target in (b"/a%20b", b"/", b"/"):
                assert (await server.ask(request.replace(b"/a%20b", target)))[1] == seen
            own = b"127.0.0.1 http"  # of a request without these fields, on the same connection
            assert (await server.ask(PLAIN))[1] == own


@pytest.mark.no_engine
async def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="app must be an ASGI application, not str"):
        await asgi.listen(ANY, "main:app")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="root_path must begin with '/', not 'shop'"):
        await asgi.listen(ANY, application(hello), root_path="shop")
    with pytest.raises(ValueError, match="lifespan must be 'auto', 'on' or 'off', not 'maybe'"):
        await asgi.listen(ANY, application(hello), lifespan="maybe")


async def test_a_task_of_the_application_sends_the_response() -> None:
    done = asyncio.Event()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        bodies = (b"a", b"b", b"c") if scope["path"] == "/pieces" else (b"abc",)
        async with asyncio.TaskGroup() as group:
            group.create_task(respond(send, *bodies))
            await done.wait()

    async with Server(part) as server:
        for path in (b"/pieces", b"/whole", b"/pieces"):
            assert (await server.ask(GET.replace(b"/a%20b", path)))[1] == b"abc"
        done.set()


async def test_requests_of_a_connection_have_contexts_of_their_own() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        seen = variable.get()
        variable.set("set by a request")
        if scope["path"] == "/later":
            await asyncio.sleep(0)
            assert variable.get() == "set by a request"
        await respond(send, seen.encode())

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
    async with Server(part) as server:
        for path in (b"/", b"/later", b"/"):
            assert (await server.ask(GET.replace(b"/a%20b", path)))[1] == b"clean"


async def test_what_comes_after_the_response_ends_with_the_listener() -> None:
    ends = []

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"first")
        try:
            await asyncio.Event().wait()
        finally:
            ends.append(scope["path"])

    async with Server(part) as server:
        for path in (b"/1", b"/2"):
            assert (await server.ask(GET.replace(b"/a%20b", path)))[1] == b"first"
        server.conn.close()
        await server.conn.wait_closed()
        await server.listener.close(grace=0)
        assert sorted(ends) == ["/1", "/2"]


async def test_a_connection_ends_although_its_application_goes_on() -> None:
    done = asyncio.Event()

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"first")
        await done.wait()

    async with Server(part) as server:
        await server.conn.write(GET[:-2] + b"Connection: close\r\n\r\n")
        await server.conn.read(b"first")
        with pytest.raises(EndOfStream):
            await server.conn.read()
        done.set()


async def test_an_awaitable_that_is_no_coroutine() -> None:
    class Awaited:
        def __init__(self, send: Send) -> None:
            self.send = send

        def __await__(self) -> Generator[Any, None, None]:
            return respond(self.send, b"hello").__await__()

    def app(scope: Scope, receive: Receive, send: Send) -> Awaited:
        return Awaited(send)

    listener = await asgi.listen(ANY, app, lifespan="off")
    async with tcp.connect(listener.local_addr) as conn:
        await conn.write(GET)
        await conn.read(b"hello")
    await listener.close()


async def test_an_application_can_be_given_up_at_any_time() -> None:
    """As when its task is destroyed, with the loop."""
    closed = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append(scope["path"])

    for is_begun in (False, True):
        request = http.Request("GET", b"/", "1.1", [], 0)
        exchange: Any = Exchange(None, app, request, {"type": "http", "path": is_begun})
        if is_begun:
            next(exchange.__await__())
        exchange.close()
    assert closed == [True]


async def test_a_websocket_on_a_connection_that_another_task_serves() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "hello"})
        else:
            await respond(send, b"in ", b"pieces")
            await done.wait()

    done = asyncio.Event()
    listener = await asgi.listen(ANY, app, lifespan="off")
    async with tcp.connect(listener.local_addr) as conn:
        await conn.write(GET)
        await conn.read(b"0\r\n\r\n")
        await conn.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert (await conn.read(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await conn.read(7) == b"\x81\x05hello"
        done.set()
    await listener.close()
