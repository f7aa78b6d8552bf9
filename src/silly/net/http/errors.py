"""The error that becomes a response; that of a reply which is none."""

from __future__ import annotations

from http import HTTPStatus

from silly.errors import SillyError

__all__ = ["HTTPError", "ReplyError", "reason_of"]


def reason_of(status: int) -> str:
    """Return the reason phrase of *status*, such as ``"Not Found"``; empty if it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class HTTPError(SillyError):
    """Raise it in a handler to answer with *status*.

    Reading a request's body raises it, too: if the body is too long (413), comes too slowly
    (408) or is invalid (400).

    Args:
        status: 400 to 599.
        text: what was wrong, for the client; the reason phrase of *status* if empty.
        headers: further header fields of the response, by name.
    """

    status: int
    text: str
    headers: dict[str, str]

    def __init__(self, status: int, text: str = "", headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.text = text or reason_of(status)
        self.headers = headers or {}
        super().__init__(f"{status} {self.text}")


class ReplyError(SillyError, ConnectionError):
    """A server's reply is invalid, incomplete, or longer than the client's limits."""
