"""A request, as handlers see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from silly._engine import engine
from silly.net.http.errors import HTTPError
from silly.net.http.fields import Headers, Query, charset_of
from silly.net.http.trace_context import TraceContext

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.http.bases import Head
else:
    from silly.net.http.plain import Head

if TYPE_CHECKING:
    from silly.net.conn import Conn
    from silly.net.http.forms import Form
    from silly.net.limits import Limits
    from silly.net.tls.info import TLSInfo

__all__ = ["Request", "decoded_path"]


class Connection(Protocol):
    """What a request needs of its connection."""

    async def receive_body(self, request: Request) -> None: ...
    async def wait_for_end(self) -> None: ...
    def hand_over(
        self, request: Request, outcome: Coroutine[Any, Any, Any]
    ) -> asyncio.Task[None]: ...
    def switch(self, request: Request) -> tuple[bytes, Limits]: ...

    memo: Any


class Successor(Protocol):
    """What follows HTTP on a connection: the protocol that a request has asked for."""

    request: Any

    async def _finish(self, code: int) -> None:
        """End what the handler has left open; *code*: 1000, or 1011 if it has failed."""


class Request(Head):
    """One request. The body is received as it is read, at the pace of the reader.

    Attributes:
        method: such as ``"GET"``.
        target: what the client asked for, undecoded: path and query.
        version: ``"1.1"`` or ``"1.0"``.
        route: the router's pattern that matched, such as ``"/users/{id:int}"``; or empty.
        route_params: the parts of the path that the pattern names.
        root_path: the part of the path where the handler is mounted; empty if it is not.
    """

    # Most requests have nothing but a head: what else there may be is set when it is there.
    # `is_plain`: HTTP/1.1, and nothing but a head that asks for an answer
    if TYPE_CHECKING:
        conn: Conn
        _connection: Connection
    keeps_alive = True  # whether the client lets the connection go on
    expects_continue = False  # it waits for "100 Continue" before it sends the body
    upgrade: str | None = None  # the other protocol that it asks for
    _successor: Successor | None = None  # that protocol, once the handler has agreed to it
    # What handles that, if the handler of the request only opens it: nothing of HTTP is kept then.
    _continuation: Callable[[Any], Awaitable[object]] | None = None
    _reported_client: str | None = None  # who the client is, as a proxy that we trust says
    _mount_route = ""  # the prefixes of `root_path`
    _mounted = 0  # length of `root_path` before it was decoded
    _headers: Headers | None = None
    _path: str | None = None
    _query: Query | None = None
    _cookies: dict[str, str] | None = None
    _route_params: dict[str, Any] | None = None
    _state: dict[str, Any] | None = None
    _pieces: list[bytes]  # of the body, received and not read
    _raw_trailers: list[tuple[bytes, bytes]]
    _received = 0  # bytes of the body
    _waited = 0.0  # seconds for it
    _form: Form | None = None
    _error: HTTPError | None = None  # why the rest of the body will not come

    def __init__(
        self,
        method: str,
        raw_target: bytes,
        version: str,
        raw_headers: list[tuple[bytes, bytes]],
        content_length: int,
    ) -> None:
        """Make a request; its body has *content_length* bytes, or -1: until its last chunk."""
        Head.__init__(self, method, raw_target, version, raw_headers, content_length)
        if content_length:
            self._begin_body()

    # -------------------------------------------------------------------------- the head

    @property
    def path(self) -> str:
        """The path, decoded, without the query: ``"/a b"`` of ``/a%20b?x=1``."""
        if self._path is None:
            self._path = decoded_path(self.raw_target.partition(b"?")[0].decode("ascii"))
        return self._path

    @property
    def raw_sub_path(self) -> str:
        """The path below `root_path`, undecoded; the whole path if that is empty."""
        return self.raw_target.partition(b"?")[0].decode("ascii")[self._mounted :]

    @property
    def sub_path(self) -> str:
        """The path below `root_path`, decoded; the whole path if that is empty."""
        return decoded_path(self.raw_sub_path)

    def descend(self, length: int) -> None:
        """Make the next *length* characters of the undecoded path a part of `root_path`."""
        self.root_path += decoded_path(self.raw_sub_path[:length])
        self._mounted += length

    @property
    def query(self) -> Query:
        """The parameters of the query, decoded (see `Query`)."""
        if self._query is None:
            text = self.raw_target.partition(b"?")[2].decode("ascii")
            try:
                self._query = Query.parse(text)
            except ValueError as error:
                raise HTTPError(400, f"the query: {error}") from None
        return self._query

    @property
    def headers(self) -> Headers:
        """The header fields (see `Headers`)."""
        if self._headers is None:
            self._headers = Headers(self.raw_headers)
        return self._headers

    @property
    def trailers(self) -> Headers:
        """The fields that followed the body, once it is complete."""
        return Headers() if self.content_length == 0 else Headers(self._raw_trailers)

    @property
    def route_params(self) -> dict[str, Any]:
        """The parts of the path that the router's pattern names."""
        if self._route_params is None:
            self._route_params = {}
        return self._route_params

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies, by name (RFC 6265, section 4.2); what is not one is left out."""
        if self._cookies is None:
            found: SimpleCookie = SimpleCookie()
            for text in self.headers.get_all("cookie"):
                for pair in text.split(";"):
                    try:
                        found.load(pair.strip())
                    except CookieError:
                        continue
            self._cookies = {name: morsel.value for name, morsel in found.items()}
        return self._cookies

    @property
    def state(self) -> dict[str, Any]:
        """For middleware and handlers to share what they know of the request."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def trace(self) -> TraceContext | None:
        """The trace that the client says the request belongs to (W3C); None if it does not."""
        headers = self.headers
        parents = headers.get_all("traceparent")
        return TraceContext.parse(parents, headers.get_all("tracestate")) if parents else None

    @property
    def remote_addr(self) -> str:
        """The client's address, such as ``"127.0.0.1:53124"``."""
        return self.conn.remote_addr

    @property
    def tls(self) -> TLSInfo | None:
        """What TLS has negotiated; None without it."""
        return self.conn.tls

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target}>"

    # -------------------------------------------------------------------------- the body

    async def body(self) -> bytes:
        """Return the whole body. It can be asked for again.

        Raises:
            HTTPError: it is longer than `Limits.max_body_bytes` (413), comes too slowly
                (408), or is invalid (400). Not catching it answers the client.
            EndOfStream, OSError: the connection ended.
        """
        if self._body is None:
            while not self.is_complete:
                await self._receive_more()
            pieces, self._pieces = self._pieces, []
            self._body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return self._body

    async def text(self) -> str:
        """Return the body as text, in the charset that its type names, or UTF-8.

        Raises:
            HTTPError: as for `body`, or it is not text in that charset (400).
        """
        body = await self.body()
        charset = charset_of(self.headers.get("content-type", ""))
        try:
            return body.decode(charset)
        except (UnicodeDecodeError, LookupError):
            raise HTTPError(400, f"the body is not text in {charset}") from None

    async def json(self) -> Any:
        """Return the body as JSON (RFC 8259).

        Raises:
            HTTPError: as for `body`, or it is not JSON (400).
        """
        try:
            return json.loads(await self.body())
        except (ValueError, RecursionError):
            raise HTTPError(400, "the body is not valid JSON") from None

    async def form(self) -> Form:
        """Return the form in the body: fields, and files that were uploaded.

        See `silly.net.http.forms`.

        Raises:
            HTTPError: as for `body`; or its type is none of a form (415), it is malformed
                (400), or has too many or too long fields (413).
        """
        if self._form is None:
            from silly.net.http.forms import read_form  # noqa: PLC0415 - only if needed

            self._form = await read_form(self.headers.get("content-type", ""), self)
        return self._form

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. What was yielded is not in `body`."""
        if self._body is not None:
            if self._body:
                yield self._body
            return
        while True:
            while self._pieces:
                yield self._pieces.pop(0)
            if self.is_complete:
                return
            await self._receive_more()

    # ------------------------------------------------------------------------- internals

    def _go_on(self, successor: Successor) -> Awaitable[object]:
        """Begin to handle *successor*; keep nothing but the head, in little memory."""
        continuation = self._continuation
        assert continuation is not None
        self._compact()
        return continuation(successor)

    async def _wait_for_end(self) -> None:
        """Wait until the client has finished sending, or the connection is lost.

        What it sends meanwhile are its next requests. For use once the body is complete.
        """
        await self._connection.wait_for_end()

    async def _receive_more(self) -> None:
        """Wait for a piece of the body, or for its end."""
        if self._error is not None:
            raise self._error
        await self._connection.receive_body(self)
        if self._error is not None and not self._pieces:
            raise self._error

    def _begin_body(self) -> None:
        self._pieces = []
        self._raw_trailers = []

    def _receive(self, piece: bytes, most: int) -> bool:
        """Take a *piece* of the body; return whether it has not become too long."""
        self._received += len(piece)
        if self._received > most:
            return False
        self._pieces.append(piece)
        return True

    def _broken(self, error: HTTPError) -> None:
        """Note that the rest of the body will not come."""
        self._error = error


def decoded_path(text: str) -> str:
    """Return a path, or a segment of one, decoded.

    Raises:
        HTTPError: it is not UTF-8 (400).
    """
    if "%" not in text:
        return text
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise HTTPError(400, "the path is not UTF-8") from None
