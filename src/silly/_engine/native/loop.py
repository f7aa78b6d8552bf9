"""The loop that waits in the reactor."""

from __future__ import annotations

import asyncio

from silly._engine.native.scheduling import Scheduling
from silly._engine.selector import Selector, new_loop

__all__ = ["new_event_loop"]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop; with a `Selector`, unless the program prefers another kind of loop."""
    return new_loop(_Loop)


class _Loop(Scheduling, asyncio.SelectorEventLoop):
    """asyncio's own loop."""

    def __init__(self, selector: Selector) -> None:
        super().__init__(selector)
        # Tasks and futures ask for this method, with each step that they schedule. It is kept,
        # instead of being made each time, until the loop is closed.
        self.call_soon = self.call_soon  # type: ignore[method-assign]

    def close(self) -> None:
        """See `asyncio.loop.close`."""
        super().close()
        self.__dict__.pop("call_soon", None)  # leave no cycle


_Loop.__name__ = _Loop.__qualname__ = asyncio.SelectorEventLoop.__name__  # in its repr
