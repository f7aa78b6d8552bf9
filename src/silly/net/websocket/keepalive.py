"""Keeps WebSockets alive: pings silent peers, and gives up those that do not answer.

All WebSockets of an event loop are swept together, so one costs no timer. Silence is measured
on a clock that stands still while the loop does: after a stall, the bytes that peers have sent
meanwhile are read before anybody is found silent.
"""

from __future__ import annotations

import asyncio
import errno
import math
from typing import Final, Protocol

from silly._loop.registry import PerLoop
from silly.net.limits import Limits
from silly.net.sweep import CHECKS, MAX_INTERVAL, Sweep

__all__ = ["keepalive", "silent", "too_slow"]


class WebSocket(Protocol):
    """What this needs of a WebSocket."""

    @property
    def limits(self) -> Limits: ...
    def _check(self, now: float) -> None:
        """Ping the peer or give it up, if it has been silent for too long at the time *now*."""


class Keepalive:
    """The WebSockets of one event loop."""

    __slots__ = ("_loop", "_now", "_sweep", "_swept_at", "_websockets")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._websockets: set[WebSocket] = set()
        self._sweep = Sweep(loop, self._all, self._check)
        self._now = 0.0  # seconds, without stalls
        self._swept_at = loop.time()

    def add(self, websocket: WebSocket) -> None:
        """Watch over *websocket* until it is discarded."""
        if not self._websockets:
            self._swept_at = self._loop.time()
        self._websockets.add(websocket)
        self._sweep.start(_shortest(websocket.limits) / CHECKS)

    def discard(self, websocket: WebSocket) -> None:
        """Forget *websocket*."""
        self._websockets.discard(websocket)

    def _all(self) -> list[WebSocket]:
        now = self._loop.time()
        longest = 2 * min(self._sweep.interval, MAX_INTERVAL)
        self._now += min(now - self._swept_at, longest)
        self._swept_at = now
        shortest = min((_shortest(each.limits) for each in self._websockets), default=math.inf)
        self._sweep.interval = shortest / CHECKS
        return list(self._websockets)

    def _check(self, websocket: WebSocket, _: float) -> bool:
        if websocket in self._websockets:
            websocket._check(self._now)
        return False


def _shortest(limits: Limits) -> float:
    return min(
        limits.ping_interval or math.inf,
        limits.ping_timeout or math.inf,
        limits.read_deadline or math.inf,
    )


keepalive: Final = PerLoop("websockets", Keepalive)


def silent(seconds: float) -> OSError:
    """Return the error of a connection whose peer does not answer pings."""
    text = f"No answer to a ping within {seconds:g} seconds (ping_timeout), closed"
    return TimeoutError(errno.ETIMEDOUT, text)


def too_slow(seconds: float) -> OSError:
    """Return the error of a connection whose peer does not complete a message."""
    text = f"A message not complete within {seconds:g} seconds (read_deadline), closed"
    return TimeoutError(errno.ETIMEDOUT, text)
