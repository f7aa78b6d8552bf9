"""Observers: objects that are notified of each connection's beginning and end.

Access logs, metrics and traces are observers. An observer watches one listener
(``tcp.listen(..., observer=...)``) or all listeners of the process (`register`). It is
called twice for each connection, and never for a message.

A connection is over when its handler has ended *and* its socket is closed: only then
is it known how many bytes were sent. How it ended is decided when the handler ends:

==================  ==============================================================
``peer_finished``   the peer finished sending, and the handler ended
``closed_here``     the handler ended, or closed it, before the peer finished
``reset``           the peer reset or aborted it
``lost``            the network failed, or the operating system gave up
*a limit*           a field of `silly.net.limits.Limits`, such as ``idle_timeout``
``cancelled``       the handler was cancelled, such as by `Listener.close`
``handler_error``   the handler crashed
==================  ==============================================================

How the handler reacts does not matter: if it returns after a reset, the ending is
``reset``.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from silly._logs.logger import ENDS_PROGRAM, Logger
from silly._logs.repeats import Repeats
from silly._logs.tracebacks import place
from silly.net.conn import Conn, StreamConn
from silly.net.limits import Limits
from silly.text import printable

__all__ = ["ENDINGS", "Ending", "ObservedListener", "Observer", "register", "unregister"]

logger = Logger("silly.net")

ENDINGS: Final = (
    "peer_finished",
    "closed_here",
    "reset",
    "lost",
    "cancelled",
    "handler_error",
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended."""

    how: str
    """One of `ENDINGS`, or a field of `silly.net.limits.Limits`."""
    error: BaseException | None
    """The exception that the handler raised; None if it returned or was cancelled."""
    handler_seconds: float
    """How long the handler ran, counted from accepting the connection."""
    seconds: float
    """How long the connection lasted, including lingering."""


class ObservedListener(Protocol):
    """What observers can rely on of a listener: a `silly.net.tcp.Listener` in programs."""

    @property
    def local_addr(self) -> str:
        """The address that it listens on."""

    @property
    def local_addrs(self) -> tuple[str, ...]:
        """All addresses that it listens on."""

    @property
    def connections(self) -> int:
        """How many connections are open now."""

    @property
    def limits(self) -> Limits:
        """The limits of its connections."""


class Observer(Protocol):
    """The interface of observers. An exception is logged and does not affect the connection.

    *listener* is the `silly.net.tcp.Listener`.
    """

    def opened(self, conn: Conn, listener: Any) -> None:
        """Called when *listener* has accepted *conn*, before its handler starts.

        Runs in the handler's context: context variables set here are set there.
        """

    def closed(self, conn: Conn, listener: Any, ending: Ending) -> None:
        """Called when *conn* is over, in the same context as `opened`."""


def checked(observer: Observer) -> Observer:
    """Return *observer* if it has the two methods.

    Raises:
        TypeError: it does not.
    """
    for method in ("opened", "closed"):
        if not callable(getattr(observer, method, None)) or isinstance(observer, type):
            raise TypeError(
                f"observer must be an object with the methods opened and closed, "
                f"not {type(observer).__name__} {observer!r}"
            )
    return observer


registered: list[Observer] = []
"""The observers of all listeners."""
of_requests: list[Any] = []
"""Those of them that want to know of requests, too (`silly.net.http.watching`)."""


def register(observer: Observer) -> None:
    """Notify *observer* of every connection that any listener of this process accepts.

    Existing connections are not reported. If several threads run event loops with
    listeners, the observer is called in each of those threads. Registering it again
    does nothing.

    Raises:
        TypeError: *observer* does not have the two methods.
    """
    checked(observer)
    if observer not in registered:
        registered.append(observer)
        if observes_requests(observer):
            of_requests.append(observer)


def unregister(observer: Observer) -> None:
    """Stop notifying *observer* of new connections. Does nothing if it is not registered."""
    for each in (registered, of_requests):
        each[:] = [known for known in each if known is not observer]


def observes_requests(observer: object) -> bool:
    """Return whether *observer* wants to know of requests, too."""
    return all(
        callable(getattr(observer, method, None)) for method in ("request_started", "request_ended")
    )


class Observation:
    """What is known of one observed connection, from its beginning to its end."""

    __slots__ = (
        "_began",
        "_conn",
        "_ending",
        "_failures",
        "_gone_at",
        "_listener",
        "_observers",
        "context",
    )

    def __init__(
        self,
        observers: Iterable[Observer],
        conn: StreamConn,
        listener: ObservedListener,
        failures: Repeats,
    ) -> None:
        self._observers = tuple(observers)
        self._conn = conn
        self._listener = listener
        self._failures = failures  # of observers
        self._ending: tuple[str, BaseException | None, float] | None = None
        self._gone_at: float | None = None
        self.context = contextvars.copy_context()
        self._began = asyncio.get_running_loop().time()
        self._notify("opened")

    def handled(self, task: asyncio.Task[object], how: str | None) -> None:
        """Record how the handler ended, before its connection is closed.

        *how* is the ending that follows from the handler's exception, if any.
        """
        error = None if task.cancelled() else task.exception()
        how = how or self._conn._ended_by or _how(self._conn, cancelled=task.cancelled())
        self._ending = (how, error, asyncio.get_running_loop().time())

    def failed(self, error: BaseException) -> None:
        """Record that the handler could not be started."""
        self._ending = ("handler_error", error, asyncio.get_running_loop().time())

    def gone(self) -> None:
        """Record that the socket is closed."""
        self._gone_at = asyncio.get_running_loop().time()

    @property
    def is_over(self) -> bool:
        return self._ending is not None and self._gone_at is not None

    def notify_closed(self) -> None:
        """Notify the observers that the connection is over."""
        assert self._ending is not None
        assert self._gone_at is not None
        how, error, handled_at = self._ending
        if how in ("peer_finished", "closed_here"):
            how = self._conn._ended_by or how  # a limit ended it while it lingered
        over_at = max(self._gone_at, handled_at)
        self._notify("closed", Ending(how, error, handled_at - self._began, over_at - self._began))

    def _notify(self, method: str, *ending: Ending) -> None:
        for observer in self._observers:
            try:
                call = getattr(observer, method)
                self.context.run(call, self._conn, self._listener, *ending)
            except ENDS_PROGRAM as error:
                # In its own callback: it must not interrupt the handling of the connection.
                asyncio.get_running_loop().call_soon(_raise, error)
            except BaseException as error:
                which = f"{type(observer).__qualname__}.{method}"
                what = printable(f"{which}: {place(error)}")
                if self._failures.add(what):
                    logger.exception("%s: observer %s failed", self._conn.remote_addr, which)


def _raise(error: BaseException) -> None:
    raise error


def _how(conn: StreamConn, *, cancelled: bool) -> str:
    loss = conn._loss
    if isinstance(loss, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return "reset"
    if loss is not None:
        return "lost"
    if cancelled:
        return "cancelled"
    return "peer_finished" if conn._is_ended else "closed_here"
