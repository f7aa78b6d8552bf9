"""Counts the bytes that connections hold in memory together, unread and unsent.

Streams report here whenever that changes, some of them with each message. What happens when
there are too many is decided by the listener's budget, which derives from this.

As `lifecycle`, this file is compiled a second time for the native engine.
"""

from __future__ import annotations

__all__ = ["Account"]


class Account:
    """The base of `silly.net.budget.MemoryBudget`."""

    __slots__ = ("held", "limit")

    held: int
    limit: int | None

    def _begin(self, limit: int | None) -> None:
        """Set the state of a new listener."""
        self.held = 0
        self.limit = limit

    def _exceeded(self) -> None:
        """Note that more than the limit is held; called at each change until it is not."""
        raise NotImplementedError

    def change(self, by: int) -> None:
        """Count *by* bytes more (fewer, if negative) as held by a connection."""
        self.held += by
        if self.limit is not None and self.held > self.limit:
            self._exceeded()
