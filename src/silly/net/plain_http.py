"""The least of HTTP (RFC 9112) that the pages about a program itself need, without an extra.

Each connection carries one request and its response: metrics (`silly.metrics`), health
(`silly.health`). `silly.net.http` is for programs.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from silly.errors import SillyError
from silly.net import tcp

__all__ = ["Request", "read_request", "response"]

_MAX_REQUEST: Final = 16 * 1024  # bytes
_REQUEST_TIMEOUT: Final = 10.0  # seconds


class Request(NamedTuple):
    """What a client asks for."""

    method: str
    path: str
    """Empty if the request line is malformed."""
    accept: str
    """The Accept header; empty without one."""


async def read_request(conn: tcp.Conn) -> Request | None:
    """Read the request of *conn*; return None if no complete request arrives."""
    try:
        head = await conn.read(b"\r\n\r\n", limit=_MAX_REQUEST, timeout=_REQUEST_TIMEOUT)
    except (SillyError, OSError):
        return None
    return _parse(head)


def _parse(head: bytes) -> Request:
    first, *fields = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    target = words[1] if len(words) == 3 else ""
    accept = ""
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() == "accept":
            accept = value.strip()
    return Request(words[0], target.partition("?")[0], accept)


def response(
    status: str,
    body: bytes,
    content_type: str = "text/plain; charset=utf-8",
    extra: str = "",
    *,
    head_only: bool = False,
) -> bytes:
    """Return a response as it is sent; *extra* are further header lines.

    With *head_only*, it is the response to a HEAD request: without the body.
    """
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if head_only else body)
