"""Traces: an OpenTelemetry span for each connection (extra: ``silly-net[otel]``).

`Tracing` is an observer: pass it to a listener (``tcp.listen(..., observer=
Tracing())``), or to all listeners with `silly.net.observer.register`. The handler
runs inside the span, so the handler's own spans are its children. The span starts
when the connection is accepted and ends when the connection is over.

The attributes are those of the semantic conventions (network, error), plus
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
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError:
    raise ImportError(f"silly.otel needs opentelemetry-api: {install_command('otel')}") from None

if TYPE_CHECKING:
    from silly.net.conn import Conn, StreamConn
    from silly.net.observer import Ending
    from silly.net.tcp import Listener

__all__ = ["Tracing"]

_NORMAL_ENDINGS: Final = frozenset({"peer_finished", "closed_here", "cancelled"})


class Tracing:
    """An observer that creates a span of kind SERVER for each connection.

    Args:
        tracer_provider: the provider of the tracer; None: the one set with
            ``opentelemetry.trace.set_tracer_provider``.
        name: the name of the spans.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, *, name: str = "connection"
    ) -> None:
        self._tracer = trace.get_tracer("silly", tracer_provider=tracer_provider)
        self._name = name
        self._spans: dict[Conn, Span] = {}

    def opened(self, conn: Conn, listener: Listener) -> None:  # noqa: ARG002
        """Start the span, in the handler's context."""
        span = self._tracer.start_span(
            self._name, kind=SpanKind.SERVER, attributes=_attributes(conn)
        )
        self._spans[conn] = span
        context.attach(trace.set_span_in_context(span))  # each handler has its own context

    def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:  # noqa: ARG002
        """End the span; its status is an error if the connection ended with an error."""
        span = self._spans.pop(conn, None)
        if span is None:  # `opened` failed
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
