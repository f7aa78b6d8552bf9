"""Traces: OpenTelemetry spans of connections and HTTP requests (extra: ``silly-net[otel]``).

`Tracing` is an observer: pass it to a listener (``tcp.listen(..., observer=
Tracing())``), or to all listeners with `silly.net.observer.register`. The handler
runs inside the span, so the handler's own spans are its children. The span starts
when the connection is accepted and ends when the connection is over.

An HTTP request has a span of its own, in the trace that its ``traceparent`` names (W3C Trace
Context), if there is one. `headers` are the fields with which a client's request continues it.

The attributes are those of the semantic conventions (network, http, error), plus
``silly.connection.ending``, ``silly.connection.bytes_in`` and ``…bytes_out``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from silly._logs.logger import traceback_text
from silly._values.extras import install_command
from silly.net import addr as addresses
from silly.text import printable

try:
    from opentelemetry import context, trace
    from opentelemetry.trace import (
        NonRecordingSpan,
        Span,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        TracerProvider,
        TraceState,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise ImportError(f"silly.otel needs opentelemetry-api: {install_command('otel')}") from None

if TYPE_CHECKING:
    from silly.net.conn import Conn, StreamConn
    from silly.net.http.request import Request
    from silly.net.http.watching import Answered
    from silly.net.observer import Ending
    from silly.net.tcp import Listener

__all__ = ["Tracing", "headers"]

_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT")
)
_NORMAL_ENDINGS: Final = frozenset({"peer_finished", "closed_here", "cancelled"})


def headers() -> dict[str, str]:
    """Return the header fields of a request that belongs to the current span.

    ::

        await client.get(url, headers=otel.headers())

    Empty if there is no current span.
    """
    fields: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(fields)
    return fields


class Tracing:
    """An observer that creates a span of kind SERVER for each connection and HTTP request.

    Args:
        tracer_provider: the provider of the tracer; None: the one set with
            ``opentelemetry.trace.set_tracer_provider``.
        name: the name of the spans of connections; those of requests have the method and
            the route, such as ``"GET /users/{id:int}"``.
        connections: whether connections have spans; for HTTP, those of requests may be enough.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        name: str = "connection",
        connections: bool = True,
    ) -> None:
        self._tracer = trace.get_tracer("silly", tracer_provider=tracer_provider)
        self._name = name
        self._has_connections = connections
        self._spans: dict[Conn, Span] = {}
        self._requests: dict[Request, tuple[Span, Any]] = {}

    def opened(self, conn: Conn, listener: Listener) -> None:  # noqa: ARG002
        """Start the span, in the handler's context."""
        if not self._has_connections:
            return
        span = self._tracer.start_span(
            self._name, kind=SpanKind.SERVER, attributes=_attributes(conn)
        )
        self._spans[conn] = span
        context.attach(trace.set_span_in_context(span))  # each handler has its own context

    def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:  # noqa: ARG002
        """End the span; its status is an error if the connection ended with an error."""
        span = self._spans.pop(conn, None)
        if span is None:  # there is none, or `opened` failed
            return
        stats = conn.stats
        try:
            span.set_attribute("silly.connection.ending", ending.how)
            span.set_attribute("silly.connection.bytes_in", stats.bytes_in)
            span.set_attribute("silly.connection.bytes_out", stats.bytes_out)
            if ending.how not in _NORMAL_ENDINGS:
                kind = ending.how if ending.error is None else type(ending.error).__qualname__
                span.set_attribute("error.type", printable(kind))
                span.set_status(Status(StatusCode.ERROR, ending.how))
            if ending.how == "handler_error" and ending.error is not None:
                span.record_exception(ending.error, _exception_attributes(ending.error))
        finally:
            span.end()

    def request_started(self, request: Request, listener: str) -> None:  # noqa: ARG002
        """Start the span of *request*, in the handler's context."""
        span = self._tracer.start_span(
            request.method if request.method in _METHODS else "HTTP",
            context=_parent(request),
            kind=SpanKind.SERVER,
            attributes=_request_attributes(request),
        )
        self._requests[request] = span, context.attach(trace.set_span_in_context(span))

    def request_ended(self, request: Request | None, answered: Answered) -> None:
        """End it; its status is an error if the handler failed, or the response is one (5xx)."""
        if request is None or request not in self._requests:
            return
        span, token = self._requests.pop(request)
        try:
            span.set_attribute("http.response.status_code", answered.status)
            if request.route:
                route = printable(request.route)
                span.set_attribute("http.route", route)
                span.update_name(f"{request.method} {route}")
            if answered.error is not None:
                span.set_attribute("error.type", printable(type(answered.error).__qualname__))
                span.record_exception(answered.error, _exception_attributes(answered.error))
                span.set_status(Status(StatusCode.ERROR))
            elif answered.status >= 500:
                span.set_attribute("error.type", str(answered.status))
                span.set_status(Status(StatusCode.ERROR))
        finally:
            span.end()
            context.detach(token)


def _parent(request: Request) -> context.Context | None:
    """Return the context of the caller's span, if it has said which; None: the current one."""
    found = request.trace
    if found is None:
        return None
    caller = SpanContext(
        int(found.trace_id, 16),
        int(found.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if found.is_sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([found.state]),
    )
    return trace.set_span_in_context(NonRecordingSpan(caller), context.Context())


def _request_attributes(request: Request) -> dict[str, Any]:
    """Return what is known of a request, named by the semantic conventions of HTTP."""
    path, _, query = request.target.partition("?")
    is_known = request.method in _METHODS
    host, _, port = request.headers.get("host", "").rpartition(":")
    attributes = {
        **_attributes(request.conn),
        "http.request.method": request.method if is_known else "_OTHER",
        "url.path": printable(path),
        "url.scheme": "http" if request.tls is None else "https",
        "network.protocol.name": "http",
        "network.protocol.version": request.version,
        "server.address": printable(host if port.isdecimal() else request.headers.get("host", "")),
    }
    if not is_known:
        attributes["http.request.method_original"] = request.method
    if query:
        attributes["url.query"] = printable(query)
    if (agent := request.headers.get("user-agent")) is not None:
        attributes["user_agent.original"] = printable(agent)
    return attributes


def _exception_attributes(error: BaseException) -> dict[str, Any]:
    """Return the attributes of an exception, escaped: a peer may have chosen the text."""
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return {
        "exception.type": printable(f"{module}{kind.__qualname__}"),
        "exception.message": printable(str(error)),
        "exception.stacktrace": traceback_text(error),
    }


def _attributes(conn: Conn) -> dict[str, Any]:
    """Return the addresses of both ends, named by the semantic conventions."""
    stream = cast("StreamConn", conn)  # a listener makes no others
    peer, local = stream._remote_sockaddr, stream._local_sockaddr
    if not isinstance(local, tuple):
        path = printable(addresses.format_sockaddr(local).removeprefix("unix:"))
        return {"network.transport": "unix", "network.local.address": path}
    attributes = {
        "network.transport": "tcp",
        "network.type": "ipv6" if ":" in local[0] else "ipv4",
        "network.local.address": addresses.host_of(local),
        "network.local.port": local[1],
    }
    if isinstance(peer, tuple):
        attributes |= {
            "network.peer.address": addresses.host_of(peer),
            "network.peer.port": peer[1],
        }
    return attributes
