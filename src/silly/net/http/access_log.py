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
    from silly.net.conn import Conn
    from silly.net.http.request import Request

__all__ = ["FIELDS", "log_access"]

logger = Logger("silly.access")

FIELDS: Final = MappingProxyType(
    {
        "peer": "the client's address",
        "method": "such as `GET`; `-` if there was no valid request",
        "target": "what was asked for, undecoded",
        "version": "of HTTP, such as `1.1`",
        "status": "of the response",
        "size": "bytes of the response's body; -1 if it was cut off",
        "duration": "seconds from the request's head to the end of the response",
        "referer": "the header field of that name, or `-`",
        "user_agent": "likewise",
    }
)
"""The attributes of a record, and their meaning."""


def log_access(
    request: Request | None, status: int, size: int, seconds: float, *, conn: Conn | None = None
) -> None:
    """Log one line; without a *request*, for what *conn* sent instead of one."""
    if not logger.is_enabled_for(logging.INFO):
        return
    if request is not None:
        conn = request.conn
        method, target, version = request.method, request.target, request.version
        referer = request.headers.get("referer", "-")
        user_agent = request.headers.get("user-agent", "-")
    else:
        method = target = version = referer = user_agent = "-"
    peer = "-" if conn is None else conn.remote_addr
    fields: dict[str, object] = {
        "peer": printable(peer),
        "method": method,
        "target": printable(target),
        "version": version,
        "status": status,
        "size": size,
        "duration": round(seconds, 6),
        "referer": _quoted(referer),
        "user_agent": _quoted(user_agent),
    }
    logger.info(
        '%s - - [%s] "%s %s HTTP/%s" %d %s "%s" "%s"',
        fields["peer"],
        time.strftime("%d/%b/%Y:%H:%M:%S %z"),
        method,
        fields["target"],
        version,
        status,
        size if size >= 0 else "-",
        fields["referer"],
        fields["user_agent"],
        extra=fields,
    )


def _quoted(text: str) -> str:
    """Return *text* as it can stand between quotes."""
    return printable(text).replace('"', "\\x22")
