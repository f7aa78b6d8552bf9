"""The selector of a loop that serves connections while it waits.

A loop's pass costs more than a message does. So the epoll set of the engine's reactor contains
that of the loop, instead of the other way round (epoll(7) allows sets in sets), and `select`
waits in it, serves connections, and returns only when the loop has something to do: one of its
own descriptors is ready, its queue is not empty, or a timer is due.

The reactor is the native engine's `Reactor` or the portable engine's `EpollPoller`.
"""

from __future__ import annotations

import selectors
from typing import Protocol

__all__ = ["Selector"]


class _Reactor(Protocol):
    def wait(self, timeout: float | None) -> bool:
        """Serve connections until the loop has something to do; return whether to look."""


class Selector(selectors.EpollSelector):
    """The loop's own descriptors, in an epoll set, and the reactor that waits for it."""

    reactor: _Reactor | None = None
    """The reactor, while it has connections or listeners."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the loop's own descriptors that are ready, within *timeout* seconds."""
        reactor = self.reactor
        if reactor is None:
            return super().select(timeout)
        return super().select(0) if reactor.wait(timeout) else []
