"""What is seen of requests: by observers, in metrics and in the access log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from silly import metrics
from silly.metrics.requests import MOST_ROUTES, RequestCounts
from silly.net import http, observer, tcp, websocket
from silly.net.http.request import Request
from silly.net.http.watching import Answered
from tests.net.http.wire import ANY, exchange, reply

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Seen:
    """An observer of connections and requests."""

    def __init__(self) -> None:
        self.running: list[Request] = []
        self.all: list[tuple[str, str, int, int, int, str]] = []

    def opened(self, conn: Any, listener: Any) -> None:
        pass

    def closed(self, conn: Any, listener: Any, ending: Any) -> None:
        pass

    def request_started(self, request: Request, listener: str) -> None:
        self.running.append(request)

    def request_ended(self, request: Request | None, answered: Answered) -> None:
        if request is not None:
            self.running.remove(request)
        method, route = ("-", "-") if request is None else (request.method, request.route)
        error = type(answered.error).__name__ if answered.error else ""
        self.all.append((method, route, answered.status, answered.received, answered.size, error))


def routes() -> http.Router:
    made = http.Router()

    @made.get("/users/{id:int}")
    async def user(request: http.Request) -> http.Response:
        return http.Response("text")

    @made.post("/echo")
    async def echo(request: http.Request) -> http.Response:
        body = await request.body()
        return http.Response(iter([body, body]))

    @made.get("/crash")
    async def crash(request: http.Request) -> http.Response:
        raise ZeroDivisionError

    @made.get("/wait")
    async def wait(request: http.Request) -> http.Response:
        await request.conn.read()
        raise AssertionError

    return made


HEAD = " HTTP/1.1\r\nhost: a\r\n"
REQUESTS = (
    f"GET /users/1{HEAD}\r\nGET /users/2?x=1{HEAD}\r\nHEAD /users/3{HEAD}\r\n"
    f"POST /echo{HEAD}content-length: 3\r\n\r\nabcGET /other{HEAD}\r\nPROPFIND /x{HEAD}\r\n"
    f"GET /crash{HEAD}\r\nnonsense\r\n\r\n"
)
EXPECTED = [
    ("GET", "/users/{id:int}", 200, 0, 4, ""),
    ("GET", "/users/{id:int}", 200, 0, 4, ""),
    ("HEAD", "/users/{id:int}", 200, 0, 0, ""),
    ("POST", "/echo", 200, 3, 6, ""),
    ("GET", "", 404, 0, 10, ""),
    ("PROPFIND", "", 404, 0, 10, ""),
    ("GET", "/crash", 500, 0, 22, "ZeroDivisionError"),
    ("-", "-", 400, 0, 26, ""),
]


@pytest.mark.parametrize("is_registered", [False, True])
async def test_observers_see_each_request_and_its_response(is_registered: bool) -> None:
    seen = Seen()
    if is_registered:
        observer.register(seen)
    try:
        options: dict[str, Any] = {} if is_registered else {"observer": seen}
        async with http.listen(ANY, routes(), **options) as listener:
            await exchange(listener.local_addr, REQUESTS.encode())
    finally:
        observer.unregister(seen)
    assert seen.all == EXPECTED
    assert seen.running == []
    assert listener.stats.handler_errors_by_type == {"ZeroDivisionError": 1}
    assert not observer.of_requests


async def test_a_client_that_leaves_is_seen() -> None:
    seen = Seen()
    async with http.listen(ANY, routes(), observer=seen) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            await conn.write(f"GET /wait{HEAD}\r\n".encode())
            while not seen.running:
                await asyncio.sleep(0)
            conn.abort()
        while not seen.all:
            await asyncio.sleep(0)
    assert seen.all == [("GET", "/wait", 499, 0, -1, "")]


async def test_an_observer_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Seen):
        def request_started(self, request: Request, listener: str) -> None:
            raise KeyError("on purpose")

    seen = Failing()
    async with http.listen(ANY, routes(), observer=seen) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            for _ in range(3):
                await conn.write(f"GET /users/1{HEAD}\r\n".encode())
                assert (await reply(conn)).body == b"text"
    lines = [record.getMessage() for record in caplog.records if record.name == "silly.http"]
    assert len([line for line in lines if "observer Failing" in line or ".Failing." in line]) <= 2
    assert any("request_started" in line for line in lines)
    # What was not logged at once is counted when the listener closes.
    assert any("an observer failed" in line for line in lines)


def test_an_observer_can_end_the_program() -> None:
    class Ending(Seen):
        def request_started(self, request: Request, listener: str) -> None:
            raise KeyboardInterrupt

    async def main() -> None:
        async with http.listen(ANY, routes(), observer=Ending()) as listener:
            await exchange(listener.local_addr, f"GET /users/1{HEAD}\r\n".encode())

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


async def test_metrics_have_requests_by_method_status_and_route() -> None:
    stop = metrics.measure()
    try:
        async with http.listen(ANY, routes()) as listener:
            await exchange(listener.local_addr, REQUESTS.encode())
            found = metrics.snapshot()["listeners"][listener.local_addr]
    finally:
        stop()
    assert found["http_requests"] == {
        "GET 200 /users/{id:int}": 2,
        "HEAD 200 /users/{id:int}": 1,
        "POST 200 /echo": 1,
        "GET 404 -": 1,
        "other 404 -": 1,
        "GET 500 /crash": 1,
        "- 400 -": 1,
    }
    assert found["http_in_flight"] == 0
    assert found["http_bytes_in"]["POST /echo"] == 3
    assert found["http_bytes_out"]["POST /echo"] == 6
    assert sum(found["http_seconds"]["GET /users/{id:int}"]["buckets"]) == 2
    assert found["handler_errors"] == {"ZeroDivisionError": 1}


@pytest.mark.no_engine
async def test_prometheus_gets_them_with_labels() -> None:
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import CollectorRegistry

    registry = CollectorRegistry()
    collector = metrics.Collector()
    registry.register(collector)
    async with http.listen(ANY, routes()) as listener:
        await exchange(listener.local_addr, REQUESTS.encode())
        page = generate_latest(registry).decode()
        at = f'listener="{listener.local_addr}"'
    collector.close()
    for line in (
        f'silly_http_requests_total{{{at},method="POST",route="/echo",status="200"}} 1.0',
        f'silly_http_requests_total{{{at},method="-",route="-",status="400"}} 1.0',
        f"silly_http_requests_in_flight{{{at}}} 0.0",
        f'silly_http_request_body_bytes_total{{{at},method="POST",route="/echo"}} 3.0',
    ):
        assert line in page, page
    assert 'silly_http_request_duration_seconds_bucket{le="0.0005",' in page


@pytest.mark.no_engine
def test_routes_that_a_handler_makes_up_are_bounded() -> None:
    counts = RequestCounts()
    for number in range(MOST_ROUTES + 50):
        request = Request("GET", b"/", "1.1", [], 0)
        request.route = f"/{number}"
        counts.ended(request, Answered("", None, 200, 0, 1, 0.1, None))  # type: ignore[arg-type]
    found = counts.values()["http_requests"]
    assert len(found) == MOST_ROUTES + 1
    assert found["GET 200 other"] == 50


async def test_the_access_log_has_route_and_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "silly.access")
    trace = f"traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n"
    async with http.listen(ANY, routes(), access_log=True) as listener:
        text = f"GET /users/1{HEAD}{trace}\r\nGET /x{HEAD}\r\nGET /crash{HEAD}{trace}\r\n"
        await exchange(listener.local_addr, text.encode())
        await exchange(listener.local_addr, b"no request\r\n\r\n")
    records: list[Any] = [each for each in caplog.records if each.name == "silly.access"]
    assert [(each.method, each.route, each.trace_id) for each in records] == [
        ("GET", "/users/{id:int}", TRACE),
        ("GET", "-", "-"),
        ("GET", "/crash", TRACE),
        ("-", "-", "-"),
    ]
    crashes = [each.getMessage() for each in caplog.records if each.name == "silly.http"]
    assert crashes[0].endswith(f"GET /crash failed (trace {TRACE})")


async def test_a_request_tells_its_trace() -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.json(None if request.trace is None else request.trace.headers())

    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    async with http.listen(ANY, handler) as listener, http.Client() as client:
        url = f"http://{listener.local_addr}/"
        fields = {"traceparent": parent, "tracestate": "a=1"}
        assert await (await client.get(url, headers=fields)).json() == fields
        assert await (await client.get(url)).json() is None


async def test_a_request_that_became_a_websocket_is_seen_at_once() -> None:
    seen = Seen()

    async def handler(request: http.Request) -> None:
        ws = await websocket.accept(request)
        async for message in ws:
            await ws.send(message)

    async with http.listen(ANY, handler, observer=seen) as listener:
        async with websocket.connect(f"ws://{listener.local_addr}/") as ws:
            await ws.send("text")
            assert await anext(aiter(ws)) == "text"
            assert seen.all == [("GET", "", 101, 0, 0, "")]
    assert len(seen.all) == 1
