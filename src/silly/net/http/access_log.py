"""The access log of HTTP: one line for each request, in the combined format.

The lines are `logging` records of level ``INFO`` on the logger ``silly.access``. Each has
the line's values as attributes, for formatters that write JSON (`FIELDS`). What the
client chose is escaped in both.
"""

from __future__ import annotations

import logging
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from silly._logs.logger import Logger
from silly.text import printable

if TYPE_CHECKING:
    from silly.net.http.request import Request
    from silly.net.http.watching import Answered

__all__ = ["FIELDS", "RequestLog"]

logger = Logger("silly.access")

FIELDS: Final = MappingProxyType(
    {
        "peer": "the client's address; with an ASGI application, as a trusted proxy says it",
        "method": "such as `GET`; `-` if there was no valid request",
        "target": "what was asked for, undecoded",
        "version": "of HTTP, such as `1.1`",
        "status": "of the response; 499 if the client was gone before there was one",
        "size": "bytes of the response's body; -1 if it was cut off",
        "duration": "seconds from the request's head to the end of the response",
        "referer": "the header field of that name, or `-`",
        "user_agent": "likewise",
        "route": "the router's pattern that matched, or `-`",
        "trace_id": "of the trace that the client says it belongs to (W3C), or `-`",
    }
)
"""The attributes of a record, and their meaning."""


class RequestLog:
    """The observer of requests that writes the access log."""

    def request_started(self, request: Request, listener: str) -> None:
        """Do nothing: the line is written at the end."""

    def request_ended(self, request: Request | None, answered: Answered) -> None:
        """Write the line."""
        if logger.is_enabled_for(logging.INFO):
            _log(request, answered)


def _log(request: Request | None, answered: Answered) -> None:
    route = trace_id = "-"
    peer = answered.conn.remote_addr
    if request is not None:
        peer = request._reported_client or peer
        route = printable(request.route) or "-"
        trace_id = "-" if request.trace is None else request.trace.trace_id
        method, target, version = request.method, request.target, request.version
        referer = request.headers.get("referer", "-")
        user_agent = request.headers.get("user-agent", "-")
    else:
        method = target = version = referer = user_agent = "-"
    size = answered.size
    fields: dict[str, object] = {
        "peer": printable(peer),
        "method": method,
        "target": printable(target),
        "version": version,
        "status": answered.status,
        "size": size,
        "duration": round(answered.seconds, 6),
        "referer": _quoted(referer),
        "user_agent": _quoted(user_agent),
        "route": route,
        "trace_id": trace_id,
    }
    logger.info(
        '%s - - [%s] "%s %s HTTP/%s" %d %s "%s" "%s"',
        fields["peer"],
        time.strftime("%d/%b/%Y:%H:%M:%S %z"),
        method,
        fields["target"],
        version,
        answered.status,
        size if size >= 0 else "-",
        fields["referer"],
        fields["user_agent"],
        extra=fields,
    )


def _quoted(text: str) -> str:
    """Return *text* as it can stand between quotes."""
    return printable(text).replace('"', "\\x22")
