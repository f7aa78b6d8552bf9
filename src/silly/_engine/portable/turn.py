"""Batches the writes made in one turn (iteration) of the event loop.

A write only appends to its stream's batch. The batch is sent with one call when the
stream's reader suspends, when it has grown large, or at the latest at the end of the
turn: the first write of a turn schedules one callback for all streams of the loop, ahead
of anything that the writing task may schedule when it suspends. So whatever a task
awaits, its writes are sent before it continues.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from silly._loop.registry import PerLoop

__all__ = ["Turn", "turns"]


class _Flushable(Protocol):
    def end_of_turn(self) -> None: ...


class Turn:
    """The streams of one event loop that have a batch to send at the end of this turn."""

    __slots__ = ("_written",)

    def __init__(self) -> None:
        self._written: list[_Flushable] = []

    def add(self, stream: _Flushable, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule sending *stream*'s batch at the end of this turn of *loop*."""
        if not self._written:
            loop.call_soon(self._end)
        self._written.append(stream)

    def _end(self) -> None:
        written, self._written = self._written, []
        rest = iter(written)
        try:
            for stream in rest:
                stream.end_of_turn()
        except BaseException:  # a defect of one stream's filter: the others go on
            for stream in rest:
                self.add(stream, asyncio.get_running_loop())
            raise


turns: Final = PerLoop("turn", lambda _: Turn())
