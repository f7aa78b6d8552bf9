"""Telling which code blocks the event loop: a thread asks the loop now and then, and looks.

While a handler computes, or waits without ``await``, no other task of the loop goes
on. The thread sees that the loop does not answer, and where its thread is meanwhile.
What is stopped as a whole (SIGSTOP, a laptop that sleeps) is not blocked: the thread
counts its own looks, not the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

from silly import _inspection
from silly._logger import Logger

__all__ = ["blocking_reported"]

logger = Logger("silly.runtime")

LOOK: Final = 0.5  # seconds
_LOOKS: Final = 2  # without an answer, until the loop counts as blocked


@contextlib.contextmanager
def blocking_reported(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Log what blocks *loop*, which runs in this thread, for longer than a second."""
    watch = _Watch(loop, threading.get_ident())
    thread = threading.Thread(target=watch.run, name="silly: what blocks the loop", daemon=True)
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
            except RuntimeError:  # it is closed
                return
            self._wait(asked_at)

    def _wait(self, asked_at: float) -> None:
        looks, place = 0, None
        while not self.ended.wait(LOOK):
            if self._answered_at is not None:
                if place is not None:
                    blocked = self._answered_at - asked_at
                    logger.warning("the event loop goes on; it was blocked for %.1f s", blocked)
                return
            looks += 1
            if looks == _LOOKS:
                place = self._place()
                logger.warning(
                    "the event loop is blocked: no other task goes on until this is done: %s "
                    "(a thread can do it: await asyncio.to_thread(...))",
                    place,
                )

    def _place(self) -> str:
        frame = innermost = sys._current_frames().get(self._thread)
        while frame is not None:
            if _inspection.is_program(frame.f_code.co_filename):
                return _inspection.place_of(frame)
            frame = frame.f_back
        return _inspection.place_of(innermost) if innermost is not None else "?"
