"""Responses, and what makes them: `Response`, `json`, `html`, `redirect`, `events`."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from silly._engine import engine
from silly.net.http import bases
from silly.net.http.bases import Headers
from silly.net.http.content import json_text
from silly.net.http.errors import HTTPError, reason_of
from silly.net.http.fields import TOKEN, check_field, check_value

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.http.bases import Answer
else:
    from silly.net.http.plain import Answer

if TYPE_CHECKING:
    from silly.net.http.request import Request

__all__ = ["Response", "check_status", "event", "events", "html", "json", "redirect"]

_OURS: Final = frozenset(("content-length", "transfer-encoding", "connection", "date"))
BODILESS: Final = frozenset((204, 205, 304))
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]+")

TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"


class Response(Answer):
    r"""What a handler returns.

    ::

        http.Response("Hello, World!\n")
        http.Response(b"...", 201, {"location": "/users/7"}, "image/png")
        http.Response(rows())                     # an (async) iterable is sent as it is made

    The framing fields (``content-length``, ``transfer-encoding``, ``connection``) and
    ``date`` are the server's. A response to HEAD, and one with status 204, 205 or 304, is
    sent without its body.

    Args:
        body: `str` (sent as UTF-8), bytes, or an iterable or asynchronous iterable of
            either, which is sent piece by piece (chunked), at the pace of the client.
        status: 200 to 599.
        headers: by name, or pairs, where a name occurs several times (``set-cookie``).
        content_type: ``"text/plain; charset=utf-8"`` for text, and
            ``"application/octet-stream"`` for bytes, unless given here or in *headers*.

    Raises:
        TypeError: the body or a header field is of another type.
        ValueError: the status is out of range, or a header field has characters that
            would end it (line breaks): a client could have put them there.
    """

    __signature__ = inspect.signature(bases.Answer)  # a compiled class has none

    def _check(self, headers: Headers) -> None:
        self.body = _checked_body(self.body)
        check_status(self.status)
        if headers:
            pairs = headers.items() if isinstance(headers, Mapping) else headers
            for name, value in pairs:
                self.add_header(name, value)
        if self.content_type is not None:
            check_value("content_type", self.content_type)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header fields that were set, names in lower case."""
        return list(self._fields)

    def add_header(self, name: str, value: str) -> None:
        """Add a header field, beside those of the same name.

        Raises:
            TypeError, ValueError: as for `Response`.
        """
        check_field(name, value)
        name = name.lower()
        if name in _OURS:
            raise ValueError(f"{name} is set by the server")
        if name == "content-type":
            self.content_type = value
        else:
            self._fields = [*self._fields, (name, value)]

    def set_cookie(
        self,
        name: str,
        value: str,
        *,
        max_age: int | None = None,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        http_only: bool = True,
        same_site: str | None = "Lax",
    ) -> None:
        """Add a cookie (RFC 6265).

        Args:
            max_age: seconds; None: until the browser ends; 0 deletes it.

        Raises:
            ValueError: the name or a value has characters that a cookie cannot have.
        """
        if TOKEN.fullmatch(name) is None:
            raise ValueError(f"not a name of a cookie: {name!r}")
        parts = [f"{name}={_cookie_value(value)}"]
        if max_age is not None:
            parts.append(f"Max-Age={max_age}")
        for what, text in (("Path", path), ("Domain", domain), ("SameSite", same_site)):
            if text is not None:
                if ";" in text:
                    raise ValueError(f"{what} of a cookie cannot have ';': {text!r}")
                parts.append(f"{what}={text}")
        parts += ["Secure"] * secure + ["HttpOnly"] * http_only
        self.add_header("set-cookie", "; ".join(parts))

    # ------------------------------------------------------------------------- encoding

    def _length(self) -> int | None:
        """Return the length of a body that is sent in pieces, if it is known."""
        return None

    def _last_chunk(self) -> bytes:
        """Return what ends a body that is sent in chunks (RFC 9112, section 7.1)."""
        return b"0\r\n\r\n"

    def _prepare(self, request: Request) -> None:
        """Become what *request* asks for: of a file, a part, or only whether it has changed."""

    def _head(self, length: int | None, connection: str, *, version: str = "1.1") -> bytes:
        """Return the encoded head.

        Args:
            length: of the body; None if its end is marked in another way.
            connection: the value of that field; empty for none.
            version: of the request.
        """
        content_type = self.content_type
        if content_type is None:
            content_type = TEXT if isinstance(self.body, str) else BYTES
        now = int(time.time())
        if now != _heads.made:
            _heads.begin(now)
        key = (self.status, content_type, length, connection, version)
        head = _heads.get(key) or _heads.make(key)
        if not self._fields:
            return head + b"\r\n"
        fields = [f"{name}: {value}\r\n" for name, value in self._fields]
        fields.append("\r\n")
        return head + "".join(fields).encode("latin-1")


class _Heads(dict[tuple[int, str, int | None, str, str], bytes]):
    """Heads up to the fields of the program, made in this second."""

    made = 0  # in which second
    date = ""
    most = 500

    def begin(self, now: int) -> None:
        self.clear()
        self.made = now
        self.date = formatdate(now, usegmt=True)

    def make(self, key: tuple[int, str, int | None, str, str]) -> bytes:
        status, content_type, length, connection, version = key
        lines = [f"HTTP/1.1 {status} {reason_of(status)}", f"date: {self.date}"]
        if status not in BODILESS:
            lines.append(f"content-type: {content_type}")
        if length is not None:
            if status != 204:
                lines.append(f"content-length: {length}")
        elif version != "1.0" and status not in BODILESS:
            lines.append("transfer-encoding: chunked")
        if connection:
            lines.append(f"connection: {connection}")
        head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
        if len(self) < self.most:
            self[key] = head
        return head


_heads = _Heads()


def http_date() -> str:
    """Return the present time as HTTP writes it (RFC 9110, section 5.6.7)."""
    now = int(time.time())
    if now != _heads.made:
        _heads.begin(now)
    return _heads.date


def _checked_body(body: Any) -> Any:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if isinstance(body, str):
        return str.__str__(body)  # of a subclass, such as the markup of template engines
    if hasattr(body, "__aiter__") or hasattr(body, "__iter__"):
        if isinstance(body, Mapping):
            raise TypeError(
                "the body of a response is text, bytes or an iterable: for a dict, http.json()"
            )
        return body
    raise TypeError(
        f"the body of a response is a str, bytes or an iterable of them, not {type(body).__name__}"
    )


def check_status(status: int) -> None:
    """Check the status of a response (`TypeError`, `ValueError`)."""
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"status must be an int, not {status!r}")
    if not 200 <= status <= 599:
        raise ValueError(f"status must be 200 to 599, not {status}")


def _cookie_value(value: str) -> str:
    if re.fullmatch(r"[!#-+\--:<-\[\]-~]*", value) is None:
        raise ValueError(f"a cookie cannot have this value: {value!r}; encode it")
    return value


# -------------------------------------------------------------------------------- makers


def json(value: Any, status: int = 200, headers: Headers = ()) -> Response:
    """Return a response with *value* as JSON.

    Raises:
        TypeError, ValueError: *value* cannot be written as JSON (RFC 8259: no NaN).
    """
    return Response(json_text(value).encode(), status, headers, "application/json")


def html(text: str, status: int = 200, headers: Headers = ()) -> Response:
    """Return a response with *text* as a page."""
    return Response(text, status, headers, "text/html; charset=utf-8")


def redirect(location: str, status: int = 303) -> Response:
    """Return a response that sends the client to *location*.

    Args:
        location: a URL, absolute or relative; what is not ASCII is percent-encoded (RFC 3987).
        status: 303 (the client uses GET there), 302, 301 (permanent), or 307 and 308, which
            keep the method.

    Raises:
        ValueError: another status, or a location with line breaks.
    """
    if status not in (301, 302, 303, 307, 308):
        raise ValueError(f"status must be 301, 302, 303, 307 or 308, not {status}")
    location = _NOT_ASCII.sub(lambda found: quote(found[0]), location)
    return Response(b"", status, {"location": location}, TEXT)


def event(
    data: str,
    *,
    event: str | None = None,
    id: str | None = None,  # noqa: A002
    retry: int | None = None,
) -> str:
    """Return a server-sent event as text (WHATWG HTML, section 9.2.6).

    Args:
        data: may have several lines.
        event: its type; None: "message".
        id: what the client says when it connects again (``Last-Event-ID``).
        retry: milliseconds after which the client connects again.

    Raises:
        ValueError: *event* or *id* has line breaks.
    """
    lines = []
    for name, value in (("event", event), ("id", id)):
        if value is not None:
            if "\n" in value or "\r" in value or "\0" in value:
                raise ValueError(f"{name} of an event cannot have line breaks: {value!r}")
            lines.append(f"{name}: {value}\n")
    if retry is not None:
        lines.append(f"retry: {int(retry)}\n")
    lines += [f"data: {line}\n" for line in re.split("\r\n|\r|\n", data)]
    return "".join(lines) + "\n"


def events(
    source: AsyncIterable[str],
    *,
    keep_alive: float | None = 15.0,
    until_draining: Request | None = None,
) -> Response:
    """Return a stream of server-sent events; *source* yields data, or what `event` returns.

    Args:
        keep_alive: seconds without an event after which a comment is sent, which clients
            ignore: proxies do not take the connection for dead, and a client that has
            gone is noticed. None: never.
        until_draining: the request, if the stream is to end when the listener begins to close:
            browsers then connect again, and get to the next process. Without it, a stream
            has the grace period to end by itself.
    """
    return Response(
        _encoded(source, keep_alive, until_draining),
        200,
        {"cache-control": "no-store", "x-accel-buffering": "no"},
        "text/event-stream",
    )


async def _encoded(
    source: AsyncIterable[str], keep_alive: float | None, request: Request | None
) -> AsyncIterator[str]:
    values = aiter(source)
    next_one: asyncio.Future[str] | None = None
    draining: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if request is not None:
        request.conn.on_draining(draining.cancel)
    try:
        while not draining.done():
            if next_one is None:
                next_one = asyncio.ensure_future(_next(values))
            await asyncio.wait(
                (next_one, draining), timeout=keep_alive, return_when=asyncio.FIRST_COMPLETED
            )
            if not next_one.done():
                if not draining.done():
                    yield ":\n\n"
                continue
            try:
                value = next_one.result()
            except StopAsyncIteration:
                return
            next_one = None
            yield value if value.endswith("\n\n") else event(value)
    finally:
        if request is not None:
            request.conn.on_draining(None)
        if next_one is not None and not next_one.done():
            next_one.cancel()
            await asyncio.wait((next_one,))
        if hasattr(values, "aclose"):
            await values.aclose()


async def _next(values: AsyncIterator[str]) -> str:
    return await anext(values)


def response_of(error: HTTPError) -> Response:
    """Return the response that *error* stands for."""
    return Response(f"{error.text}\n", error.status, error.headers)


def as_response(value: Any) -> Response:
    """Return the response that a handler meant by returning *value*.

    Raises:
        TypeError: it is neither a response nor a body.
    """
    if isinstance(value, Response):
        return value
    if isinstance(value, str | bytes):
        return Response(value)
    kind = "None" if value is None else type(value).__name__
    hint = ": is `await` missing?" if inspect.isawaitable(value) else ""
    raise TypeError(f"a handler returns an http.Response, a str or bytes, not {kind}{hint}")
