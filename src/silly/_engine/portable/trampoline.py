"""Runs a coroutine for a task, and steps it without the task when possible.

A task that waits for bytes needs a future, a call through the loop's queue, and a
step of its own for each wait. A `Trampoline` stands between a task and the
coroutine that the task would run. To the task, it is the coroutine; while the
coroutine waits in a read, it is also the future that the task waits on. When the
bytes have arrived and no task is running, the trampoline steps the coroutine
itself, as the task would (in the task's context, with the task as
`asyncio.current_task`). If the coroutine then waits in a read again, the task
need not run at all. Otherwise (the coroutine awaits something else, returns or
raises) the trampoline stores the outcome and calls the task back, which fetches
it.

So the task remains a real `asyncio.Task`, and everything that works on tasks
works on it. Cancellation reaches the trampoline as `cancel` of the future that the
task waits on. While the coroutine runs, `cancel` returns False, so the task sets
its flag to be cancelled at its next step; the trampoline causes that step as soon
as the coroutine waits again.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final, cast

from silly._engine.assumptions import why_not_stepped

__all__ = ["PARKING", "Trampoline", "current_task", "running", "start_task"]

# Documented in "Extending asyncio"; `silly._engine.assumptions` reports if they are missing.
_enter_task: Any = getattr(tasks, "_enter_task", None)
_leave_task: Any = getattr(tasks, "_leave_task", None)

if sys.version_info >= (3, 12):  # pragma: no cover
    from asyncio import current_task
else:  # the same, without a Python call for each wait
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]

    current_task = _current_tasks.get

_PARK: Final = object()  # what a waiting read yields to its trampoline

_NO_OUTCOME, _PARKED, _YIELDED, _RETURNED, _RAISED = range(5)  # kinds of outcome

_RETRY: Final = 0.001  # seconds, between attempts to enter a context that another thread is in

running: Trampoline | None = None
"""The trampoline whose coroutine runs, which may await `PARKING` if `task` is the current one.

Otherwise, another task was started within its step.
"""


def _could_not_enter(error: BaseException) -> bool:
    """Return whether `Context.run` itself raised, because another thread is in the context."""
    traceback = error.__traceback__
    return type(error) is RuntimeError and traceback is not None and traceback.tb_next is None


class _Parking:
    """Suspends a read until its trampoline steps it, without a Python frame."""

    __slots__ = ()
    __await__ = staticmethod((_PARK,).__iter__)


PARKING: Final = cast(Awaitable[None], _Parking())


class Trampoline(Coroutine[Any, Any, object]):
    """What a handler's task runs."""

    __slots__ = (
        "__qualname__",
        "_asyncio_future_blocking",
        "_callback",
        "_cancel_requested",
        "_cancelled",
        "_context",
        "_coroutine",
        "_done",
        "_loop",
        "_message",
        "_outcome",
        "_outcome_kind",
        "task",
    )

    def __init__(
        self, coroutine: Coroutine[Any, Any, object], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._coroutine: Any = coroutine
        self.__qualname__: str = coroutine.__qualname__  # type: ignore[attr-defined]
        self._loop = loop
        self.task: Any = None
        self._asyncio_future_blocking = False
        self._context: Context
        self._callback: Callable[[Any], object] | None = None  # steps the task, in `_context`
        self._done = self._cancelled = False
        self._message: Any = None
        self._outcome_kind = _NO_OUTCOME
        self._outcome: Any = None
        self._cancel_requested = False  # while the coroutine ran without the task

    # ----------------------------------------------------------- waking the reader

    def step(self) -> bool:
        """Resume the parked read now, if no task is running; return whether it resumed."""
        if self._callback is None:  # cancelled
            return False
        loop, task = self._loop, self.task
        try:
            _enter_task(loop, task)
        except RuntimeError:  # pragma: no cover - an eager task is running, from Python 3.12 on
            return False
        global running  # noqa: PLW0603 - there is one per process
        running = self
        self._outcome_kind = _NO_OUTCOME
        try:
            yielded = self._context.run(self._coroutine.send, None)
            if yielded is _PARK:
                self._outcome_kind = _PARKED
            else:
                self._set_outcome(_YIELDED, yielded)
        except StopIteration as stop:
            self._set_outcome(_RETURNED, stop.value)
        except BaseException as error:  # noqa: BLE001 - the task gets it
            if _could_not_enter(error):
                self._outcome_kind = _PARKED
                return False
            ours = error.__traceback__
            self._set_outcome(_RAISED, error.with_traceback(ours and ours.tb_next))
            del ours
        finally:
            running = None
            _leave_task(loop, task)
            del task  # avoid a cycle: the task keeps the error, and its traceback this frame
        if self._outcome_kind != _PARKED or self._cancel_requested:
            self._cancel_requested = False
            self._call_back()
        return True

    def wake(self) -> None:
        """Resume the parked read in a step of the task, unless one is due."""
        if not self._done:
            self._outcome_kind = _NO_OUTCOME
            self._call_back()

    def _call_back(self) -> None:
        self._done = True
        callback = self._callback
        if callback is not None:
            self._callback = None
            self._loop.call_soon(self._step_task, callback, self._context)

    def _step_task(self, callback: Callable[[Any], object], context: Context) -> None:
        """Step the task, in a callback of the loop."""
        try:
            context.run(callback, self)
        except RuntimeError as error:
            if not _could_not_enter(error):
                raise  # pragma: no cover - a defect of asyncio's
            self._loop.call_later(_RETRY, self._step_task, callback, context)
        finally:
            del callback  # avoid a cycle: the task keeps the error, and its traceback this frame

    def _set_outcome(self, outcome_kind: int, outcome: Any) -> None:
        self._outcome_kind = outcome_kind
        self._outcome = outcome

    # -------------------------------------------- as the coroutine of the task

    def send(self, value: Any, error: tuple[Any, ...] = ()) -> Any:
        """Resume the coroutine, in a step of the task; raise *error* there, if given."""
        if self._outcome_kind != _NO_OUTCOME:
            return self._take_outcome()
        if self.task is None:
            self.task = current_task(self._loop)
        global running  # noqa: PLW0603 - there is one per process
        before, running = running, self
        try:
            coroutine = self._coroutine
            yielded = coroutine.throw(*error) if error else coroutine.send(value)
        except BaseException:
            self.task = None  # finished: leave no cycle for the garbage collector
            self._done = True
            if self._callback is not None:  # something other than the task ended it
                self._call_back()
            raise
        finally:
            del error
            running = before
        return self._wait() if yielded is _PARK else yielded

    def _wait(self) -> Trampoline:
        self._outcome_kind = _PARKED
        self._done = self._cancelled = False
        self._asyncio_future_blocking = True
        return self

    def _take_outcome(self) -> Any:
        """Return or raise the outcome of a step without the task."""
        outcome_kind = self._outcome_kind
        # It is called back for a cancellation that was undone (`uncancel`).
        if outcome_kind == _PARKED:  # pragma: no cover - from Python 3.13 on
            return self._wait()
        outcome, self._outcome = self._outcome, None
        self._outcome_kind = _NO_OUTCOME
        if outcome_kind == _YIELDED:
            return outcome
        self.task = None
        try:
            raise StopIteration(outcome) if outcome_kind == _RETURNED else outcome
        finally:
            del outcome  # avoid a cycle of the error, its traceback and this frame

    def throw(self, *error: Any) -> Any:
        """Raise *error* where the coroutine waits."""
        self._outcome_kind = _NO_OUTCOME
        self._outcome = None
        try:
            return self.send(None, error)
        finally:
            del error

    def close(self) -> None:
        """Close the coroutine."""
        self._outcome_kind = _NO_OUTCOME
        self._outcome = None
        self._coroutine.close()
        self._call_back()

    def __await__(self) -> Generator[Any, None, object]:
        awaiting: Generator[Any, None, object] = self._coroutine.__await__()
        return awaiting

    # ----------------------------------------------- as the future of the task

    # Without `get_loop`, a task takes `_loop`.

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context) -> None:
        self._callback = callback
        self._context = context

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        found = self._callback == callback
        if found:
            self._callback = None
        return int(found)

    def cancel(self, msg: Any = None) -> bool:
        if self._done:
            return False
        if self._outcome_kind == _NO_OUTCOME:  # the coroutine is running
            self._cancel_requested = True
            return False
        self._cancelled = True
        self._message = msg
        self._call_back()
        return True

    def done(self) -> bool:
        return self._done

    def cancelled(self) -> bool:
        return self._cancelled

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError(*(() if self._message is None else (self._message,)))
        if not self._done:
            raise asyncio.InvalidStateError("Result is not set.")

    def exception(self) -> None:
        self.result()

    # ------------------------------------------------ attributes of coroutines

    @property
    def __name__(self) -> Any:
        return self._coroutine.__name__

    @property
    def cr_code(self) -> Any:
        return self._coroutine.cr_code

    @property
    def cr_frame(self) -> Any:
        return self._coroutine.cr_frame

    @property
    def cr_running(self) -> Any:
        return self._coroutine.cr_running

    @property
    def cr_suspended(self) -> Any:
        return self._coroutine.cr_suspended

    @property
    def cr_await(self) -> Any:
        return self._coroutine.cr_await

    @property
    def cr_origin(self) -> Any:
        return self._coroutine.cr_origin

    def __repr__(self) -> str:
        return f"<Trampoline of {self._coroutine!r}>"


def _start_task(  # noqa: PLR0917 - keywords would cost each connection
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, object],
    ended: Callable[[asyncio.Task[Any]], object],
    name: str | None,
    context: Context | None,
    ended_context: Context,
) -> asyncio.Task[Any]:
    """See `silly._engine.interface.Engine.start_task`."""
    task = loop.create_task(coroutine, name=name, context=context)
    task.add_done_callback(ended, context=ended_context)
    return task


def _start_stepped_task(  # noqa: PLR0917
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, object],
    ended: Callable[[asyncio.Task[Any]], object],
    name: str | None,
    context: Context | None,
    ended_context: Context,
) -> asyncio.Task[Any]:
    task = loop.create_task(Trampoline(coroutine, loop), name=name, context=context)
    task.add_done_callback(ended, context=ended_context)
    return task


def _rehearse(_loop: object) -> tuple[Callable[[], object], Callable[[Any], object]]:
    return lambda: _PARK, Trampoline.step


_can_step: Final = why_not_stepped(_start_stepped_task, _rehearse) is None
start_task = _start_stepped_task if _can_step else _start_task
