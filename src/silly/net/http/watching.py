"""Observers of requests: the access log, metrics and traces.

An observer of connections (`silly.net.observer`) that has the methods of `RequestObserver`
is notified of requests, too. Without one, a request costs nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from silly._logs.logger import ENDS_PROGRAM
from silly.net.observer import of_requests

if TYPE_CHECKING:
    from silly.net.conn import Conn
    from silly.net.http.request import Request

__all__ = ["GONE", "Answered", "RequestObserver", "Watch", "Watchers"]

GONE: Final = 499  # stands for the status of a response that the client did not wait for


@dataclass(frozen=True, slots=True)
class Answered:
    """How a request was answered."""

    listener: str
    """The address of the listener."""
    conn: Conn
    status: int
    """Of the response; 499 if the connection ended before there was one."""
    received: int
    """Bytes of the request's body."""
    size: int
    """Bytes of the response's body; -1 if it was cut off."""
    seconds: float
    """From the request's head to the end of the response."""
    error: BaseException | None
    """What the handler raised, if it crashed."""


class RequestObserver(Protocol):
    """What an observer of requests has. An exception is logged, and does no other harm."""

    def request_started(self, request: Request, listener: str) -> None:
        """Called before the handler, in its context; *listener* is the listener's address."""

    def request_ended(self, request: Request | None, answered: Answered) -> None:
        """Called in the same context once the response is sent.

        *request* is None if what the client sent was not a request; `request_started` was
        not called then.
        """


class Watchers:
    """The observers of the requests of one listener."""

    def __init__(self, own: tuple[RequestObserver, ...]) -> None:
        self.own = own
        self.listener = ""
        self.on_failure: Callable[[str, BaseException], None] = lambda _what, _error: None

    def refused(self, conn: Conn, status: int, size: int) -> None:
        """Notify them that *conn* has sent no request, and was answered so."""
        self.notify(
            "request_ended", None, Answered(self.listener, conn, status, 0, size, 0.0, None)
        )

    def notify(self, method: str, *arguments: Any) -> None:
        """Call *method* of each; log what fails."""
        for each in (*self.own, *of_requests):
            try:
                getattr(each, method)(*arguments)
            except ENDS_PROGRAM:
                raise
            except BaseException as error:  # noqa: BLE001 - it is logged
                self.on_failure(f"{type(each).__qualname__}.{method}", error)


class Watch:
    """One request, from its head to the end of its response."""

    __slots__ = ("_began", "_request", "_watchers")

    def __init__(self, request: Request, watchers: Watchers) -> None:
        self._request: Request | None = request
        self._watchers = watchers
        self._began = time.perf_counter()
        watchers.notify("request_started", request, watchers.listener)

    def done(self, status: int, size: int, error: BaseException | None = None) -> None:
        """Notify the observers that the request was answered, if they were not."""
        request, self._request = self._request, None
        if request is None:
            return
        seconds = time.perf_counter() - self._began
        self._watchers.notify(
            "request_ended",
            request,
            Answered(
                self._watchers.listener,
                request.conn,
                status,
                request._received,
                size,
                seconds,
                error,
            ),
        )
