"""Who is told of every connection: when it begins, and when it is over, and how it ended.

Access logs, metrics and traces are observers. One is given to a listener
(``tcp.listen(..., observer=...)``) or to all of the process (`register`). It is
called twice for each connection and never for a message; where there is none,
nothing is called.

A connection is over when its handler has ended *and* its socket is gone: only
then is what was sent known. How it ended is one of these, decided when the
handler ends:

==================  ==============================================================
``peer_finished``   the peer finished sending, and the handler ended
``closed_here``     the handler ended, or closed it, before the peer finished
``reset``           the peer reset it, or broke it off
``lost``            the network failed, or the operating system gave up
*a limit*           a field of `silly.net.limits.Limits`, such as ``idle_timeout``
``cancelled``       the handler was cancelled, as `Listener.close` does in the end
``handler_error``   the handler crashed
==================  ==============================================================

What a handler does about it does not count: a handler that answers a reset by
returning was reset.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from silly._logger import ENDS_PROGRAM, Logger
from silly._tracebacks import place
from silly.text import printable

if TYPE_CHECKING:
    from silly.net.conn import Conn
    from silly.net.tcp import Listener

__all__ = ["ENDINGS", "Ending", "Observer", "register", "unregister"]

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
    """What the handler raised, a normal end or not; None: it returned, or was cancelled."""
    handler_seconds: float
    """How long the handler ran, from the accepting of the connection on."""
    seconds: float
    """How long the connection was there, lingering included."""


class Observer(Protocol):
    """What is told of connections. What it raises is logged, and hurts no connection."""

    def opened(self, conn: Conn, listener: Listener) -> None:
        """Be told that *listener* accepted *conn*, before its handler begins.

        Called in the context that the handler will run in: a context variable
        that is set here is set there.
        """

    def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:
        """Be told that *conn* is over. Called in the same context as `opened`."""


def checked(observer: Observer) -> Observer:
    """Return *observer*, if it is one.

    Raises:
        TypeError: it has not the two methods.
    """
    for method in ("opened", "closed"):
        if not callable(getattr(observer, method, None)) or isinstance(observer, type):
            raise TypeError(
                f"observer must be an object with the methods opened and closed, "
                f"not {type(observer).__name__} {observer!r}"
            )
    return observer


_everywhere: tuple[Observer, ...] = ()


def register(observer: Observer) -> None:
    """Have *observer* told of every connection that any listener of the process accepts.

    Those that are there already are not reported. From listeners of several
    event loops in several threads it is called in those threads. Without effect
    when it is registered already.

    Raises:
        TypeError: *observer* has not the two methods.
    """
    global _everywhere  # noqa: PLW0603 - it is the process's
    checked(observer)
    if observer not in _everywhere:
        _everywhere = (*_everywhere, observer)


def unregister(observer: Observer) -> None:
    """Do not tell *observer* of connections accepted from now on. It may be unknown."""
    global _everywhere  # noqa: PLW0603 - it is the process's
    _everywhere = tuple(known for known in _everywhere if known is not observer)


def observers_of(own: tuple[Observer, ...]) -> tuple[Observer, ...]:
    """All that are to be told: of a listener's *own*, and those of the process."""
    return own + _everywhere if own else _everywhere


class Observation:
    """One connection that is observed, from its beginning to its end."""

    __slots__ = ("_began", "_conn", "_ending", "_gone_at", "_listener", "_observers", "context")

    def __init__(self, observers: Iterable[Observer], conn: Conn, listener: Listener) -> None:
        self._observers = tuple(observers)
        self._conn = conn
        self._listener = listener
        self._ending: tuple[str, BaseException | None, float] | None = None
        self._gone_at: float | None = None
        self.context = contextvars.copy_context()
        self._began = asyncio.get_running_loop().time()
        self._tell("opened")

    def handled(self, task: asyncio.Task[object], how: str | None) -> None:
        """Note how the handler ended; its connection is not closed for it yet.

        *how* is what the exception that it raised says of that, if anything.
        """
        error = None if task.cancelled() else task.exception()
        how = how or self._conn._ended_by or _how(self._conn, cancelled=task.cancelled())
        self._ending = (how, error, asyncio.get_running_loop().time())

    def failed(self, error: BaseException) -> None:
        """Note that there is no handler: it could not be begun."""
        self._ending = ("handler_error", error, asyncio.get_running_loop().time())

    def gone(self) -> None:
        """Note that the socket is gone."""
        self._gone_at = asyncio.get_running_loop().time()

    @property
    def is_over(self) -> bool:
        return self._ending is not None and self._gone_at is not None

    def tell_ending(self) -> None:
        """Tell the observers that it is over."""
        assert self._ending is not None
        assert self._gone_at is not None
        how, error, handled_at = self._ending
        if how in ("peer_finished", "closed_here"):
            how = self._conn._ended_by or how  # lingering was too long
        over_at = max(self._gone_at, handled_at)
        self._tell("closed", Ending(how, error, handled_at - self._began, over_at - self._began))

    def _tell(self, method: str, *ending: Ending) -> None:
        for observer in self._observers:
            try:
                call = getattr(observer, method)
                self.context.run(call, self._conn, self._listener, *ending)
            except ENDS_PROGRAM as error:
                # In a callback of its own: it must not end what is being done for the connection.
                self._listener._loop.call_soon(_raise, error)
            except BaseException as error:
                which = f"{type(observer).__qualname__}.{method}"
                what = printable(f"{which}: {place(error)}")
                if self._listener._observer_failures.add(what):
                    logger.exception("%s: observer %s failed", self._conn.remote_addr, which)


def _raise(error: BaseException) -> None:
    raise error


def _how(conn: Conn, *, cancelled: bool) -> str:
    loss = conn._lost_by
    if isinstance(loss, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return "reset"
    if loss is not None:
        return "lost"
    if cancelled:
        return "cancelled"
    return "peer_finished" if conn._is_ended else "closed_here"
