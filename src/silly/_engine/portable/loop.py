"""The loop that waits in its poller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, TypeVarTuple, Unpack

from silly._engine.selector import new_loop

__all__ = ["new_event_loop"]

Arguments = TypeVarTuple("Arguments")

_NAMES: Final = {"_closed", "_debug", "_ready"}  # of asyncio's loop, which `_Loop` uses


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop; with a `Selector`, unless the program prefers another kind of loop."""
    return new_loop(_Loop, _NAMES)


class _Loop(asyncio.SelectorEventLoop):
    """asyncio's own loop, with one Python call instead of four for each callback."""

    _closed: bool
    _debug: bool
    _ready: Any

    def call_soon(
        self,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """See `asyncio.loop.call_soon`."""
        if self._closed or self._debug:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle


_Loop.__name__ = _Loop.__qualname__ = asyncio.SelectorEventLoop.__name__  # in its repr
