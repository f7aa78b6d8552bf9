"""Each connection has a span, with the attributes of the semantic conventions and children."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from silly.errors import EndOfStream
from silly.net import http, tcp
from silly.net.tcp import Conn
from silly.otel import Tracing, headers

ANY = "127.0.0.1:0"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


async def finished(exporter: InMemorySpanExporter, count: int) -> dict[str, ReadableSpan]:
    while len(exporter.get_finished_spans()) < count:
        await asyncio.sleep(0)
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_a_span_with_children(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    tracer = provider.get_tracer("test")

    async def child() -> None:
        with tracer.start_as_current_span("grandchild"):
            await asyncio.sleep(0)

    async def handler(conn: Conn) -> None:
        async for line in conn:
            with tracer.start_as_current_span("child"):
                await conn.write(line)
                await asyncio.create_task(child())

    async with tcp.listen(ANY, handler, observer=Tracing(provider)) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"hello\n")
            await conn.read(b"\n")
            client = conn.local_addr
        spans = await finished(exporter, 3)
    span = spans["connection"]
    assert span.kind is trace.SpanKind.SERVER
    assert span.parent is None
    assert span.status.status_code is trace.StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "network.transport": "tcp",
        "network.type": "ipv4",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": int(client.rpartition(":")[2]),
        "network.local.address": "127.0.0.1",
        "network.local.port": int(listener.local_addr.rpartition(":")[2]),
        "silly.connection.ending": "peer_finished",
        "silly.connection.bytes_in": 6,
        "silly.connection.bytes_out": 6,
    }
    child_span, grandchild = spans["child"], spans["grandchild"]
    assert span.context is not None
    assert child_span.parent is not None
    assert child_span.parent.span_id == span.context.span_id
    assert child_span.context is not None
    assert grandchild.parent is not None
    assert grandchild.parent.span_id == child_span.context.span_id
    assert not trace.get_current_span().get_span_context().is_valid


async def test_concurrent_connections_have_their_own_spans(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    seen: list[int] = []

    async def handler(conn: Conn) -> None:
        while await conn.read(b"\n"):
            seen.append(trace.get_current_span().get_span_context().span_id)

    async with tcp.listen(ANY, handler, observer=Tracing(provider)) as listener:
        clients = [await tcp.connect(listener.local_addr) for _ in range(3)]
        for _ in range(2):
            for client in clients:
                await client.write(b"x\n")
        for client in clients:
            client.close()
        await finished(exporter, 1)
        while len(exporter.get_finished_spans()) < 3:
            await asyncio.sleep(0)
    ids = {span.context.span_id for span in exporter.get_finished_spans() if span.context}
    assert len(ids) == 3
    assert sorted(seen) == sorted([*ids, *ids])


async def test_a_crash_is_in_the_span(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async def handler(conn: Conn) -> None:
        raise ZeroDivisionError("on purpose")

    async with tcp.listen(ANY, handler, observer=Tracing(provider, name="game")) as listener:
        async with await tcp.connect(listener.local_addr):
            span = (await finished(exporter, 1))["game"]
    assert span.status.status_code is trace.StatusCode.ERROR
    attributes = dict(span.attributes or {})
    assert attributes["error.type"] == "ZeroDivisionError"
    assert attributes["silly.connection.ending"] == "handler_error"
    (event,) = span.events
    assert event.name == "exception"


async def test_a_limit_and_a_unix_socket(
    exporter: InMemorySpanExporter, provider: TracerProvider, tmp_path: Path
) -> None:
    async def handler(conn: Conn) -> None:
        await conn.read()

    path = f"{tmp_path}/s"
    tracing = Tracing(provider)
    async with tcp.listen(f"unix:{path}", handler, idle_timeout=0.01, observer=tracing):
        async with await tcp.connect(f"unix:{path}"):
            span = (await finished(exporter, 1))["connection"]
    attributes = dict(span.attributes or {})
    assert attributes["network.transport"] == "unix"
    assert attributes["network.local.address"] == path
    assert attributes["error.type"] == "TimeoutError"
    assert attributes["silly.connection.ending"] == "idle_timeout"
    assert not tracing._spans


async def test_requests_have_spans_in_the_callers_trace(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    routes = http.Router()
    sent: list[dict[str, str]] = []

    @routes.get("/users/{id}")
    async def user(request: http.Request) -> http.Response:
        sent.append(headers())
        with provider.get_tracer("test").start_as_current_span("child"):
            return http.Response("text")

    @routes.get("/crash")
    async def crash(request: http.Request) -> http.Response:
        raise ZeroDivisionError

    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    tracing = Tracing(provider, connections=False)
    async with http.listen(ANY, routes, observer=tracing) as listener:
        async with http.Client() as client:
            url = f"http://{listener.local_addr}"
            fields = {"traceparent": caller, "tracestate": "a=1"}
            await client.get(f"{url}/users/7?x=1", headers=fields)
            assert (await client.get(f"{url}/crash")).status == 500
        spans = await finished(exporter, 3)
    assert len(spans) == 3
    span = spans["GET /users/{id}"]
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" == caller[3:-3]
    assert span.parent.is_remote
    assert span.kind is trace.SpanKind.SERVER
    attributes = dict(span.attributes or {})
    assert {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/users/{id}",
        "url.path": "/users/7",
        "url.query": "x=1",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "network.protocol.version": "1.1",
    }.items() <= attributes.items()
    assert spans["child"].parent is not None
    assert spans["child"].parent.span_id == span.context.span_id
    assert sent == [
        {
            "traceparent": f"{caller[:36]}{span.context.span_id:016x}-01",
            "tracestate": "a=1",
        }
    ]
    assert tracing._requests == {}
    crashed = spans["GET /crash"]
    assert crashed.parent is None  # and the connection has no span
    assert crashed.status.status_code is trace.StatusCode.ERROR
    assert dict(crashed.attributes or {})["error.type"] == "ZeroDivisionError"


async def test_unusual_requests_have_spans_too(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(status=503 if request.method == "GET" else 200)

    tracing = Tracing(provider, connections=False)
    async with http.listen(ANY, handler, observer=tracing) as listener:
        for request in (b"GET / HTTP/1.1", b"PROPFIND / HTTP/1.1", b"no request"):
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(request + b"\r\nhost: a\r\nconnection: close\r\n\r\n")
                with pytest.raises(EndOfStream):
                    while True:
                        await conn.read()
        spans = await finished(exporter, 2)
    assert spans.keys() == {"GET", "HTTP"}  # what is no request has none
    assert spans["GET"].status.status_code is trace.StatusCode.ERROR
    assert dict(spans["GET"].attributes or {})["error.type"] == "503"
    attributes = dict(spans["HTTP"].attributes or {})
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["http.request.method_original"] == "PROPFIND"
    assert spans["HTTP"].status.status_code is trace.StatusCode.UNSET


def test_without_opentelemetry_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "silly.otel")
    with pytest.raises(ImportError, match=r"^silly\.otel needs opentelemetry-api: .* -m pip "):
        importlib.import_module("silly.otel")
