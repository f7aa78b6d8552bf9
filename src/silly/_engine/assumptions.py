"""What the engines assume of CPython and asyncio beyond their documentation, and its checks.

Each engine checks this when it is imported. Where an assumption does not hold, the native
engine cannot be imported (`silly --version` gives the reason), and the portable engine
leaves the stepping of coroutines to their tasks.

===================================================  ==========================================
assumption                                           what differs
===================================================  ==========================================
The GIL is on (native: its objects have no locks).   builds without one, since 3.13
`_enter_task` and `_leave_task` make a task the      since 3.14 there is one current task for
current one (trampolines). If there is a dictionary  each thread, not for each loop, and the
`_current_tasks`, that is all they do (native        loop must be the running one; there is no
trampolines).                                        dictionary
A task waits on anything that has                    since 3.14 asyncio's call graphs, which
`_asyncio_future_blocking`. It calls                 list what awaits a future, omit such
`add_done_callback(f, context=)`, and is stepped     objects
when `f` is called (waiters, trampolines). Without
`get_loop`, it takes `_loop`.
Meanwhile, its coroutine can be stepped for it, in   nothing
the task's context (trampolines).
`Task.cancel` cancels what the task waits on, and    nothing
the task's next step calls `result` of it.
`Handle` runs its callback inside                    nothing
`Handle._context` (native: the reactor leaves it).
`await` calls `tp_iternext`, tasks call `am_send`    3.11: `await` calls `am_send`, too
(native reads).
===================================================  ==========================================

What is said of 3.14 was read in its sources, not tried. Not assumed, but used where it is
there: `_selector`, `_ready` and `_scheduled` of a stock loop; without all of them the reactor
does not wait inside it. The `WeakSet` of all tasks, which there is until 3.14: handlers' tasks
are listed without an entry in it (native: all_tasks.pyx). That a task is woken by a method in C
(native trampolines call it), and `Task._callbacks`: what a handler adds to its own task is called
after the end of its connection.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from asyncio import events, tasks
from collections.abc import Callable, Generator
from typing import Any, Final, TypeAlias, cast

__all__ = ["Rehearse", "why_not_native", "why_not_stepped"]

_StartTask: TypeAlias = Callable[..., "asyncio.Task[Any]"]
Rehearse: TypeAlias = Callable[[Any], tuple[Callable[[], object], Callable[[Any], object]]]
"""Returns two functions: what a waiting read of a loop yields; step a reading coroutine."""

_inside: Final = contextvars.ContextVar("_inside", default=False)


def why_not_native(start_task: _StartTask, rehearse: Rehearse) -> str | None:
    """Return the first assumption of the native engine that does not hold; None if all do."""
    if sys.implementation.name != "cpython":
        return f"this is not CPython but {sys.implementation.name}"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "the GIL is off"
    if not _handles_enter_contexts():
        return "asyncio.Handle does not run its callback inside its _context"
    return why_not_stepped(start_task, rehearse)


def why_not_stepped(start_task: _StartTask, rehearse: Rehearse) -> str | None:
    """Return why a task's coroutine cannot be stepped without the task; None if it can be.

    A task is started by *start_task*, and taken through a read.
    """
    for name in ("_enter_task", "_leave_task"):
        if not hasattr(tasks, name):
            return f"asyncio.tasks has no {name}"
    loop: Any = _Loop()
    running: Any = events._get_running_loop()
    current: Any = running and asyncio.current_task(running)
    if current is not None:  # imported by a task
        tasks._leave_task(running, current)
    events._set_running_loop(loop)
    try:
        return _why_no_current_task(loop) or _why_no_step(loop, start_task, rehearse)
    except Exception as error:  # noqa: BLE001 - whatever is different, this says it
        return f"asyncio.Task cannot be stepped: {error!r}"
    finally:
        events._set_running_loop(running)
        if current is not None:
            tasks._enter_task(running, current)


class _Loop:
    """As much of an event loop as a task needs."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., object], Any, Any]] = []

    def get_debug(self) -> bool:
        return False

    def create_task(self, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coroutine, loop=self, **options)  # type: ignore[arg-type]

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> None:
        self.calls.append((callback, args, context or contextvars.Context()))

    def call_exception_handler(self, context: Any) -> None:
        """Ignore a task that is forgotten before it is done: the reason is known."""

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for callback, args, context in calls:
            context.run(callback, *args)


@types.coroutine
def _suspend(waiter: object) -> Generator[object, None, None]:
    yield waiter


def _handles_enter_contexts() -> bool:
    entered: list[asyncio.Handle] = []

    def callback() -> None:
        try:
            handle._context.run(int)  # type: ignore[attr-defined]
        except RuntimeError:  # it is entered already
            entered.append(handle)

    handle = asyncio.Handle(callback, (), cast(Any, _Loop()), contextvars.Context())
    handle._run()
    handle.cancel()  # leave no cycle
    return bool(entered)


def _why_no_current_task(loop: Any) -> str | None:
    task: Any = object()
    tasks._enter_task(loop, task)
    try:
        entered = asyncio.current_task(loop) is task and _kept(loop) in (task, None)
    finally:
        tasks._leave_task(loop, task)
    if entered and asyncio.current_task(loop) is _kept(loop) is None:
        return None
    return "asyncio.tasks._enter_task and _leave_task do not set the current task"


def _kept(loop: Any) -> Any:
    return getattr(tasks, "_current_tasks", {}).get(loop)


def _why_no_step(loop: Any, start_task: _StartTask, rehearse: Rehearse) -> str | None:
    wait, step = rehearse(loop)
    steps = []

    async def read_twice() -> None:
        for _ in range(2):
            await _suspend(wait())
            steps.append((asyncio.current_task(loop), _inside.get()))

    context = contextvars.Context()
    context.run(_inside.set, True)
    task = start_task(
        loop,
        read_twice(),
        lambda _: None,
        "rehearsal",
        context,
        contextvars.Context(),
    )
    loop.run()
    if task.done() or loop.calls:
        return "asyncio.Task does not wait on a future of another kind"
    step(task.get_coro())
    stepped = steps == [(task, True)]
    steps.clear()  # leave no cycle
    if not stepped or task.done() or loop.calls:
        return "the coroutine of an asyncio.Task cannot be stepped without the task"
    task.cancel()
    loop.run()
    if not task.cancelled():
        return "asyncio.Task.cancel does not cancel a future of another kind"
    return None
