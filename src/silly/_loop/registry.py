"""Objects of which each event loop has one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["PerLoop"]

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One object for each event loop, made when it is first asked for.

    It is an attribute of the loop. A dictionary of loops would keep both forever, even one
    with weak keys, because most such objects refer to their loop.
    """

    def __init__(self, name: str, make: Callable[[asyncio.AbstractEventLoop], T]) -> None:
        self._attribute = f"_silly_{name}"
        self._make = make

    def of(self, loop: asyncio.AbstractEventLoop) -> T:
        """Return the object of *loop*; make it if there is none."""
        found: T | None = getattr(loop, self._attribute, None)
        if found is None:
            found = self._make(loop)
            setattr(loop, self._attribute, found)
        return found
