"""What is put off to the end of one turn (iteration) of the event loop: writes, above all.

A write only appends to its stream's batch. The batch is sent with one call when the
stream's reader suspends, when it has grown large, or at the latest at the end of the
turn: the first write of a turn schedules one callback for all streams of the loop, ahead
of anything that the writing task may schedule when it suspends. So whatever a task
awaits, its writes are sent before it continues.

Links that are lost in a turn close their sockets, and report that, in the same callback.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from silly._loop.registry import PerLoop

__all__ = ["Turn", "turns"]


class _WithAnEnd(Protocol):
    def end_of_turn(self) -> None: ...


class Turn:
    """What has something to do at the end of this turn of one event loop."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[_WithAnEnd] = []

    def add(self, each: _WithAnEnd, loop: asyncio.AbstractEventLoop) -> None:
        """Call `each.end_of_turn` at the end of this turn of *loop*."""
        if not self._due:
            loop.call_soon(self._end)
        self._due.append(each)

    def _end(self) -> None:
        due, self._due = self._due, []
        rest = iter(due)
        try:
            for each in rest:
                each.end_of_turn()
        except BaseException:  # a defect, such as of one stream's filter: the others go on
            for each in rest:
                self.add(each, asyncio.get_running_loop())
            raise


turns: Final = PerLoop("turn", lambda _: Turn())
