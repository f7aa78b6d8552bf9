"""Reports code that blocks the event loop, from a thread that probes the loop.

While a handler computes, or waits without ``await``, no other task of the loop runs.
The thread notices that the loop does not answer, and where the loop's thread is then.
If the whole process was stopped (SIGSTOP, a sleeping laptop), the loop was not blocked,
so the thread counts its own checks instead of measuring time. An import is not reported: large
libraries take their time, and a program imports them before it serves anyone.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

from silly._logs.logger import Logger
from silly.runtime import inspection

__all__ = ["report_blocking"]

logger = Logger("silly.runtime")

_IMPORT: Final = "<frozen importlib._bootstrap>"
INTERVAL: Final = 0.5  # seconds between two checks
_CHECKS: Final = 2  # without an answer before the loop counts as blocked


@contextlib.contextmanager
def report_blocking(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Log code that blocks *loop*, which runs in this thread, for more than a second."""
    watch = _Watch(loop, threading.get_ident())
    thread = threading.Thread(target=watch.run, name="silly: blocking watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.ended.set()


class _Watch:
    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        self.ended = threading.Event()
        self._loop = loop
        self._thread = thread
        self._answered_at: float | None = None

    def _answer(self) -> None:
        self._answered_at = time.monotonic()

    def run(self) -> None:
        while not self.ended.is_set():
            self._answered_at = None
            asked_at = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop is closed
                return
            self._wait(asked_at)

    def _wait(self, asked_at: float) -> None:
        checks, place = 0, None
        while not self.ended.wait(INTERVAL):
            if self._answered_at is not None:
                if place is not None:
                    blocked = self._answered_at - asked_at
                    logger.warning("the event loop runs again; it was blocked for %.1f s", blocked)
                return
            checks += 1
            if checks == _CHECKS:
                place = self._place()
                if place is None:
                    continue
                logger.warning(
                    "the event loop is blocked: no other task can run until this returns: %s "
                    "(to run it in a thread: await asyncio.to_thread(...))",
                    place,
                )

    def _place(self) -> str | None:
        """Return the innermost line of the program that runs; None during an import."""
        place = None
        frame = innermost = sys._current_frames().get(self._thread)
        while frame is not None:
            if frame.f_code.co_filename == _IMPORT:
                return None
            if place is None and inspection.is_program(frame.f_code.co_filename):
                place = inspection.place_of(frame)
            frame = frame.f_back
        return place or (inspection.place_of(innermost) if innermost is not None else "?")
