"""The selector of a loop that serves connections while it waits.

A loop's pass costs more than a message does. So the epoll set of the engine's reactor contains
that of the loop, instead of the other way round (epoll(7) allows sets in sets), and `select`
waits in it, serves connections, and returns only when the loop has something to do: one of its
own descriptors is ready, its queue is not empty, or a timer is due.

The reactor is the native engine's `Reactor` or the portable engine's `EpollPoller`.
"""

from __future__ import annotations

import asyncio
import select
import selectors
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Protocol

__all__ = ["Selector", "new_loop"]

if TYPE_CHECKING:
    from selectors import EpollSelector as _Base
else:  # without epoll, nobody makes one
    _Base = getattr(selectors, "EpollSelector", selectors.DefaultSelector)


class _Reactor(Protocol):
    def wait(self, timeout: float | None) -> bool:
        """Serve connections until the loop has something to do; return whether to look."""


class Selector(_Base):
    """The loop's own descriptors, in an epoll set, and the reactor that waits for it."""

    reactor: _Reactor | None = None
    """The reactor, while it has connections or listeners."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the loop's own descriptors that are ready, within *timeout* seconds."""
        reactor = self.reactor
        if reactor is None:
            return super().select(timeout)
        return super().select(0) if reactor.wait(timeout) else []


def new_loop(
    kind: Callable[[Selector], asyncio.AbstractEventLoop], needs: AbstractSet[str] = frozenset()
) -> asyncio.AbstractEventLoop:
    """Return a new loop of *kind*, which is asyncio's own, changed, with a `Selector`.

    If the program prefers another kind of loop, or there is no epoll, return one of those. If
    asyncio's does not have the attributes that *kind* *needs*, only the selector is ours.
    """
    loop = asyncio.new_event_loop()
    if not hasattr(select, "epoll") or type(loop) is not asyncio.SelectorEventLoop:
        return loop
    has_all = vars(loop).keys() >= needs
    loop.close()
    return (kind if has_all else asyncio.SelectorEventLoop)(Selector())
