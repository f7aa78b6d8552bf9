"""Background tasks: `fork` starts one. `single_flight` shares a call among concurrent callers.

For a group of tasks that end together, use `asyncio.TaskGroup`, which works in handlers.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, overload

from silly._logs.logger import Logger
from silly._logs.repeats import Repeats
from silly._logs.tracebacks import clarify, place
from silly._loop.live import Live
from silly._loop.single_flight import SingleFlight, single_flight
from silly._values.units import counted
from silly.text import printable

__all__ = ["SingleFlight", "fork", "single_flight"]

logger = Logger("silly.task")

_ARGUMENT: Final = re.compile(" %[rs]")

T = TypeVar("T")


@overload
def fork(fn: Coroutine[Any, Any, T]) -> asyncio.Task[T]: ...
@overload
def fork(fn: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> asyncio.Task[T]: ...
@overload
def fork(fn: Callable[..., T], *args: Any) -> asyncio.Task[T]: ...
def fork(fn: Any, *args: Any) -> asyncio.Task[Any]:
    """Run *fn* in its own task, concurrently with the caller.

    The task starts when the caller next suspends. It is protected from garbage
    collection, and a program run by `silly.run` or ``silly FILE.py`` waits for it. If it
    crashes, the exception is logged (once, even if the task is also awaited), and
    nothing else is affected.

    Args:
        fn: a coroutine function or any other callable, called in the new task;
            or a coroutine.
        *args: the arguments for *fn*.

    Returns:
        The task: await it for the result, ``cancel()`` it to stop it.

    Raises:
        TypeError: *fn* is neither callable nor a coroutine.
        RuntimeError: no event loop is running.
    """
    if isinstance(fn, Coroutine):
        if args:
            fn.close()
            raise TypeError("a coroutine takes no args: use fork(fn, *args) or fork(fn(*args))")
    elif not callable(fn):
        raise TypeError(f"fn must be a coroutine function or a coroutine, not {type(fn).__name__}")
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        if isinstance(fn, Coroutine):
            fn.close()
        raise RuntimeError(
            "task.fork() needs a running event loop: start the script with "
            "`silly FILE.py`, or call it inside silly.run(main())"
        ) from None
    if isinstance(fn, Coroutine):
        coroutine: Coroutine[Any, Any, Any] = fn
    elif inspect.iscoroutinefunction(fn):
        coroutine = fn(*args)
    else:
        coroutine = _call(fn, args)
    task = loop.create_task(coroutine)
    Live.of(loop).tasks.add(task)
    task.add_done_callback(_forked_done)
    return task


async def _call(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    result = fn(*args)
    if inspect.isawaitable(result):
        return await result
    return result


def _forked_done(task: asyncio.Task[Any]) -> None:
    live = Live.of(task.get_loop())
    live.tasks.discard(task)
    live.wake_if_empty()
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, Exception):  # SystemExit is not a crash
        log_crash(task.get_loop(), error, "forked task %s failed", task.get_name())


def log_crash(
    loop: asyncio.AbstractEventLoop, error: Exception, message: str, what: object
) -> None:
    """Log *message* about *what* with the traceback of *error*; repetitions are only counted."""
    live = Live.of(loop)
    if live.crashes is None:
        live.crashes = Repeats(loop, _summarize_crashes)
    clarify(error, whole=loop.get_debug())
    if live.crashes.add(f"{_ARGUMENT.sub('', message)}: {printable(place(error))}"):
        logger.error(message, what, exc_info=error)


def _summarize_crashes(kind: str, count: int) -> None:
    logger.error("%s: %s", counted(count, "more time"), kind)
