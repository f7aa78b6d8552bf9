"""Runs a coroutine for a task, and steps it without the task where it can.

A task that waits for bytes needs a future, a call through the loop's queue and a
step of its own for each wait. A `Trampoline` stands between a task and the
coroutine that the task would run. To the task it is that coroutine; and while
the coroutine waits in a read, it is also the one future that the task waits on.
When the bytes are there and no task is running, the coroutine is stepped from
here, as the task would have done it (in its context, as
`asyncio.current_task`); if it then waits in a read again, the task has missed
nothing. Whatever else it does (awaits anything else, returns, raises) is kept,
the task is called back, and asks for it.

So the task stays a real `asyncio.Task`, and all that can be done to a task
works. Of cancellation: it reaches the trampoline as that of the future that the
task waits on. While the coroutine runs, `cancel` refuses, whereupon the task
notes that it must be cancelled at its next step; it is given that step as soon
as the coroutine waits again.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _enter_task, _leave_task  # documented in "Extending asyncio"
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final, cast

__all__ = ["PARKING", "Trampoline", "parking"]

if sys.version_info >= (3, 12):
    from asyncio import current_task
else:  # the same, without a Python frame for each wait
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]

    current_task = _current_tasks.get

_PARK: Final = object()  # yielded to a trampoline by a read that waits

_NOTHING, _PARKED, _YIELDED, _RETURNED, _RAISED = range(5)  # what a trampoline holds

_RETRY: Final = 0.001  # seconds, until a context that another thread is in is tried again

_current: Trampoline | None = None  # whose coroutine runs


def _could_not_enter(error: BaseException) -> bool:
    """Tell whether `Context.run` itself raised: another thread is in the context."""
    traceback = error.__traceback__
    return type(error) is RuntimeError and traceback is not None and traceback.tb_next is None


class _Parking:
    """Awaited by a read: suspends until the trampoline goes on. No frame of its own."""

    __slots__ = ()
    __await__ = staticmethod((_PARK,).__iter__)


PARKING: Final = cast(Awaitable[None], _Parking())


def parking(loop: asyncio.AbstractEventLoop) -> Trampoline | None:
    """Return the trampoline of the running coroutine: it may await `PARKING`; None: it has none."""
    running = _current
    if running is not None and running.task is current_task(loop):
        return running
    return None  # or another task began within its step


class Trampoline(Coroutine[Any, Any, object]):
    """What a handler's task runs."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_cancelled",
        "_context",
        "_coroutine",
        "_done",
        "_held",
        "_holds",
        "_interrupted",
        "_loop",
        "_message",
        "task",
    )

    def __init__(
        self, coroutine: Coroutine[Any, Any, object], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self.task: Any = None
        self._asyncio_future_blocking = False
        self._callback: Callable[[Any], object] | None = None  # what steps the task ...
        self._context: Context | None = None  # ... and the context to do it in
        self._done = self._cancelled = False
        self._message: Any = None
        self._holds = _NOTHING
        self._held: Any = None
        self._interrupted = False  # cancelled while the coroutine ran without the task

    # ----------------------------------------------------------- waking the reader

    def step(self) -> bool:
        """Have the parked read go on now, if no task is running; tell whether it did."""
        context = self._context
        if self._callback is None or context is None:  # cancelled
            return False
        loop, task = self._loop, self.task
        try:
            _enter_task(loop, task)
        except RuntimeError:  # another one is running
            return False
        global _current  # noqa: PLW0603 - it is the state of the interpreter that is kept
        _current = self
        self._holds = _NOTHING
        try:
            yielded = context.run(self._coroutine.send, None)
            if yielded is _PARK:
                self._holds = _PARKED
            else:
                self._hold(_YIELDED, yielded)
        except StopIteration as stop:
            self._hold(_RETURNED, stop.value)
        except BaseException as error:  # noqa: BLE001 - it is the task's
            if _could_not_enter(error):
                self._holds = _PARKED
                return False
            ours = error.__traceback__
            self._hold(_RAISED, error.with_traceback(ours and ours.tb_next))
            del ours
        finally:
            _current = None
            _leave_task(loop, task)
            del task  # an error's traceback leads to this frame, and the task keeps the error
        if self._holds != _PARKED or self._interrupted:
            self._interrupted = False
            self._call_back()
        return True

    def set_result(self, _result: None) -> None:
        """Have the parked read go on, in a step of the task."""
        self._holds = _NOTHING
        self._call_back()

    def _call_back(self) -> None:
        self._done = True
        callback, self._callback = self._callback, None
        if callback is not None and self._context is not None:
            self._loop.call_soon(self._step_task, callback, self._context)

    def _step_task(self, callback: Callable[[Any], object], context: Context) -> None:
        """Step the task, in a callback of the loop."""
        try:
            context.run(callback, self)
        except RuntimeError as error:
            if not _could_not_enter(error):
                raise
            self._loop.call_later(_RETRY, self._step_task, callback, context)
        finally:
            del callback  # an error's traceback leads to this frame, and the task keeps the error

    def _hold(self, holds: int, held: Any) -> None:
        self._holds = holds
        self._held = held

    # --------------------------------------------------------- the task's coroutine

    def send(self, value: Any) -> Any:
        """Go on, in a step of the task."""
        holds = self._holds
        if holds == _PARKED:  # called back for an interruption that was taken back
            return self._wait()
        if holds != _NOTHING:
            held, self._held = self._held, None
            self._holds = _NOTHING
            if holds == _YIELDED:
                return held
            self.task = None
            try:
                raise StopIteration(held) if holds == _RETURNED else held
            finally:
                del held  # else the error would refer to this frame, and it to the error
        if self.task is None:
            self.task = current_task(self._loop)
        return self._step_in_task(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        """Raise *error* where the coroutine waits."""
        self._holds = _NOTHING
        self._held = None
        try:
            return self._step_in_task(self._coroutine.throw, *error)
        finally:
            del error

    def _step_in_task(self, go_on: Callable[..., Any], *arguments: Any) -> Any:
        global _current  # noqa: PLW0603 - it is the state of the interpreter that is kept
        before, _current = _current, self
        try:
            yielded = go_on(*arguments)
        except BaseException:
            self.task = None  # the end: nothing is left for the collector of cycles
            self._call_back()  # if it was not the task that ended it
            raise
        finally:
            del arguments
            _current = before
        if yielded is not _PARK:
            return yielded
        self._holds = _PARKED
        return self._wait()

    def _wait(self) -> Trampoline:
        self._done = self._cancelled = False
        self._asyncio_future_blocking = True
        return self

    def close(self) -> None:
        """Close the coroutine."""
        self._holds = _NOTHING
        self._held = None
        self._coroutine.close()
        self._call_back()

    def __await__(self) -> Generator[Any, None, object]:
        return self._coroutine.__await__()

    # ------------------------------------------------------------ the task's future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

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
        if self._holds == _NOTHING:  # the coroutine runs
            self._interrupted = True
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

    # ---------------------------------------------------- what others ask coroutines

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("cr_", "__")):
            return getattr(self._coroutine, name)
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<Trampoline of {self._coroutine!r}>"
