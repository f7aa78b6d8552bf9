"""How a WebSocket ended, and why one was not opened."""

from __future__ import annotations

from typing import Final

from silly.errors import SillyError
from silly.net.http.fields import Headers
from silly.text import printable

__all__ = ["HandshakeFailed", "WebSocketClosed", "checked_close", "is_sendable", "meaning_of"]

_MEANINGS: Final = {
    1000: "normal closure",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "closed without a code",
    1006: "connection lost without a close frame",
    1007: "invalid data",
    1008: "policy violation",
    1009: "message too big",
    1010: "an extension is missing",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    1015: "TLS failed",
}
_NEVER_SENT: Final = frozenset((1004, 1005, 1006, 1015))


def meaning_of(code: int) -> str:
    """Return what *code* means, such as ``"going away"``; empty if it is the application's."""
    return _MEANINGS.get(code, "")


def is_sendable(code: int) -> bool:
    """Return whether a close frame may have *code* (RFC 6455, section 7.4, and its registry)."""
    return 3000 <= code < 5000 or (1000 <= code < 1015 and code not in _NEVER_SENT)


def checked_close(code: object, reason: object) -> None:
    """Check what a close frame is to say (`TypeError`, `ValueError`)."""
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"code must be an int, not {code!r}")
    if not is_sendable(code):
        raise ValueError(f"code must be 1000 to 1003, 1007 to 1014 or 3000 to 4999, not {code}")
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str, not {type(reason).__name__}")
    if len(reason.encode()) > 123:
        raise ValueError("reason must have up to 123 bytes as UTF-8")


class WebSocketClosed(SillyError, ConnectionError):  # noqa: N818 - named by what happened
    """The WebSocket is closed: by its peer, by this end, or because the connection was lost.

    Attributes:
        code: of the close frame (RFC 6455, section 7.4); 1005 if it had none; 1006 if the
            connection ended without one. If this end found a fault with what the peer sent, the
            code that it has told the peer, such as 1009.
        reason: the text of the close frame, as the peer chose it; often empty.
    """

    code: int
    reason: str

    def __init__(self, code: int, reason: str = "", *, address: str = "") -> None:
        text = f"closed: {code}"
        if meaning := meaning_of(code):
            text += f" ({meaning})"
        if reason:
            text += f", {printable(reason)}"
        super().__init__(text, address=address)
        self.code = code
        self.reason = reason


class HandshakeFailed(SillyError, ConnectionError):  # noqa: N818
    """The server did not open a WebSocket.

    Attributes:
        status: of its HTTP response, such as 403; None if that is not one.
        headers: of its HTTP response.
        body: the beginning of its HTTP response's body.
    """

    status: int | None
    headers: Headers
    body: bytes

    def __init__(
        self,
        message: str,
        status: int | None = None,
        headers: Headers | None = None,
        body: bytes = b"",
        *,
        address: str = "",
    ) -> None:
        super().__init__(message, address=address)
        self.status = status
        self.headers = Headers() if headers is None else headers
        self.body = body
