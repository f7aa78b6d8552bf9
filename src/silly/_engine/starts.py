"""The start of a connection at its listener: its handler begins, in a task of its own.

What is done for each connection is here; what is not (prefaces, observers, handlers that are
no coroutine functions) is in the listener's course, which derives from this.

As `lifecycle`, this file is compiled a second time for the native engine.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from types import CoroutineType
from typing import Any

from .ends import Ends  # relative: each engine has one of its own

__all__ = ["Starts"]


class Starts(Ends):
    """The base of `silly.net.course.Course`."""

    __slots__ = (
        "_handled_context",
        "_handler",
        "_handshake_interval",
        "_handshake_sweep",
        "_late",
        "_loop",
        "_make_conn",
        "_observers",
        "_on_handled",
        "_on_preface_end",
        "_options",
        "_prefaces",
        "_proxies",
        "_registered_observers",
        "_start_task",
        "_stepped",
        "_sweep",
        "_sweep_interval",
        "_task_name",
        "accepted",
        "is_auxiliary",
        "prefacing",
    )

    accepted: int
    is_auxiliary: bool  # if True, its connections are not observed
    _loop: asyncio.AbstractEventLoop
    _make_conn: Callable[..., Any]
    _options: tuple[Any, ...]  # for `_make_conn`: by position, which costs less than keywords
    _prefaces: tuple[Any, ...]
    _stepped: Any  # the only preface, if it needs no task (silly.net.preface.Stepped)
    prefacing: dict[Any, Any]  # connections by the steps of their prefaces
    _late: set[Any]  # of `prefacing`: were cancelled by the sweep
    _handshake_sweep: Any
    _handshake_interval: float
    _proxies: Any  # the networks of proxies; None: there are none
    _observers: tuple[Any, ...]
    _registered_observers: Sequence[Any]  # those of all listeners
    _handler: Callable[[Any], Any]
    _start_task: Callable[..., asyncio.Task[Any]]
    # The next three are shared by all connections: with a million of them, a string, a bound
    # method or a context for each would be a tenth of their memory.
    _task_name: str
    _on_handled: Callable[[asyncio.Task[Any]], None]
    _on_preface_end: Callable[..., None]
    _handled_context: contextvars.Context
    _sweep: Any  # silly.net.sweep.Sweep
    _sweep_interval: float

    # ------------------------------------------------------ implemented by the course

    def _is_too_late(self, conn: Any) -> bool:
        """Return whether *conn* came so late in a drain that it is reset; if so, reset it."""
        raise NotImplementedError

    def _prefaces_of(self, conn: Any) -> tuple[Any, ...]:
        """Return the prefaces of *conn*, which may come from a proxy."""
        raise NotImplementedError

    def _start_prefaces(self, conn: Any, prefaces: tuple[Any, ...]) -> Any:
        """Start *prefaces* of *conn* in a task; return it."""
        raise NotImplementedError

    def _preface_ended(
        self, conn: Any, steps: Any, refused: Any, defect: Any, is_cancelled: bool
    ) -> None:
        """Let in, or refuse, a *conn* that was not simply let in."""
        raise NotImplementedError

    def _observe(self, conn: Any) -> contextvars.Context | None:
        """Notify the observers of *conn*; return the context to handle it in."""
        raise NotImplementedError

    def _crashed(self, error: BaseException) -> Coroutine[Any, Any, object]:
        """Return a coroutine that raises *error*, which the call of the handler raised."""
        raise NotImplementedError

    def _coroutine_of(self, handling: object) -> Coroutine[Any, Any, object]:
        """Return a coroutine for what the handler returned, which is none."""
        raise NotImplementedError

    def _not_started(self, conn: Any, error: BaseException) -> None:
        """Note that the task of *conn* could not be made."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------

    def start(self, carrier: Any) -> Any:
        """Make a connection of *carrier*, which the engine's server accepted."""
        conn = self._make_conn(carrier, self._loop, self, *self._options)
        if self._is_draining and self._is_too_late(conn):
            return conn
        try:
            prefaces = self._prefaces if self._proxies is None else self._prefaces_of(conn)
            if prefaces:
                self._preface(conn, prefaces)
            else:
                Starts._handle(self, conn)
        except BaseException:
            conn.abort()
            raise
        return conn

    def _preface(self, conn: Any, prefaces: tuple[Any, ...]) -> None:
        """Start *prefaces* of *conn*."""
        if self._stepped is not None and prefaces is self._prefaces:
            steps = self._stepped.start(conn, self._on_preface_end, self._handled_context)
        else:
            steps = self._start_prefaces(conn, prefaces)
        self.prefacing[steps] = conn
        if self._handshake_interval < self._handshake_sweep.interval:
            self._handshake_sweep.start(self._handshake_interval)

    def _end_preface(self, steps: Any, refused: Any, defect: Any, is_cancelled: bool) -> None:
        """See `silly.net.preface.Ended`."""
        conn = self.prefacing.pop(steps)
        has_failed = refused is not None or defect is not None or is_cancelled
        if has_failed or self._late or self._is_draining or conn in self._tickets:
            self._preface_ended(conn, steps, refused, defect, is_cancelled)
        elif conn.is_alive:
            self._let_in(conn)
        else:
            self._linger(conn)

    def _let_in(self, conn: Any) -> None:
        """Handle *conn*, which has passed its prefaces."""
        try:
            conn._enter()
            self._handle(conn)
        except BaseException:
            conn.abort()
            self._linger(conn)
            raise

    def _handle(self, conn: Any) -> None:
        """Notify the observers of *conn*, and run the handler for it."""
        context = None
        if (self._observers or self._registered_observers) and not self.is_auxiliary:
            context = self._observe(conn)
        try:
            handling = self._handler(conn)
        except BaseException as error:  # noqa: BLE001 - a plain function may crash, too
            handling = self._crashed(error)
        if not isinstance(handling, CoroutineType):
            handling = self._coroutine_of(handling)
        try:
            task = self._start_task(
                self._loop,
                handling,
                self._on_handled,
                self._task_name,
                context,
                self._handled_context,
            )
        except BaseException as error:
            handling.close()
            self._not_started(conn, error)
            raise
        self.handling[task] = conn
        if self._sweep_interval < self._sweep.interval:
            self._sweep.start(self._sweep_interval)
        self.accepted += 1
