"""The pings of a WebSocket, and their pongs (RFC 6455, section 5.5)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

__all__ = ["Pings", "checked_ping"]

_MOST: Final = 125  # bytes of a ping


class Pings:
    """The pings that wait for their pongs, the oldest first."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[bytes, asyncio.Future[None]] = {}

    def begin(self, data: bytes) -> tuple[bytes, asyncio.Future[None]]:
        """Return what a ping with *data* (empty: unique bytes) sends, and the wait for its pong."""
        data = data or os.urandom(4)
        if data in self._waiting:
            raise ValueError("a ping with the same data is waiting for its pong")
        pong = self._waiting[data] = asyncio.get_running_loop().create_future()
        return data, pong

    def forget(self, data: bytes) -> None:
        """Wait no more for the pong to the ping with *data*."""
        self._waiting.pop(data, None)

    def take(self, pongs: list[bytes]) -> None:
        """Take *pongs*; those that nobody waits for are ignored."""
        for payload in pongs:
            if payload not in self._waiting:
                continue
            # A peer may answer the last of several pings only (section 5.5.3).
            for earlier in list(self._waiting):
                pong = self._waiting.pop(earlier)
                if not pong.done():
                    pong.set_result(None)
                if earlier == payload:
                    break

    def fail(self, error: Callable[[], Exception]) -> None:
        """Raise an *error* in each that waits."""
        waiting, self._waiting = self._waiting, {}
        for pong in waiting.values():
            if not pong.done():
                pong.set_exception(error())


def checked_ping(data: object) -> None:
    """Check the data of a ping (`TypeError`, `ValueError`)."""
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    if len(data) > _MOST:
        raise ValueError(f"a ping has up to {_MOST} bytes, not {len(data)}")
