"""Signals that a program reacts to: while it does so, and not in its forked children.

A child that `os.fork` makes (multiprocessing's, on Linux) inherits handlers and
asyncio's wake-up descriptor: a signal sent to it would end nothing, and be told
to the parent's event loop instead. So in the child all is as it was before. The
signals are blocked during the fork: one that comes in the very moment waits, and
does in the child what it does there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

__all__ = ["SLICE", "Presses", "break_off", "breakable", "handling"]

TOGETHER: Final = 0.1  # seconds

Handler = Callable[[int, types.FrameType | None], object]


# ------------------------------------------------------------------- handling them

_in_force: list[tuple[int, Handler, Any]] = []  # with what handled the signal before
_mask = threading.local()


@contextlib.contextmanager
def handling(loop: asyncio.AbstractEventLoop, handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Call ``handlers[number](number, frame)`` when signals come; they take *loop* out of its wait.

    To be entered in the main thread. What the program itself sets meanwhile is left alone.
    """
    global _is_stopping  # noqa: PLW0603 - it is the state of the process
    mine: list[tuple[int, Handler, Any]] = []
    try:
        for number, handler in handlers.items():
            before = signal.getsignal(number)
            mine.append((number, handler, signal.SIG_DFL if before is None else before))
            _in_force.append(mine[-1])
            with contextlib.suppress(NotImplementedError):  # Windows has no wake-up for these
                # asyncio's own handler: the loop's wake-up descriptor is set with it.
                loop.add_signal_handler(number, lambda: None)
            signal.signal(number, handler)
        yield
    finally:
        _is_stopping = False
        for number, handler, before in mine:
            if signal.getsignal(number) is handler:
                with contextlib.suppress(NotImplementedError):
                    loop.remove_signal_handler(number)
                signal.signal(number, before)
            _in_force.remove((number, handler, before))


def _before_fork() -> None:
    _mask.before = None
    if _in_force:
        numbers = {number for number, _, _ in _in_force}
        _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def _unblock() -> None:
    if _mask.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _forked() -> None:
    if _in_force:
        signal.set_wakeup_fd(-1)
    for number, handler, before in reversed(_in_force):
        if signal.getsignal(number) is handler:
            signal.signal(number, signal.default_int_handler if _is_asyncios(before) else before)
    _in_force.clear()
    _unblock()


def _is_asyncios(handler: object) -> bool:
    """Tell whether *handler* is that of an `asyncio.Runner`, whose loop is the parent's, too."""
    return isinstance(handler, functools.partial) and isinstance(
        getattr(handler.func, "__self__", None), asyncio.Runner
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_unblock, after_in_child=_forked)


class Presses:
    """Tells a signal that came again from one that came twice.

    A terminal and a wrapper that passes it on, or timeout(1), which signals the
    process and then its group, send one request as two signals.
    """

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def is_another(self, number: int) -> bool:
        """Tell whether the signal *number*, which came now, is a request of its own."""
        now = time.monotonic()
        if now - self._last.get(number, float("-inf")) < TOGETHER:
            return False
        self._last[number] = now
        return True


# --------------------------------------------------------------- waits they break off

SLICE: Final = 0.1  # seconds: a signal that comes just before a wait does not interrupt it

_is_waiting = False
_is_stopping = False  # a signal to stop came


@contextlib.contextmanager
def breakable() -> Iterator[None]:
    """Around a wait that holds up the event loop: a signal to stop may break it off.

    The wait is to be one of `SLICE` seconds at most, again and again.

    Raises:
        asyncio.CancelledError: it did, or had come before.
    """
    global _is_waiting  # noqa: PLW0603 - signals are handled in one thread
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _is_waiting = True
    try:
        if _is_stopping:
            raise asyncio.CancelledError
        yield
    finally:
        _is_waiting = False


def break_off() -> None:
    """In a handler of a signal to stop: break off what `breakable` is around, or will be."""
    global _is_stopping  # noqa: PLW0603 - signals are handled in one thread
    _is_stopping = True
    if _is_waiting:
        raise asyncio.CancelledError
