"""The end of a connection at its listener: the handler ends and the socket is closed.

They happen in either order. The connection is counted, closed and forgotten first; what may
raise or take long (logging, observers) comes last, in the listener's course, which derives
from this.

As `lifecycle`, this file is compiled a second time for the native engine. Some methods are called
through their class, because nothing overrides them: a compiled call need not look for that then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from silly._engine import stream_errors
from silly._engine.interface import Stream
from silly._logs.logger import Logger
from silly.errors import EndOfStream

from .admission import Admission  # relative: each engine has one of its own
from .filter import Filtered

__all__ = ["Ends"]

logger = Logger("silly.net")


class Ends:
    """The base of `silly.net.course.Course`."""

    __slots__ = (
        "_admission",
        "_is_draining",
        "_observed",
        "_on_draining",
        "_tickets",
        "changed",
        "handling",
        "lingering",
        "past_bytes_in",
        "past_bytes_out",
    )

    handling: dict[asyncio.Task[Any], Any]  # connections whose handlers run
    lingering: set[Any]  # connections whose handlers have ended
    past_bytes_in: int  # of connections that are closed
    past_bytes_out: int
    changed: asyncio.Event  # set, while draining, when a connection or handler ended
    _admission: Admission
    _is_draining: bool
    _tickets: dict[Any, bytes]  # by connection, where prefaces may change the client
    _observed: dict[Any, Any]  # observations (silly.net.observer) by connection
    _on_draining: dict[Any, Callable[[], object]]  # by connection

    def _begin(self, admission: Admission) -> None:
        """Set the state of a new listener."""
        self.handling = {}
        self.lingering = set()
        self.past_bytes_in = self.past_bytes_out = 0
        self.changed = asyncio.Event()
        self._admission = admission
        self._is_draining = False
        self._tickets = {}
        self._observed = {}
        self._on_draining = {}

    # ------------------------------------------------------ implemented by the course

    def _count_error(self, conn: Any, error: BaseException) -> tuple[str | None, bool]:
        """Count the *error* of a handler; return what it stands for, and whether to log it."""
        raise NotImplementedError

    def _log_error(self, conn: Any, error: BaseException, how: str | None, log_it: bool) -> None:
        raise NotImplementedError

    def _cancelled(self, task: asyncio.Task[Any]) -> Exception | None:
        """Return the error of a handler that ended by a cancellation; None if it was meant."""
        raise NotImplementedError

    def _count_limit(self, limit: str) -> bool:
        """Count a connection that *limit* ended; return whether to log it."""
        raise NotImplementedError

    def _log_limit(self, conn: Any, limit: str) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------------------------------

    def _handled(self, task: asyncio.Task[Any]) -> None:
        """Record that the handler's *task* is done, and close its connection."""
        conn = self.handling.pop(task)
        error = self._cancelled(task) if task.cancelled() else task.exception()
        how, log_it = None, False
        if error is not None:
            is_usual = isinstance(error, EndOfStream) and stream_errors.belongs_to(conn, error)
            if not is_usual:
                how, log_it = self._count_error(conn, error)
        if self._observed and (observation := self._observed.get(conn)):
            observation.handled(task, how)
        try:
            Filtered.close(conn)
        finally:
            Ends._linger(self, conn)
        if error is not None and (how is not None or logger.is_enabled_for(logging.DEBUG)):
            self._log_error(conn, error, how, log_it)
        if self._observed:
            self._notify_if_over(conn)

    def _linger(self, conn: Any) -> None:
        """Record that the task of *conn* has ended; its socket may still be open."""
        if not conn._is_closed:
            self.lingering.add(conn)
        if self._is_draining:
            self.changed.set()

    def conn_closed(self, conn: Any) -> None:
        """Record that the socket of *conn* is closed; called by its stream."""
        ticket = self._tickets.pop(conn, None) if self._tickets else None
        Admission.leave(self._admission, conn._packed_client() if ticket is None else ticket)
        limit = conn._ended_by
        log_it = limit is not None and self._count_limit(limit)
        self.past_bytes_in += conn._received()
        self.past_bytes_out += conn._sent()
        if self.lingering:
            self.lingering.discard(conn)
        if self._on_draining:
            self._on_draining.pop(conn, None)
        if self._is_draining:
            self.changed.set()
        if self._observed and (observation := self._observed.get(conn)):
            observation.gone()
        if limit is not None and log_it:
            self._log_limit(conn, limit)
        if self._observed:
            self._notify_if_over(conn)

    def _notify_if_over(self, conn: Stream) -> None:
        if (observation := self._observed.get(conn)) and observation.is_over:
            del self._observed[conn]
            observation.notify_closed()
