"""One connection of the HTTP server: its requests, and their responses, in order.

The requests are served one after the other in the connection's own task, so a handler reads a
body and writes a response at the pace of its client, and pipelined requests are answered in
their order. What several of them write in one turn is sent together.

Nothing is timed while all goes well: a head that arrives whole needs no deadline. Idle
connections are swept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

from silly._engine import engine, stream_errors
from silly.errors import EndOfStream
from silly.net.conn import Conn
from silly.net.http.bases import UNASKED
from silly.net.http.disk import FilePieces
from silly.net.http.errors import HTTPError
from silly.net.http.request import Request, Successor
from silly.net.http.response import BODILESS, Response, as_response, response_of
from silly.net.http.session import ServerSession
from silly.net.http.watching import GONE, Watch, Watchers
from silly.net.limits import Limits
from silly.net.observer import of_requests
from silly.net.outcome import crash_of

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.http.bases import Counts, Handling, encoded
else:
    from silly.net.http.handling import Handling
    from silly.net.http.plain import Counts, encoded

__all__ = ["HANDED_OVER", "Handler", "Owner", "ServerConnection"]

Handler = Callable[[Request], Awaitable[Any]]

HANDED_OVER: Final = object()  # what a handler returns after `ServerConnection.hand_over`

DISCARDED: Final = 256 * 1024  # bytes of a body that nobody read, before the connection is closed
DISCARD_TIME: Final = 5.0  # seconds for that
JOINED: Final = 64 * 1024  # bytes: a longer body is not copied behind its head

# Seconds after the listener has begun to close, in which requests that were on their way are taken:
IN_FLIGHT: Final = 0.02  # after others on the connection
FIRST_REQUEST: Final = 0.25  # the first, which comes a round trip after the connection

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Owner(Protocol):
    """What a connection needs of that which all connections of a listener have in common."""

    handler: Handler
    limits: Limits
    watchers: Watchers
    counts: Counts
    loop: asyncio.AbstractEventLoop
    is_draining: bool
    connections: set[ServerConnection]

    def add(self, connection: ServerConnection) -> None:
        """Watch over *connection*, until it is discarded from `connections`."""

    def count(self, method: str, status: int) -> None:
        """Count a response."""

    def log_crash(self, request: Request, error: BaseException) -> None:
        """Count and log that the handler failed."""

    async def end(self, successor: Successor, crash: BaseException | None) -> None:
        """End the protocol that followed a request, and whose handler has ended, by *crash*."""


class ServerConnection:
    """One connection: its requests and their responses, in order."""

    __slots__ = (
        "__weakref__",
        "_conn",
        "_done",
        "_idle_after",
        "_idle_since",
        "_left_to",
        "_next_task",
        "_service",
        "_session",
        "_watch",
        "memo",
    )

    def __init__(self, service: Owner, conn: Conn) -> None:
        self._service = service
        self._conn = conn
        self._session = ServerSession(service.limits)
        self._left_to: Successor | None = None  # handled without us
        self._idle_since = 0.0  # when the sweep first found it so ...
        self._idle_after = 0  # ... after how many requests
        self._watch: Watch | None = None  # of the last request that was watched
        self._done: asyncio.Future[BaseException | None] | None = None  # see `hand_over`
        self._next_task: asyncio.Task[None] | None = None
        self.memo: Any = None  # for the handler

    # -------------------------------------------------------------- idle and draining

    def drain(self) -> None:
        """The listener is closing: end when the running request is answered.

        So is one that is on its way now.
        """
        self._session.is_draining = True
        wait = IN_FLIGHT if self._session.taken else FIRST_REQUEST
        self._service.loop.call_later(wait, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._session.is_waiting:
            self._conn.close()

    def check(self, now: float) -> bool:
        """Close the connection if it has been idle for too long (called by the sweep)."""
        session = self._session
        if not session.is_waiting:
            self._idle_since = 0.0
        elif not self._idle_since or session.taken != self._idle_after:
            self._idle_since = now
            self._idle_after = session.taken
        elif now - self._idle_since >= self._service.limits.keep_alive_timeout:
            self._conn.close()
            return True
        return False

    # -------------------------------------------------------------------------- requests

    async def serve(self) -> None:
        """Serve the requests, until the connection ends or has to."""
        self._service.add(self)
        if self._service.is_draining:
            self.drain()
        lost = None
        try:
            await self._serve()
            if self._done is not None and (lost := await self._done) is not None:
                raise lost
        except EndOfStream:
            if not self._session.is_waiting:
                raise
        finally:
            lost = self._done = None  # its traceback refers to this frame
            if self._next_task is not None:
                self._next_task.cancel()
            self._service.connections.discard(self)
            self._note_end()
            self._session.retire()  # its parser refers to it
        successor = self._left_to
        if successor is not None:
            service = self._service
            del self  # and with it, what only HTTP needs
            crash = None
            try:  # in this frame: one more for each idle WebSocket would be memory
                await successor.request._go_on(successor)
            except BaseException as error:
                if (crash := crash_of(error)) is None:
                    raise
            try:
                await service.end(successor, crash)
            finally:
                crash = None  # its traceback refers to this frame

    def _note_end(self) -> None:
        """Tell the connection, before it is closed, why it ends here."""
        conn: Any = self._conn
        if self._session.limit is not None:
            conn._note_limit(self._session.limit)
        if self._session.expects_more:
            conn._expect_more()

    def hand_over(
        self, request: Request, outcome: Coroutine[Any, Any, Response]
    ) -> asyncio.Task[None]:
        """Let another task answer *request* with *outcome*, and serve the next requests.

        For a handler that goes on in this one; it returns `HANDED_OVER` in the end.
        """
        if self._done is None:
            self._done = self._service.loop.create_future()
        self._next_task = self._service.loop.create_task(self._go_on(request, outcome))
        return self._next_task

    async def _go_on(self, request: Request, outcome: Coroutine[Any, Any, Response]) -> None:
        error: BaseException | None = None
        try:
            if await self._respond(request, lambda _: outcome, self._watch):
                await self._serve()
        except asyncio.CancelledError:
            self._conn.abort()
            raise
        except Exception as failed:  # noqa: BLE001 - the first task raises it
            error = failed
        finally:
            if self._next_task in {None, asyncio.current_task()} and self._done is not None:
                self._next_task = None
                self._note_end()
                self._conn.close()
                if not self._done.done():
                    self._done.set_result(error)
            error = None  # its traceback refers to this frame

    async def _serve(self) -> None:
        service = self._service
        own_watchers = service.watchers.own
        handling = Handling(self, self._conn, self._session, service, of_requests)
        try:
            while True:
                request = await handling
                if request is None:
                    return
                if request is False:
                    if not await self._read_on():
                        return
                    continue
                response, error = handling.response, handling.error
                if response is UNASKED:
                    watch = None
                    if own_watchers or of_requests:
                        watch = self._watch = Watch(request, service.watchers)
                    goes_on = await self._respond(request, service.handler, watch)
                elif response is HANDED_OVER:
                    return
                else:
                    goes_on = await self._answer(request, response, error)
                _end(request)
                if not goes_on:
                    return
                request = response = error = None  # an idle connection would keep them
        finally:
            if handling.request is not None:
                _end(handling.request)

    async def _respond(
        self,
        request: Request,
        handler: Callable[[Request], Awaitable[Any]],
        watch: Watch | None,
    ) -> bool:
        """Have *handler* answer *request*; return whether the connection goes on here."""
        response, error = None, None
        try:
            try:
                response = await handler(request)
            except BaseException as failed:
                if (error := crash_of(failed)) is None:
                    raise
            if response is HANDED_OVER:
                watch = None  # the other task notifies them
                return False
            return await self._answer(request, response, error, watch)
        finally:
            error = None  # its traceback refers to this frame
            if watch is not None:
                watch.done(GONE, -1)

    async def _read_on(self) -> bool:
        """Receive what is missing of a head; return whether the connection goes on."""
        session = self._session
        goes_on = session.in_head or not session.is_draining
        if session.error is None and not session.ends and goes_on:
            await self._read_head()
            return True
        if session.error is not None:
            await self._refuse(session.error)
        return False

    async def _read_head(self) -> None:
        """Receive the rest of a head that has begun."""
        session, loop = self._session, self._service.loop
        due = loop.time() + self._service.limits.head_timeout
        while session.in_head and session.error is None:
            try:
                data = await self._conn.read(timeout=max(0.0, due - loop.time()))
            except TimeoutError:
                if not self._conn.is_alive:
                    raise
                session._fail(408, "the head of the request took too long", "head_timeout")
                return
            session.feed(data)

    async def wait_for_end(self) -> None:
        """Receive the next requests, up to a bound, until the client has finished."""
        with contextlib.suppress(EndOfStream, OSError):
            while self._session.pending < self._service.limits.max_pipelined:
                self._session.feed(await self._conn.read())
            await self._conn.wait_closed()

    async def receive_body(self, request: Request) -> None:
        """Receive more of the body of *request*."""
        conn, session, loop = self._conn, self._session, self._service.loop
        if request.expects_continue:
            request.expects_continue = False
            if not request._received:
                conn.write(_CONTINUE)
        limits = self._service.limits
        left = None
        if limits.read_deadline is not None:
            earned = request._received / limits.min_receive_rate if limits.min_receive_rate else 0.0
            left = max(0.0, limits.read_deadline + earned - request._waited)
        begun = loop.time()
        try:
            data = await conn.read(timeout=left)
        except TimeoutError:
            if not conn.is_alive:
                raise
            session._fail(408, "the body of the request came too slowly", "read_deadline")
            return
        finally:
            request._waited += loop.time() - begun
        session.feed(data)

    # ------------------------------------------------------------------------- responses

    def _outcome(
        self, request: Request, response: Any, error: Exception | None
    ) -> tuple[Any, Exception | None]:
        """Return the response to send, and the defect that it reports, if any.

        Args:
            response: what the handler has returned, or ...
            error: ... what it has raised.
        """
        if error is None:
            if isinstance(response, Response) or request._successor is not None:
                return response, None
            try:
                return as_response(response), None
            except Exception as failed:  # noqa: BLE001 - it is logged
                return self._outcome(request, response, failed)
        if isinstance(error, HTTPError) and request._successor is None:
            return response_of(error), None
        if stream_errors.belongs_to(self._conn, error):
            raise error  # it is this connection that has ended
        return Response("Internal Server Error\n", 500), error

    async def _answer(
        self,
        request: Request,
        response: Any,
        error: Exception | None,
        watch: Watch | None = None,
    ) -> bool:
        """Answer *request*, whose handler has returned *response* or raised *error*.

        Return whether the connection goes on.
        """
        service = self._service
        crash = None
        try:
            response, crash = self._outcome(request, response, error)
            if request._successor is not None:
                return await self._end_successor(request, request._successor, crash)
            if watch is not None and crash is None and not self._session.is_draining:
                reply = encoded(request, response, service.counts)
                if reply is not None:
                    await self._conn.write(reply)
                    watch.done(response.status, len(_encoded(response.body)))
                    return True
            keeps = self._keeps(request)
            try:
                size = await self._send(request, response, "" if keeps else "close")
            except Exception as failed:  # noqa: BLE001 - it is logged
                self._conn.abort()  # the client must not take it for the whole response
                keeps, size = False, -1
                ends = failed is request._error or stream_errors.belongs_to(self._conn, failed)
                crash = crash if ends else failed
            service.count(request.method, response.status)
            if crash is not None:
                service.log_crash(request, crash)
            if watch is not None:
                watch.done(response.status, size, crash)
            return keeps and (request.is_plain or await self._go_on_after(request))
        finally:
            error = crash = None  # their tracebacks refer to this frame

    def switch(self, request: Request) -> tuple[bytes, Limits]:
        """Give up HTTP: *request* is answered with 101, and another protocol follows.

        Return what was received after it, and the limits of the listener.
        """
        service = self._service
        service.count(request.method, 101)
        if self._watch is not None:
            self._watch.done(101, 0)
        service.connections.discard(self)  # they are watched over for HTTP
        request._connection = None  # type: ignore[assignment] # its body is complete
        return self._session.retire(), service.limits

    async def _end_successor(
        self, request: Request, successor: Successor, crash: BaseException | None
    ) -> bool:
        """End the protocol that followed *request*, or leave it to what continues with it."""
        if request._continuation is not None and crash is None:
            self._left_to = successor
        else:
            await self._service.end(successor, crash)
        return False

    async def _go_on_after(self, request: Request) -> bool:
        """Deal with what *request* had beside its head; return whether the connection goes on."""
        if not request.keeps_alive:  # it was streamed, to HTTP/1.0
            return False
        if not request.is_complete and not await self._discard_body(request):
            return False
        self._session.continue_after(request)
        return True

    def _keeps(self, request: Request) -> bool:
        """Return whether the connection can go on after *request*."""
        if request.is_plain:
            return not self._session.is_draining
        if not request.keeps_alive or self._session.is_draining or request._error is not None:
            return False
        if request.is_complete:
            return True
        left = request.content_length - request._received
        return 0 <= left <= DISCARDED and not request.expects_continue

    async def _send(self, request: Request, response: Response, connection: str) -> int:
        """Send *response*; return how many bytes its body has."""
        if type(response) is not Response:
            response._prepare(request)
        body = response.body
        if type(body) is str:
            body = body.encode()
        elif type(body) is not bytes:
            return await self._send_pieces(request, response, connection)
        status = response.status
        if not connection and not request.is_plain and request.version == "1.0":
            connection = "keep-alive"
        length: int | None = len(body)
        if status != 200 and status in BODILESS:
            length = 0 if status == 205 else None
        head = response._head(length, connection)
        if request.method == "HEAD" or not length:
            await self._conn.write(head)
            return 0
        await self._conn.write(head + body if length < JOINED else [head, body])
        return length

    async def _send_pieces(self, request: Request, response: Response, connection: str) -> int:
        """Send a body as it is made.

        If its length is unknown, it is sent in chunks, or to HTTP/1.0 up to the connection's end.
        """
        conn = self._conn
        length = response._length()
        is_chunked = length is None and request.version != "1.0"
        if length is None and not is_chunked:
            request.keeps_alive = False
            connection = "close"
        pieces: Any = response.body
        size = 0
        try:
            if response.status == 205:
                length = 0
            if not (isinstance(pieces, FilePieces) and pieces.is_begun):
                await conn.write(response._head(length, connection, version=request.version))
            if request.method == "HEAD" or response.status in BODILESS:
                return 0
            if not is_chunked and hasattr(pieces, "send_to"):
                return int(await pieces.send_to(conn))
            pieces = aiter(pieces) if hasattr(pieces, "__aiter__") else _iterated(pieces)
            async for piece in pieces:
                data = piece if type(piece) is bytes else _encoded(piece)
                if not data:
                    continue  # an empty chunk would be the last
                size += len(data)
                if is_chunked:
                    await conn.write((b"%x\r\n" % len(data), data, b"\r\n"))
                else:
                    await conn.write(data)
            if is_chunked:
                await conn.write(response._last_chunk())
            return size
        finally:
            if hasattr(pieces, "aclose"):
                await pieces.aclose()

    async def _refuse(self, error: HTTPError) -> None:
        """Answer what is no request, and end."""
        response = response_of(error)
        body = error.text.encode() + b"\n"
        self._service.count("-", error.status)
        await self._conn.write(response._head(len(body), "close") + body)
        if self._service.watchers.own or of_requests:
            self._service.watchers.refused(self._conn, error.status, len(body))

    async def _discard_body(self, request: Request) -> bool:
        """Receive what nobody has read of a body; return whether it has ended soon."""
        with contextlib.suppress(HTTPError, TimeoutError):
            async with asyncio.timeout(DISCARD_TIME):
                async for _ in request:
                    pass
        return request.is_complete


def _end(request: Request) -> None:
    """Forget what *request* had beside its head."""
    if not request.is_plain and request._form is not None:
        request._form.close()


def _encoded(piece: Any) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(memoryview(piece))


async def _iterated(pieces: Any) -> Any:
    for piece in pieces:
        yield piece
