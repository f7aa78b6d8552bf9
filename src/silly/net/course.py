"""The course of a connection at its listener: admit, preface, observe, handle, end.

1. **Admit.** The engine's server asks the `Gate` before it allocates anything. The ticket
   of an admitted connection is the client that it is charged to.
2. **Preface.** The steps before the connection can be used (preface.py), under one deadline.
   A listener without prefaces skips this.
3. **Observe.** Observers are notified (observer.py).
4. **Handle.** The handler runs in its own task, while a sweep checks the deadlines.
5. **End.** The handler ends and the socket is closed, in either order (silly._engine.ends).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from silly._engine import engine
from silly._logs.crashes import Crashes
from silly._logs.logger import Logger
from silly._logs.repeats import Repeats
from silly._logs.tracebacks import clarify
from silly._loop.live import INTERNAL_TASK
from silly._values.units import counted
from silly.net import observer as observing
from silly.net.budget import MemoryBudget, memory_of
from silly.net.conn import Conn, EngineConn
from silly.net.gate import Gate
from silly.net.limits import Limits
from silly.net.networks import Networks
from silly.net.observer import Observation, ObservedListener, Observer
from silly.net.outcome import HANDLER_ERROR, crash_of, outcome_of
from silly.net.preface import Preface, PrefaceError, Stepped, Steps, run_prefaces, too_late
from silly.net.proxy.preface import take_header
from silly.net.sweep import CHECKS, Sweep, deadlines_of
from silly.net.tally import count
from silly.text import printable

__all__ = ["Course", "Handler"]

logger = Logger("silly.net")

Handler = Callable[[Conn], Awaitable[object]]

_PREFACE_TASK: Final = f"{INTERNAL_TASK}preface"


if TYPE_CHECKING:
    from silly._engine.starts import Starts
else:
    Starts = engine.Starts


class Course(Starts):
    """The course of all connections of one listener; the owner of their streams."""

    host: str | None = None  # they were accepted, not made to one

    __slots__ = (
        "_closes_at",
        "_deadlines",
        "_handshake_timeout",
        "_listener",
        "_logged_crashes",
        "_name",
        "_observer_failures",
        "_on_prefaced",
        "_prefaces_of_proxies",
        "budget",
        "crashes",
        "drains",
        "gate",
        "handler_name",
        "handshakes",
        "logs",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        listener: ObservedListener,
        *,
        name: str,
        limits: Limits,
        prefaces: Sequence[Preface],
        proxies: Networks | None,
        observers: tuple[Observer, ...],
    ) -> None:
        self._loop = loop
        self._handler = handler
        self._listener = listener
        self._name = name
        self.handler_name = getattr(handler, "__qualname__", None) or repr(handler)
        self._task_name = f"{self.handler_name} on {name}"
        self._prefaces = tuple(prefaces)
        first = self._prefaces[0] if len(self._prefaces) == 1 else None
        self._stepped = first if isinstance(first, Stepped) else None
        self._prefaces_of_proxies: tuple[Preface, ...] = (take_header, *self._prefaces)
        self._proxies = proxies
        self._handshake_timeout = limits.handshake_timeout or math.inf
        self._handshake_interval = self._handshake_timeout / CHECKS
        self._handshake_sweep = Sweep[Steps](
            loop, lambda: list(self.prefacing), self._check_preface
        )
        self._observers = observers
        self.is_auxiliary = False
        self._make_conn = EngineConn
        self._start_task = engine.start_task
        self._registered_observers = observing.registered
        self.gate = Gate(loop, limits, name, proxies)
        self._begin(self.gate)
        self.budget = MemoryBudget(loop, memory_of(limits), self._all_conns)
        self._deadlines, self._sweep_interval = deadlines_of(limits)
        self._sweep = Sweep[EngineConn](
            loop, lambda: list(self.handling.values()), self._check_deadlines
        )
        # Each connection is in this during its prefaces, then in `handling`, then, if its handler
        # ends first, in `lingering`.
        self.prefacing: dict[Steps, EngineConn] = {}
        self._late: set[Steps] = set()
        self.accepted = 0
        self.crashes: dict[str, int] = {}  # by type
        self._logged_crashes = Crashes(loop, logger, self._summarize_crashes)
        self._observer_failures = Repeats(loop, self._summarize_observer_failures)
        self.logs: list[Callable[[], None]] = []  # others to be closed with it
        self.handshakes: dict[str, int] = {}  # complete ones of TLS, such as "TLSv1.3 resumed"
        self.drains: list[Callable[[], object]] = []  # called when it begins to drain
        self._closes_at = math.inf  # connections that come later are reset
        self._on_handled = self._handled
        self._on_prefaced = self._prefaced
        self._on_preface_end = self._end_preface
        self._handled_context = contextvars.copy_context()
        self._options = (
            limits.read_limit,
            limits.max_unsent,
            limits.linger,
            limits.idle_timeout,
            True,  # idle_swept
            self.budget,
        )

    def _is_too_late(self, conn: EngineConn) -> bool:
        if self._loop.time() < self._closes_at:
            return False
        self.lingering.add(conn)
        self._loop.call_soon(conn.abort)
        return True

    def _prefaces_of(self, conn: EngineConn) -> tuple[Preface, ...]:
        if self._proxies is not None and self._proxies.covers_peer(conn):
            return self._prefaces_of_proxies
        return self._prefaces

    # ---------------------------------------------------------------------- preface

    def _start_prefaces(self, conn: EngineConn, prefaces: Sequence[Preface]) -> Steps:
        self._tickets[conn] = conn._client
        coroutine = run_prefaces(conn, prefaces)
        try:
            return self._start_task(
                self._loop, coroutine, self._on_prefaced, _PREFACE_TASK, None, self._handled_context
            )
        except BaseException:
            coroutine.close()
            raise

    def _check_preface(self, steps: Steps, _now: float) -> bool:
        """Cancel a preface if its time is over; return whether it is."""
        conn = self.prefacing.get(steps)
        if conn is None or conn._age < self._handshake_timeout:
            return False
        self._late.add(steps)
        steps.cancel()
        return True

    def _prefaced(self, task: asyncio.Task[PrefaceError | None]) -> None:
        if task.cancelled():
            self._end_preface(task, None, None, True)
        else:
            defect = task.exception()
            self._end_preface(task, None if defect else task.result(), defect, False)

    def _preface_ended(
        self,
        conn: EngineConn,
        steps: Steps,
        refused: PrefaceError | None,
        defect: BaseException | None,
        is_cancelled: bool,
    ) -> None:
        is_late = bool(self._late) and steps in self._late
        if is_late:
            self._late.discard(steps)
        log_it = False
        if defect is not None:
            refused = PrefaceError("preface_error", "a defect")
        elif is_late and is_cancelled:
            refused = too_late(self._handshake_timeout)
        elif is_cancelled or refused is not None or not conn.is_alive:
            pass
        elif (self._closes_at == math.inf or self._loop.time() < self._closes_at) and (
            conn not in self._tickets or self._change_ticket(conn)
        ):
            self._let_in(conn)
            return
        if refused is not None:
            log_it = self.gate.refused.add(refused.reason)
        try:
            if conn.is_alive:  # else it is ending, and may still have to send why
                conn.abort()
        finally:
            self._linger(conn)
        if log_it and refused is not None:
            if defect is not None:
                clarify(defect, whole=self._loop.get_debug())
                logger.error("%s: a preface failed", conn.remote_addr, exc_info=defect)
            else:
                self.gate.log_refused(refused.reason, conn.remote_addr, str(refused))

    def _change_ticket(self, conn: EngineConn) -> bool:
        """Charge *conn* to its present client, unless the gate refuses; return whether it did.

        Connections whose prefaces cannot change the client have no ticket.
        """
        ticket = self.gate.change_ticket(self._tickets[conn], conn._client)
        if ticket is None:
            return False
        self._tickets[conn] = ticket
        return True

    # --------------------------------------------------------------- observe, handle

    def _observe(self, conn: EngineConn) -> contextvars.Context | None:
        observation = self._observed[conn] = Observation(
            (*self._observers, *self._registered_observers),
            conn,
            self._listener,
            self._observer_failures,
        )
        return observation.context

    def _not_started(self, conn: EngineConn, error: BaseException) -> None:
        if (observation := self._observed.get(conn)) is not None:
            observation.failed(error)

    def _crashed(self, error: BaseException) -> Coroutine[Any, Any, object]:
        return _raise(error)

    def _coroutine_of(self, handling: object) -> Coroutine[Any, Any, object]:
        if inspect.isawaitable(handling):
            return _await(handling)
        return _raise(
            TypeError(
                f"handler {self.handler_name} returned {type(handling).__name__}, not a "
                f"coroutine: declare it with `async def`"
            )
        )

    def _check_deadlines(self, conn: EngineConn, now: float) -> bool:
        conn._check_deadlines(now, self._deadlines)
        return conn._ended_by is not None

    # -------------------------------------------------------------------------- end

    def _cancelled(self, task: asyncio.Task[Any]) -> Exception | None:
        if task.cancelling():
            return None  # without asking for its exception, which it gives only once
        try:
            task.result()
        except asyncio.CancelledError as error:
            return crash_of(error, task)
        return None  # pragma: no cover - the result of a task that was cancelled raises

    def _count_error(self, conn: EngineConn, error: BaseException) -> tuple[str | None, bool]:
        how = outcome_of(conn, error)
        if how == HANDLER_ERROR:
            self.count_crash(error)
        return how, how is not None and how != HANDLER_ERROR and self.gate.end(how)

    def _log_error(
        self,
        conn: EngineConn,
        error: BaseException,
        how: str | None,
        log_it: bool,
    ) -> None:
        if how is None:
            logger.debug("%s: handler ended by %r", conn.remote_addr, error)
        elif how == HANDLER_ERROR:
            self._logged_crashes.log(
                error, "%s: handler %s failed", conn.remote_addr, self.handler_name
            )
        elif log_it:
            self.gate.log_end(how, conn.remote_addr)

    def _count_limit(self, limit: str) -> bool:
        return self.gate.end(limit)

    def _log_limit(self, conn: EngineConn, limit: str) -> None:
        self.gate.log_end(limit, conn.remote_addr)

    def _summarize_crashes(self, kind: str, number: int) -> None:
        logger.error(
            "%s: handler %s failed %s: %s",
            self._name,
            self.handler_name,
            counted(number, "more time"),
            kind,
        )

    def _summarize_observer_failures(self, kind: str, number: int) -> None:
        times = counted(number, "more time")
        logger.error("%s: an observer failed %s: %s", self._name, times, kind)

    # ------------------------------------------------------------- for the listener

    def conns(self) -> list[EngineConn]:
        """Return the connections that are open."""
        return [conn for conn in self._all_conns() if not conn._is_closed]

    def _all_conns(self) -> list[EngineConn]:
        return [*self.prefacing.values(), *self.handling.values(), *self.lingering]

    def close_at(self, when: float) -> None:
        """Drain: from the time *when* on, reset new connections."""
        self._closes_at = when
        if not self._is_draining:
            self._is_draining = True
            waiting, self._on_draining = self._on_draining, {}
            for callback in (*self.drains, *waiting.values()):
                self._loop.call_soon(callback)
            for conn in self.handling.values():
                if conn._consumer is not None:
                    self._loop.call_soon(conn._consumer._drain)

    def on_draining(self, conn: EngineConn, callback: Callable[[], object] | None) -> None:
        """See `Conn.on_draining`."""
        self._on_draining.pop(conn, None)
        if callback is None:
            return
        if self._is_draining:
            self._loop.call_soon(callback)
        else:
            self._on_draining[conn] = callback

    def count_handshake(self, conn: EngineConn, what: str, why: str | None) -> None:
        """See `silly._engine.interface.Owner.count_handshake`."""
        if why is None:
            count(self.handshakes, what)
        elif self.gate.failed_handshakes.add(what):
            self.gate.log_failed_handshake(what, conn.remote_addr, why)

    def count_crash(self, error: BaseException) -> None:
        """Count an *error* of the program in what a handler serves, such as a request."""
        count(self.crashes, printable(type(error).__name__))

    def stop(self) -> None:
        """Stop checking deadlines and memory."""
        self._sweep.stop()
        self._handshake_sweep.stop()
        self.budget.close()

    def close_logs(self) -> None:
        """Log the counts that were not logged yet."""
        self.gate.close()
        self._logged_crashes.close()
        self._observer_failures.close()
        for close in self.logs:
            close()


async def _raise(error: BaseException) -> object:
    raise error


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable
