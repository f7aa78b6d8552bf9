"""The HTTP server: `listen`, and what the connections of one listener have in common."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from silly._engine import engine, stream_errors
from silly._logs.crashes import Crashes
from silly._logs.logger import Logger
from silly._values.units import counted
from silly.net import tcp
from silly.net.conn import Conn
from silly.net.course import Course
from silly.net.http.access_log import RequestLog
from silly.net.http.connection import Handler, ServerConnection
from silly.net.http.request import Request, Successor
from silly.net.http.watching import Watchers
from silly.net.limits import Limits
from silly.net.listener import Listener
from silly.net.observer import Observer, observes_requests
from silly.net.sweep import CHECKS, Sweep

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.http.bases import Counts
else:
    from silly.net.http.plain import Counts

__all__ = ["Handler", "Service", "listen", "service_of"]

logger = Logger("silly.http")


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
        self.connections: set[ServerConnection] = set()
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
        self._sweep = Sweep(loop, lambda: list(self.connections), ServerConnection.check)
        self._interval = self.limits.keep_alive_timeout / CHECKS

    def __call__(self, conn: Conn) -> Coroutine[Any, Any, None]:
        """Serve the requests of a connection."""
        return ServerConnection(self, conn).serve()

    def drain(self) -> None:
        """The listener is closing: so do connections, after the responses that are due."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.drain()

    def add(self, connection: ServerConnection) -> None:
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
