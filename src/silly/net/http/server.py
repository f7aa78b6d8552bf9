"""The HTTP server: a handler of connections that runs a handler of requests.

A connection's requests are served one after the other in its own task, so a handler reads a
body and writes a response at the pace of its client, and pipelined requests are answered in
their order. What several of them write in one turn is sent together.

Nothing is timed while all goes well: a head that arrives whole needs no deadline. Idle
connections are swept.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from silly._engine import engine, stream_errors
from silly._logs.crashes import Crashes
from silly._logs.logger import Logger
from silly._values.units import counted
from silly.errors import EndOfStream
from silly.net import tcp
from silly.net.conn import Conn
from silly.net.course import Course
from silly.net.http.access_log import RequestLog
from silly.net.http.errors import HTTPError
from silly.net.http.request import Request, Successor
from silly.net.http.response import BODILESS, Response, as_response, response_of
from silly.net.http.session import ServerSession
from silly.net.http.watching import GONE, Watch, Watchers
from silly.net.limits import Limits
from silly.net.listener import Listener
from silly.net.observer import Observer, observes_requests, of_requests
from silly.net.sweep import CHECKS, Sweep

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.http.bases import DRAINED, Counts, encoded
else:
    from silly.net.http.plain import DRAINED, Counts, encoded

__all__ = ["Handler", "Service", "listen", "service_of"]

logger = Logger("silly.http")

Handler = Callable[[Request], Awaitable[Any]]

HANDED_OVER: Final = object()  # what a handler returns after `_Connection.hand_over`

DISCARDED: Final = 256 * 1024  # bytes of a body that nobody read, before the connection is closed
DISCARD_TIME: Final = 5.0  # seconds for that
JOINED: Final = 64 * 1024  # bytes: a longer body is not copied behind its head

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def listen(
    addr: str,
    handler: Handler,
    backlog: int = tcp.BACKLOG,
    *,
    limits: Limits | None = None,
    access_log: bool = False,
    **options: Any,
) -> Listener:
    r"""Listen on *addr* and run ``handler(request)`` for each request; it returns a `Response`.

    ::

        async def hello(request):
            return http.Response("Hello, World!\n")

        http.listen("127.0.0.1:8080", hello)

    A handler may also return a `str` or `bytes`, and raise `HTTPError`. Any other exception
    is answered with 500, or, if the response has begun, by cutting the connection; it
    is logged and counted, and nobody else is affected.

    Connections are kept open between requests. While the listener closes, idle ones are closed
    at once, and running requests are finished.

    Args:
        addr, backlog: as for `silly.net.tcp.listen`.
        handler: a coroutine function of one argument, the `Request`; a `Router` is one.
        limits: as for `silly.net.tcp.listen`; those of HTTP are `Limits.max_head_bytes` and
            what follows it.
        access_log: log a line for each request, to the logger ``silly.access``.
        options: the others of `silly.net.tcp.listen`, such as ``tls=``.

    Raises:
        OSError, TypeError, ValueError, RuntimeError: as `silly.net.tcp.listen`.
    """
    if not callable(handler):
        raise TypeError(
            f"handler must be a coroutine function taking the request, not {type(handler).__name__}"
        )
    limits = Limits.from_env() if limits is None else limits
    service = Service(handler, limits, is_logged=access_log, observer=options.get("observer"))
    listener = tcp.listen(addr, service, backlog, limits=limits, **options)
    service.begin(asyncio.get_running_loop(), listener.local_addr, listener._course)
    _services[listener] = service
    return listener


_services: weakref.WeakKeyDictionary[Listener, Service] = weakref.WeakKeyDictionary()


def service_of(listener: Listener) -> Service:
    """Return the service of a listener that `listen` made: its counts.

    Raises:
        KeyError: it serves something else.
    """
    return _services[listener]


class Service:
    """The HTTP of one listener.

    Attributes:
        crashes: how many handlers failed.
    """

    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        *,
        is_logged: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits
        own: list[Any] = [observer] if observes_requests(observer) else []
        self.watchers = Watchers((*own, RequestLog()) if is_logged else tuple(own))
        self.counts = Counts()
        self.crashes = 0
        self.is_draining = False
        self.connections: set[_Connection] = set()
        self.__qualname__ = getattr(handler, "__qualname__", None) or type(handler).__name__

    def begin(
        self, loop: asyncio.AbstractEventLoop, name: str, course: Course | None = None
    ) -> None:
        """Begin to serve; *name* is the listener's address, *course* that of its connections."""
        self.name = self.watchers.listener = name
        self.loop = loop
        self._course = course
        self._crash_logs = Crashes(loop, logger, self._summarize)
        self._observer_failures = Crashes(loop, logger, self._summarize_observer_failures)
        self.watchers.on_failure = self._log_observer_failure
        if course is not None:
            course.logs += self._crash_logs.close, self._observer_failures.close
            course.drains.append(self.drain)
        self._sweep = Sweep(loop, lambda: list(self.connections), _Connection.check)
        self._interval = self.limits.keep_alive_timeout / CHECKS

    def __call__(self, conn: Conn) -> Coroutine[Any, Any, None]:
        """Serve the requests of a connection."""
        return _Connection(self, conn).serve()

    def drain(self) -> None:
        """The listener is closing: close idle connections, and the others after their response."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.drain()

    def add(self, connection: _Connection) -> None:
        """Watch over *connection*, until it is discarded from `connections`."""
        self.connections.add(connection)
        if self._sweep.interval > self._interval:
            self._sweep.start(self._interval)

    @property
    def responses(self) -> dict[tuple[str, int], int]:
        """How many responses were sent, by method and status."""
        return self.counts.items()

    def count(self, method: str, status: int) -> None:
        """Count a response."""
        self.counts.add(method, status)

    def log_crash(self, request: Request, error: BaseException) -> None:
        """Count and log that the handler failed."""
        self.crashes += 1
        if self._course is not None:
            self._course.count_crash(error)
        trace = "" if request.trace is None else f" (trace {request.trace.trace_id})"
        self._crash_logs.log(
            error, "%s: %s %s failed%s", request.remote_addr, request.method, request.target, trace
        )

    async def end(self, successor: Successor, crash: BaseException | None) -> None:
        """End the protocol that followed a request, and whose handler has ended, by *crash*."""
        if crash is not None:
            if stream_errors.belongs_to(successor.request.conn, crash):
                raise crash  # it is this connection that has ended
            self.log_crash(successor.request, crash)
        await successor._finish(1000 if crash is None else 1011)

    def _log_observer_failure(self, what: str, error: BaseException) -> None:
        self._observer_failures.log(error, "%s: observer %s failed", self.name, what)

    def _summarize_observer_failures(self, kind: str, number: int) -> None:
        times = counted(number, "more time")
        logger.error("%s: an observer failed %s: %s", self.name, times, kind)

    def _summarize(self, kind: str, number: int) -> None:
        times = counted(number, "more time")
        logger.error("%s: %s failed %s: %s", self.name, self.__qualname__, times, kind)


class _Connection:
    """One connection: its requests and their responses, in order."""

    __slots__ = (
        "__weakref__",
        "_conn",
        "_done",
        "_idle_after",
        "_idle_since",
        "_is_draining",
        "_left_to",
        "_next_task",
        "_service",
        "_session",
        "_waited",
        "_watch",
        "memo",
    )

    def __init__(self, service: Service, conn: Conn) -> None:
        self._service = service
        self._conn = conn
        self._session = ServerSession(service.limits)
        self._is_draining = service.is_draining
        self._left_to: Successor | None = None  # handled without us
        self._idle_since = 0.0  # when the sweep first found it so ...
        self._idle_after = 0  # ... after how many requests
        self._watch: Watch | None = None  # of the last request that was watched
        self._waited = 0.0  # seconds for the body of the present request
        self._done: asyncio.Future[BaseException | None] | None = None  # see `hand_over`
        self._next_task: asyncio.Task[None] | None = None
        self.memo: Any = None  # for the handler

    # -------------------------------------------------------------- idle and draining

    def drain(self) -> None:
        """The listener is closing: end when the running request is answered."""
        self._is_draining = True
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
        elif now - self._idle_since >= self._service.limits.keep_alive_timeout * (1 - 1 / CHECKS):
            self._conn.close()
            return True
        return False

    # -------------------------------------------------------------------------- requests

    async def serve(self) -> None:
        """Serve the requests, until the connection ends or has to."""
        self._service.add(self)
        try:
            await self._serve()
            if self._done is not None and (error := await self._done) is not None:
                raise error
        except EndOfStream:
            if not self._session.is_waiting:
                raise
        finally:
            if self._next_task is not None:
                self._next_task.cancel()
            self._service.connections.discard(self)
            if self._session.limit is not None:
                conn: Any = self._conn
                conn._note_limit(self._session.limit)
        successor = self._left_to
        if successor is not None:
            service = self._service
            del self  # and with it, what only HTTP needs
            try:  # in this frame: one more for each idle WebSocket would be memory
                await successor.request._go_on(successor)
            except Exception as error:  # noqa: BLE001 - it is logged
                await service.end(successor, error)
            else:
                await service.end(successor, None)

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
            if await self._respond(request, outcome):
                await self._serve()
            if self._left_to is not None:
                successor, self._left_to = self._left_to, None
                await _run(self._service, successor)
        except asyncio.CancelledError:
            self._conn.abort()
            raise
        except Exception as failed:  # noqa: BLE001 - the first task raises it
            error = failed
        finally:
            if self._next_task in {None, asyncio.current_task()} and self._done is not None:
                self._next_task = None
                self._conn.close()
                if not self._done.done():
                    self._done.set_result(error)

    async def _respond(self, request: Request, outcome: Awaitable[Response]) -> bool:
        watch = self._watch
        try:
            try:
                response = await outcome
            except Exception as error:  # noqa: BLE001 - it is logged
                return await self._answer_failure(request, error, watch)
            return await self._answer(request, response, watch)
        finally:
            if watch is not None:
                watch.done(GONE, -1)

    async def _serve(self) -> None:  # noqa: C901, PLR0912 - all that most requests need, in one frame
        conn, session, service = self._conn, self._session, self._service
        take, feed, read, write = session.take, session.feed, conn.read, conn.write
        handler, counts, own_watchers = service.handler, service.counts, service.watchers.own
        while True:
            request = take(conn, self)
            if request is None:
                if self._is_draining:
                    return
                feed(await read())  # without a name: an idle connection would keep it
            elif request is False:
                if not await self._read_on():
                    return
            else:
                watch = None
                if own_watchers or of_requests:
                    watch = self._watch = Watch(request, service.watchers)
                goes_on, reply = True, None
                try:
                    try:
                        response = await handler(request)
                        if not isinstance(response, Response):
                            if response is HANDED_OVER:
                                watch = None  # the other task notifies them
                                return
                            if request._successor is None:
                                response = as_response(response)
                        if not self._is_draining:
                            reply = encoded(request, response, counts)
                    except Exception as error:  # noqa: BLE001 - it is logged
                        goes_on = await self._answer_failure(request, error, watch)
                    else:
                        if reply is None:
                            goes_on = await self._answer(request, response, watch)
                        else:
                            if (drain := write(reply)) is not DRAINED:
                                await drain
                            if watch is not None:
                                watch.done(response.status, len(_encoded(response.body)))
                finally:
                    if watch is not None:
                        watch.done(GONE, -1)
                        watch = None
                    if reply is None:
                        self._end(request)
                    request = response = reply = None  # likewise
                if not goes_on:
                    return

    async def _read_on(self) -> bool:
        """Receive what is missing of a head; return whether the connection goes on."""
        session = self._session
        if session.error is None and not session.ends and not self._is_draining:
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
            left = max(0.0, limits.read_deadline + earned - self._waited)
        begun = loop.time()
        try:
            data = await conn.read(timeout=left)
        except TimeoutError:
            if not conn.is_alive:
                raise
            session._fail(408, "the body of the request came too slowly", "read_deadline")
            return
        finally:
            self._waited += loop.time() - begun
        session.feed(data)

    # ------------------------------------------------------------------------- responses

    async def _answer_failure(
        self, request: Request, error: Exception, watch: Watch | None
    ) -> bool:
        """Answer *request*, for which the handler has failed with *error*."""
        if isinstance(error, HTTPError) and request._successor is None:
            return await self._answer(request, response_of(error), watch)
        if stream_errors.belongs_to(self._conn, error):
            raise error  # it is this connection that has ended
        response = Response("Internal Server Error\n", 500)
        return await self._answer(request, response, watch, crash=error)

    async def _answer(
        self,
        request: Request,
        response: Response,
        watch: Watch | None,
        *,
        crash: BaseException | None = None,
    ) -> bool:
        """Answer *request* with *response*; return whether the connection goes on."""
        service = self._service
        if request._successor is not None:
            return await self._end_successor(request, request._successor, crash)
        keeps = self._keeps(request)
        try:
            size = await self._send(request, response, "" if keeps else "close")
        except Exception as error:  # noqa: BLE001 - it is logged
            self._conn.abort()  # the client must not take it for the whole response
            keeps, size = False, -1
            if error is not request._error and not stream_errors.belongs_to(self._conn, error):
                crash = error
        service.count(request.method, response.status)
        if crash is not None:
            service.log_crash(request, crash)
        if watch is not None:
            watch.done(response.status, size, crash)
        return keeps and (request.is_plain or await self._go_on_after(request))

    def switch(self, request: Request) -> tuple[bytes, Limits]:
        """Give up HTTP: *request* is answered with 101, and another protocol follows.

        Return what was received after it, and the limits of the listener.
        """
        service = self._service
        service.count(request.method, 101)
        if self._watch is not None:
            self._watch.done(101, 0)
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

    def _end(self, request: Request) -> None:
        """Forget what *request* had beside its head."""
        self._waited = 0.0
        if not request.is_plain and request._form is not None:
            request._form.close()

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
            return not self._is_draining
        if not request.keeps_alive or self._is_draining or request._error is not None:
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


async def _run(service: Service, successor: Successor) -> None:
    """Run the handler of *successor*."""
    try:
        await successor.request._go_on(successor)
    except Exception as error:  # noqa: BLE001 - it is logged
        await service.end(successor, error)
    else:
        await service.end(successor, None)


def _encoded(piece: Any) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(memoryview(piece))


async def _iterated(pieces: Any) -> Any:
    for piece in pieces:
        yield piece
