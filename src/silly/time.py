"""Sleeping and timers. All times are in seconds."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from silly._loop.live import Live
from silly._values import arguments
from silly.task import fork, log_crash

__all__ = ["Timer", "after", "cancel", "sleep"]


def sleep(seconds: float) -> Coroutine[Any, Any, None]:
    """Suspend this task for *seconds*; other tasks keep running.

    Args:
        seconds: zero or more; 0 lets the other tasks run once.

    Raises:
        TypeError, ValueError: *seconds* is not such a number; raised at the call.
    """
    return asyncio.sleep(arguments.seconds(seconds, "seconds"))


class Timer:
    """A scheduled call; made by `after`."""

    __slots__ = ("__weakref__", "_args", "_fn", "_handle", "_live")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        fn: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        self._fn = fn
        self._args = args
        self._live = Live.of(loop)
        self._live.timers.add(self)
        self._handle: asyncio.TimerHandle | None = loop.call_later(seconds, self._fire)

    @property
    def pending(self) -> bool:
        """True until the call has been made or cancelled."""
        return self._handle is not None

    def cancel(self) -> None:
        """Cancel the call. Does nothing if it was already made or cancelled."""
        if self._handle is not None:
            self._handle.cancel()
            self._remove()

    def _remove(self) -> None:
        self._handle = None
        self._live.timers.discard(self)
        self._live.wake_if_empty()

    def _fire(self) -> None:
        try:
            if inspect.iscoroutinefunction(self._fn):
                fork(self._fn, *self._args)
            else:
                self._fn(*self._args)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged
            log_crash(asyncio.get_running_loop(), error, "timer call %r failed", self._fn)
        finally:
            self._remove()


def after(seconds: float, fn: Callable[..., object], *args: Any) -> Timer:
    """Call ``fn(*args)`` after *seconds*, unless the timer is cancelled first.

    A coroutine function runs in its own task (`silly.task.fork`). A crash is logged and
    affects nothing else. A program run by `silly.run` or ``silly FILE.py`` waits for
    pending timers.

    Returns:
        The timer, for `cancel`.

    Raises:
        TypeError, ValueError: *seconds* is not a number of zero or more, or *fn*
            is not callable.
        RuntimeError: no event loop is running.
    """
    arguments.seconds(seconds, "seconds")
    if not callable(fn):
        raise TypeError(f"fn must be callable, not {type(fn).__name__}")
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "time.after() needs a running event loop: start the script with "
            "`silly FILE.py`, or call it inside silly.run(main())"
        ) from None
    return Timer(loop, seconds, fn, args)


def cancel(timer: Timer) -> None:
    """Cancel *timer*. Does nothing if its call was already made or cancelled."""
    if not isinstance(timer, Timer):
        raise TypeError(f"timer must be a Timer made by time.after(), not {type(timer).__name__}")
    timer.cancel()
