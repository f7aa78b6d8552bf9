"""Crashes in the log: of those from one place, the first in full, then how many more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from silly._logs.logger import Logger
from silly._logs.repeats import Repeats
from silly._logs.tracebacks import clarify, place
from silly.text import printable

__all__ = ["Crashes"]


class Crashes(Repeats):
    """Logs errors with their tracebacks; calls *summarize* with how many others there were."""

    __slots__ = ("_logger",)

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        logger: Logger,
        summarize: Callable[[str, int], None],
    ) -> None:
        super().__init__(loop, summarize)
        self._logger = logger

    def log(self, error: BaseException, message: str, *args: object) -> None:
        """Log *error* under a %-formatted *message*, unless its place was logged lately."""
        if self.add(printable(place(error))):
            clarify(error, whole=self._loop.get_debug())
            self._logger.error(message, *args, exc_info=error)
