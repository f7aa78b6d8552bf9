"""Keeps WebSockets alive: pings silent peers, and gives up those that do not answer.

All WebSockets of an event loop are swept together, so one costs no timer. Silence is measured
on a clock that stands still while the loop does: after a stall, the bytes that peers have sent
meanwhile are read before anybody is found silent.
"""

from __future__ import annotations

import asyncio
import errno
import math
from typing import Final

from silly._loop.registry import PerLoop
from silly._values.units import in_seconds
from silly.net.conn import StreamConn
from silly.net.limits import Limits
from silly.net.sweep import CHECKS, MAX_INTERVAL, Sweep
from silly.net.websocket.session import Session

__all__ = ["Watched", "keepalive"]


class Watched:
    """The part of a WebSocket that is watched."""

    __slots__ = (
        "_conn",
        "_is_pinged",
        "_partial",
        "_seen_at",
        "_seen_bytes",
        "_session",
        "limits",
    )

    def __init__(self, conn: StreamConn, session: Session, limits: Limits) -> None:
        self._conn = conn
        self._session = session
        self.limits = limits
        self._seen_bytes = -1  # how many had come, when it was last found that some had ...
        self._seen_at = 0.0  # ... and when that was, or a ping was sent because of silence
        self._is_pinged = False
        # An incomplete message: its number, when it was first found, how many bytes had come.
        self._partial: tuple[int, float, int] | None = None

    def _send_controls(self) -> None:
        """Send what the session has to send."""
        raise NotImplementedError

    def _check(self, now: float) -> None:
        """Ping the peer or give it up, if it has been silent for too long at the time *now*."""
        conn, session, limits = self._conn, self._session, self.limits
        received, _ = conn._counts
        if received != self._seen_bytes or conn.unread_bytes:  # these may be its answer
            self._seen_bytes, self._seen_at, self._is_pinged = received, now, False
        elif session.is_closing:
            return  # there is a timer
        elif not self._is_pinged:
            if limits.ping_interval is None:
                pass
            elif now - self._seen_at >= limits.ping_interval * (1 - 1 / CHECKS):
                self._seen_at, self._is_pinged = now, True
                session.outgoing += session.ping(b"")
                self._send_controls()
        elif limits.ping_timeout is None:
            self._is_pinged = False
        elif now - self._seen_at >= limits.ping_timeout:
            conn._end_for_limit("ping_timeout", _silent(limits.ping_timeout))
            return
        if limits.read_deadline is not None:
            self._check_message(now, received, limits.read_deadline)

    def _check_message(self, now: float, received: int, due: float) -> None:
        """End the connection if a message is not complete in time."""
        session, conn = self._session, self._conn
        if not session.is_partial or conn.unread_bytes:
            self._partial = None
            return
        if self._partial is None or self._partial[0] != session.received:
            self._partial = session.received, now, received
        _, since, before = self._partial
        rate = self.limits.min_receive_rate
        earned = (received - before) / rate if rate else 0.0
        if now - since >= due + earned:
            conn._end_for_limit("read_deadline", _too_slow(due))


class Keepalive:
    """The WebSockets of one event loop."""

    __slots__ = ("_loop", "_now", "_sweep", "_swept_at", "_websockets")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._websockets: set[Watched] = set()
        self._sweep = Sweep(loop, self._all, self._check)
        self._now = 0.0  # seconds, without stalls
        self._swept_at = loop.time()

    def add(self, websocket: Watched) -> None:
        """Watch over *websocket* until it is discarded."""
        if not self._websockets:
            self._swept_at = self._loop.time()
        self._websockets.add(websocket)
        self._sweep.start(_shortest(websocket.limits) / CHECKS)

    def discard(self, websocket: Watched) -> None:
        """Forget *websocket*."""
        self._websockets.discard(websocket)

    def _all(self) -> list[Watched]:
        now = self._loop.time()
        longest = 2 * min(self._sweep.interval, MAX_INTERVAL)
        self._now += min(now - self._swept_at, longest)
        self._swept_at = now
        shortest = min((_shortest(each.limits) for each in self._websockets), default=math.inf)
        self._sweep.interval = shortest / CHECKS
        return list(self._websockets)

    def _check(self, websocket: Watched, _: float) -> bool:
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


def _silent(seconds: float) -> OSError:
    """Return the error of a connection whose peer does not answer pings."""
    text = f"No answer to a ping within {in_seconds(seconds)} (ping_timeout), closed"
    return TimeoutError(errno.ETIMEDOUT, text)


def _too_slow(seconds: float) -> OSError:
    """Return the error of a connection whose peer does not complete a message."""
    text = f"A message not complete within {in_seconds(seconds)} (read_deadline), closed"
    return TimeoutError(errno.ETIMEDOUT, text)
