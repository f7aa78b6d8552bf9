"""One request to an application, and its response.

The application is called in the task of the connection. If it goes on after its response, or
while that is sent, it keeps the task, and the connection goes on in another one: so there is no
task for each request, no request waits for what an earlier one still does (background tasks), and
the connection sends each piece of a body before the application may give the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Final, Self

from silly._engine import engine
from silly.net.asgi.extensions import (
    Fields,
    checked_fields,
    early_hint,
    encoded,
    opened,
    takes_trailers,
)
from silly.net.asgi.types import Message
from silly.net.http import HTTPError, Response
from silly.net.http.connection import HANDED_OVER
from silly.net.http.disk import FilePieces
from silly.net.http.errors import reason_of
from silly.net.http.response import BODILESS, check_status, http_date
from silly.net.outcome import crash_of

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.asgi.bases import Cycle, RawAnswer
else:
    from silly.net.asgi.plain import Cycle, RawAnswer

__all__ = ["Exchange"]

CLIENT_GONE: Final = 499  # the status that is counted and logged then, as nginx does
UNSENT: Final = 1024 * 1024  # bytes of a body that nobody gets, before `send` refuses more


class RawResponse(RawAnswer, Response):
    """A response whose header fields are those of the application, as bytes."""

    trailers: Fields = []  # noqa: RUF012 - it is replaced
    ends = False  # the application wants the connection to end

    def __init__(self, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        super().__init__(status, fields)
        for name, value in fields:
            lowered = name.lower()
            if lowered == b"content-length":
                if not value.isdigit():
                    raise ValueError(f"ASGI: content-length is {value!r}, not a number of bytes")
                if self.size not in {None, int(value)}:
                    raise ValueError("ASGI: several values of content-length")
                self.size = int(value)
            elif lowered == b"connection":
                self.ends = self.ends or b"close" in value.lower()

    def _length(self) -> int | None:
        return self.size

    def _last_chunk(self) -> bytes:
        return b"0\r\n%b\r\n" % encoded(self.trailers)

    def _head(self, length: int | None, connection: str, *, version: str = "1.1") -> bytes:
        lines = [b"HTTP/1.1 %d %b" % (self.status, reason_of(self.status).encode())]
        has_date = False
        for name, value in self.fields:
            lowered = name.lower()
            if lowered in {b"connection", b"transfer-encoding"}:
                continue  # of this connection, not of the application
            has_date = has_date or lowered == b"date"
            lines.append(b"%b: %b" % (name, value))
        if not has_date:
            lines.append(b"date: " + http_date().encode("ascii"))
        if self.size is None and self.status not in {204, 304}:
            if length is not None:
                lines.append(b"content-length: %d" % length)
            elif version != "1.0":
                lines.append(b"transfer-encoding: chunked")
        if connection:
            lines.append(b"connection: " + connection.encode("ascii"))
        return b"\r\n".join((*lines, b"", b""))


class Exchange(Cycle):
    """What the application sees as ``receive`` and ``send``.

    Awaiting it runs the application; it returns the response, or `HANDED_OVER`.
    """

    # Most exchanges are plain: what else there may be is set when it is there.
    _pieces: asyncio.Queue[bytes | None] | None = None  # if it is streamed
    _body: AsyncIterator[bytes] | None = None
    _has_body = True  # there is more of the request's body
    _error: BaseException | None = None
    _sent = 0  # bytes of the response's body
    _has_trailers = False  # they are to follow it
    _taken: asyncio.Event | None = None  # by the connection: the last piece
    _over: asyncio.Event | None = None  # the response is complete, or the client is gone

    # -------------------------------------------------------------------- for the application

    async def receive(self) -> Message:
        """Return the next piece of the body; then wait for the client to leave."""
        self._has_received = True
        if self._has_body and not self._is_over:
            return await self._receive_body()
        if not self._is_over:
            if self._over is None:
                self._over = asyncio.Event()
                self._watching = asyncio.get_running_loop().create_task(self._watch())
            await self._over.wait()
        return {"type": "http.disconnect"}

    async def _receive_body(self) -> Message:
        request = self._request
        if self._body is None:
            self._body = aiter(request)
        try:
            piece = await anext(self._body, b"")
        except (HTTPError, EOFError, OSError) as error:  # it is too long, or the client is gone
            if isinstance(error, HTTPError):
                self._begin(error)
            self._leave()
            return {"type": "http.disconnect"}
        self._has_body = bool(piece) and not (request.is_complete and not request._pieces)
        return {"type": "http.request", "body": piece, "more_body": self._has_body}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self._response is not None:
                raise RuntimeError("ASGI: a second http.response.start")
            headers = checked_fields(message.get("headers", ()))
            check_status(message["status"])
            self._response = response = RawResponse(int(message["status"]), headers)
            if response.ends:
                self._request.is_plain = self._request.keeps_alive = False
            self._has_trailers = message.get("trailers", False)
            if "route" in self.scope:
                self._note_route()
        elif kind == "http.response.body":
            more = message.get("more_body", False)
            await self._send_body(bytes(message.get("body", b"")), more or self._has_trailers)
        elif kind == "http.response.trailers":
            await self._send_trailers(message)
        elif kind == "http.response.pathsend":
            self._send_file(self._open_response(kind), message)
        elif kind == "http.response.early_hint":
            if self._response is not None:
                raise RuntimeError("ASGI: http.response.early_hint after http.response.start")
            if self._request.version != "1.0" and not self._is_over:
                await self._request.conn.write(early_hint(message))
        else:
            raise ValueError(f"ASGI: {kind!r} is not understood")

    def _note_route(self) -> None:
        """Note which pattern has matched, for metrics and logs: Starlette and FastAPI say it."""
        pattern = getattr(self.scope["route"], "path", None)
        if isinstance(pattern, str):
            self._request.route = pattern

    async def _send_trailers(self, message: Message) -> None:
        response = self._open_response("http.response.trailers")
        if not self._has_trailers:
            raise RuntimeError("ASGI: http.response.trailers without trailers in the start")
        if takes_trailers(self._request):
            response.trailers = response.trailers + checked_fields(message.get("headers", ()))
        if not message.get("more_trailers", False):
            self._has_trailers = False
            await self._send_body(b"", False)

    def _send_file(self, response: RawResponse, message: Message) -> None:
        if self._pieces is not None:
            raise RuntimeError("ASGI: http.response.pathsend after http.response.body")
        file, size = opened(message)
        if response.size not in {None, size}:
            file.close()
            raise RuntimeError(f"ASGI: content-length is not {size}, the file's size")
        if response.size is None:
            response.size = size
            response.fields.append((b"content-length", b"%d" % size))
        response.body = _Pieces(self, FilePieces(file, 0, size))
        self.is_complete = True
        self._begin(response)

    def _open_response(self, kind: str) -> RawResponse:
        """Return the response, which the application can go on with."""
        response: RawResponse | None = self._response
        if response is None:
            raise RuntimeError(f"ASGI: {kind} before http.response.start")
        if self.is_complete:
            raise RuntimeError(f"ASGI: {kind} after the last one")
        if self._is_over:
            raise ConnectionResetError("the client is gone")
        return response

    async def _send_body(self, body: bytes, more: bool) -> None:
        response = self._open_response("http.response.body")
        self._count(response, len(body), more=more)
        self.is_complete = not more
        if self._pieces is None:
            if not more:
                response.body = body
                self._begin(response)
                return
            self._pieces = asyncio.Queue(1)
            self._taken = asyncio.Event()
            response.body = _Pieces(self, self._streamed())
            self._begin(response)
        if self._has_no_body(response):
            if self._sent > UNSENT and more:
                raise ConnectionResetError("there is nobody who gets the body")
        elif body:
            assert self._taken is not None
            self._taken.clear()
            await self._pieces.put(body)
            await self._taken.wait()
            if self._is_over and more:
                raise ConnectionResetError("the client is gone")
        if not more:
            await self._pieces.put(None)

    def _has_no_body(self, response: RawResponse) -> bool:
        return self._request.method == "HEAD" or response.status in BODILESS

    def _count(self, response: RawResponse, size: int, *, more: bool) -> None:
        """Check that the body has the length that the application has said."""
        self._sent += size
        said = response.size
        if said is None or self._has_no_body(response):
            return
        if self._sent > said or (self._sent < said and not more):
            raise RuntimeError(
                f"ASGI: content-length is {said}, but the body has {self._sent} bytes"
                f"{' or more' if more else ''}"
            )

    def _begin(self, outcome: Response | Exception) -> None:
        if self.outcome is None:
            self.outcome = outcome
            if not self._is_running:
                self._hand_over()

    # --------------------------------------------------------------------- for the connection

    def ended(self, error: BaseException | None) -> bool:
        """Note that the application has returned, or failed with *error*.

        Return whether the connection deals with that.
        """
        if self.is_complete:
            return False
        if error is None:
            error = RuntimeError("the ASGI application returned before its response was complete")
        if self.outcome is None:
            if self._is_over:
                self.outcome = RawResponse(CLIENT_GONE, [(b"connection", b"close")])
                return False
            self.outcome = error if isinstance(error, Exception) else None
            return True
        if self._is_over or self._pieces is None:
            return False
        self._error = error
        if self._taken is not None:
            self._taken.set()
        if not self._pieces.full():
            self._pieces.put_nowait(None)
        return True

    def _finished(self, error: BaseException | None) -> object:
        """Note that the application has returned, or failed with *error*.

        Return the response, or that it is sent by another task; or raise what is to be answered.
        """
        if error is not None:
            error = crash_of(error) or error
        is_dealt_with = self.ended(error)
        if error is not None:
            if not isinstance(error, Exception):
                self._leave()
                if self._watching is not None:
                    self._watching.cancel()
                raise error
            if not is_dealt_with:
                self._owner.log(self, error)
            error = None  # its traceback may refer to this frame
        if self.is_handed_over:
            return HANDED_OVER
        if self._watching is not None:
            self._hand_over()
            return HANDED_OVER
        if isinstance(self.outcome, Exception):
            self._leave()
            raise self._taken_error()
        outcome = self.outcome
        if outcome is not None and type(outcome.body) is bytes:
            self._leave()
        return outcome

    def _hand_over(self) -> None:
        self.is_handed_over = True
        self._owner.hand_over(self._request, self._answer())

    async def _answer(self) -> Response:
        """Return the outcome, in another task than the application's."""
        if isinstance(self.outcome, Exception):
            await self.end()
            raise self._taken_error()
        outcome = self.outcome
        assert outcome is not None
        if type(outcome.body) is bytes:
            await self.end()
        return outcome

    def _taken_error(self) -> Exception:
        """Return the outcome, an error, and forget it: its traceback may refer to this."""
        error = self.outcome
        assert isinstance(error, Exception)
        self.outcome = RawResponse(500, [])  # about what is answered
        return error

    def _leave(self) -> None:
        """Note that nothing more can be received or sent."""
        self._is_over = True
        for event in (self._over, self._taken):
            if event is not None:
                event.set()

    async def end(self) -> None:
        """Note that the response was sent, or that the client is gone."""
        self._leave()
        watching = self._watching
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})
            self._watching = None  # its traceback refers to this

    async def _streamed(self) -> AsyncGenerator[bytes, None]:
        assert self._pieces is not None
        while (piece := await self._pieces.get()) is not None:
            yield piece
            if self._taken is not None:
                self._taken.set()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback refers to this

    async def _watch(self) -> None:
        """Wait until the client has finished."""
        try:
            await self._request._wait_for_end()
        finally:
            self._leave()


class _Pieces:
    """The body of a response; the exchange is closed with it, even if it was not begun."""

    def __init__(
        self, exchange: Exchange, pieces: AsyncGenerator[bytes, None] | FilePieces
    ) -> None:
        self._exchange: Exchange | None = exchange
        self._pieces = pieces
        if isinstance(pieces, FilePieces):
            self.send_to = pieces.send_to

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        exchange, self._exchange = self._exchange, None  # which refers to this: no cycle is left
        try:
            await self._pieces.aclose()
        finally:
            if exchange is not None:
                await exchange.end()


if engine.NAME == "native":
    from silly.net.asgi import plain

    plain.use(Exchange, RawResponse)
