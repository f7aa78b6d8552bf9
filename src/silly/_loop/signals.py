"""Signal handlers for a running program, removed in its forked children.

A child made by `os.fork` (also by multiprocessing on Linux) inherits the handlers and
asyncio's wake-up descriptor: a signal to the child would not end it, but wake the
parent's event loop. So the child restores the previous handlers. The signals are
blocked during the fork: one that arrives then is handled by the child's handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

__all__ = [
    "SLICE",
    "ControllingTerminal",
    "Debouncer",
    "handling",
    "interrupt_wait",
    "interruptible",
]

DEBOUNCE: Final = 0.1  # seconds within which equal signals count as one

Handler = Callable[[int, types.FrameType | None], object]


# ------------------------------------------------------------------------ handlers

_in_force: list[tuple[int, Handler, Any]] = []  # with the previous handler
_mask = threading.local()


@contextlib.contextmanager
def handling(loop: asyncio.AbstractEventLoop, handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Call ``handlers[number](number, frame)`` on signals, which also wake up *loop*.

    Must be used in the main thread. Handlers that the program sets meanwhile are kept.
    """
    global _is_stopping  # noqa: PLW0603 - state of the process
    mine: list[tuple[int, Handler, Any]] = []
    try:
        for number, handler in handlers.items():
            before = signal.getsignal(number)
            mine.append((number, handler, signal.SIG_DFL if before is None else before))
            _in_force.append(mine[-1])
            with contextlib.suppress(NotImplementedError):  # on Windows
                # Makes asyncio set the loop's wake-up descriptor; its handler is replaced.
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
            signal.signal(
                number, signal.default_int_handler if _is_runner_handler(before) else before
            )
    _in_force.clear()
    _unblock()


def _is_runner_handler(handler: object) -> bool:
    """Return whether *handler* is that of an `asyncio.Runner`, whose loop is the parent's."""
    return isinstance(handler, functools.partial) and isinstance(
        getattr(handler.func, "__self__", None), asyncio.Runner
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_unblock, after_in_child=_forked)


class Debouncer:
    """Recognizes signals that are duplicates of one request.

    One request arrives as two signals if a terminal sends it and a wrapper forwards it,
    or from timeout(1), which signals the process and then its group.
    """

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def is_new(self, number: int) -> bool:
        """Return whether the signal *number*, arriving now, is a new request."""
        now = time.monotonic()
        if now - self._last.get(number, float("-inf")) < DEBOUNCE:
            return False
        self._last[number] = now
        return True


class ControllingTerminal:
    """Tells a SIGHUP that somebody sent from one because the terminal was hung up.

    The kernel takes the terminal from the process before it sends the signal.
    """

    def __init__(self) -> None:
        self._was_there = _has_terminal()

    @property
    def is_gone(self) -> bool:
        """True if the process had a controlling terminal when this was made, and has none now."""
        return self._was_there and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)  # unknown: do not end the program
    return True


# ------------------------------------------------------- waits that block the loop

SLICE: Final = 0.1  # seconds: a signal just before a wait does not interrupt it

_is_waiting = False
_is_stopping = False  # a signal to stop has arrived


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make a wait that blocks the event loop interruptible by a signal to stop.

    The block must wait for at most `SLICE` seconds at a time, repeatedly.

    Raises:
        asyncio.CancelledError: a signal to stop arrives, or has arrived before.
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


def interrupt_wait() -> None:
    """From the handler of a signal to stop: interrupt the `interruptible` block, or the next."""
    global _is_stopping  # noqa: PLW0603 - signals are handled in one thread
    _is_stopping = True
    if _is_waiting:
        raise asyncio.CancelledError
