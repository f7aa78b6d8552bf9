"""Decides which requests may be sent, and when.

In a closed loop a lane may send whenever there is room on its connection. In an open
loop, requests are due at times that do not depend on replies (`Schedule`). `spin` (or
`pace`) gives each to a lane that has room. While none has, the requests wait, and the
next lane with room takes the oldest. Latencies count from when a request was due, so
that a stall is not hidden.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from silly._engine import engine
from silly.bench.clock import NEVER, clock, sleep_until
from silly.bench.plan import Plan
from silly.bench.recorder import Recorder

__all__ = ["Dispatcher", "Sender"]

_STEPS: Final = 4096  # histogram entries for requests that were never sent, at most
_BURST: Final = 512  # requests to send before reading replies again


class Sender(Protocol):
    """What can send a request: a lane."""

    def send_due(self, due: int, now: int) -> None:
        """Send the request that was *due* (open loop)."""


class Dispatcher:
    """Permits the requests of one worker, until the run ends or is stopped."""

    def __init__(self, plan: Plan, part: int, recorder: Recorder) -> None:
        self.plan = plan
        self.recorder = recorder
        self.stopping = False
        """No more requests are to be sent."""
        self.why = ""
        """Why the run ended early; empty if it did not."""
        self.ended = asyncio.Event()
        """Set when the last request was permitted, or when the run was stopped."""
        self.on_finish: Callable[[], None] = lambda: None
        """Called once, when no more requests are to be sent."""
        self.start = self.end = 0
        """When the load starts, and when measuring ends, on the clock."""
        self.schedule = plan.schedule(part)
        """When requests are due; None in a closed loop."""
        self.free: OrderedDict[Sender, int] = OrderedDict()
        """Lanes with room, and for how many requests; the first is the next to be used."""
        self.next_due = NEVER
        self.scheduled = 0
        """How many requests were due before the end."""
        self.connecting = 0
        """Permitted requests whose own connections are being made."""
        self._left = NEVER  # requests that may still be sent
        self._overdue = 0  # requests that were due before the end, but neither sent nor recorded
        self._number = 0  # the next request of the schedule
        self._polled = self._done = 0  # the time, and the work done, at the last poll

    # ------------------------------------------------------------------ start, end

    def begin(self, start: int, end: int) -> None:
        """Let requests be due from *start* to *end*."""
        self.start, self.end = start, end
        if self.schedule is not None and not self.stopping:
            self.next_due = start + round(self.schedule.due(0) * 1e9)

    def limit(self, count: int) -> None:
        """Permit only *count* more requests."""
        self._left = max(0, count)
        if self._left == 0:
            self.ended.set()

    def stop(self, why: str) -> None:
        """End the run early, for the reason *why*."""
        if not self.why and not self.ended.is_set():
            self.why = why
        self.end = min(self.end, clock())
        self.recorder.end(clock())
        self.finish()

    def finish(self) -> None:
        """Permit no more requests; lanes end when those in flight are answered."""
        if self.stopping:
            return
        self.stopping = True
        if self.schedule is not None and self.start:
            now = clock()
            due = self.schedule.count((min(now, self.end) - self.start) / 1e9)
            self.scheduled = max(self._number, min(due, self._number + self._left))
            self._overdue = self.scheduled - self._number
            if self.free:
                self.record_overdue(now)
        self.ended.set()
        self.next_due = NEVER
        self.on_finish()

    def record_overdue(self, now: int) -> None:
        """Record that requests which were due and never sent have waited until *now*.

        *now* is when a connection first had room after the end, as the oldest of them would
        have been sent then. If none had room, it is when the lanes have ended.
        """
        count, self._overdue = self._overdue, 0
        step = -(-count // _STEPS) or 1
        for at in range(0, count, step):
            size = min(step, count - at)
            assert self.schedule is not None
            due = self.schedule.due(self._number + at + size // 2)
            self.recorder.gave_up(now, self.start + round(due * 1e9), None, size)

    def grant(self, count: int) -> int:
        """Return how many of *count* requests may be sent now."""
        if self.stopping:
            return 0
        if count >= self._left:
            count, self._left = self._left, 0
            self.ended.set()
        elif self._left != NEVER:
            self._left -= count
        return count

    # ---------------------------------------------------------------- the open loop

    async def pace(self) -> None:
        """Send requests when they are due, sleeping in between."""
        await sleep_until(self.start)
        while not self.stopping:
            self._send_what_is_due()
            wait = (self.next_due - clock()) / 1e9 if self.free else 0.001
            await asyncio.sleep(max(0.0, min(0.01, wait)))

    async def spin(self) -> None:
        """Send requests when they are due, polling: waking up from sleep takes too long."""
        await sleep_until(self.start)
        self._polled = clock()
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()

        def turn() -> None:
            if failed.done():  # failed, or cancelled
                return
            try:
                engine.spin(loop, self._send_what_is_due)
            except BaseException as error:  # noqa: BLE001 - raised again by `await failed`
                failed.set_exception(error)
            else:
                loop.call_soon(turn)

        loop.call_soon(turn)
        await failed

    def _send_what_is_due(self) -> None:
        """Give requests that are due to lanes that have room."""
        now = clock()
        if now >= self.recorder.ends:
            self.recorder.roll(now)
        interval = self.recorder.now
        done = interval.bytes_in + interval.sent
        if done == self._done:
            interval.idle += now - self._polled
        self._polled, self._done = now, done
        burst = _BURST
        while self.next_due <= now and self.free and burst and not self.stopping:
            burst -= 1
            lane, room = self.free.popitem(last=False)
            if room > 1:
                self.free[lane] = room - 1
            lane.send_due(self.take_due(now, had_room=True), now)

    def take_due(self, now: int, *, had_room: bool = False) -> int:
        """Take the next request from the schedule to send it *now*; return when it was due."""
        due = self.next_due
        self.grant(1)
        self.recorder.lagged(now - due, had_room)
        self._number += 1
        assert self.schedule is not None
        later = self.schedule.due(self._number)
        self.next_due = self.start + round(later * 1e9) if later < 1e9 else NEVER
        if self.next_due >= self.end or self._left == 0:
            self.next_due = NEVER
        return due

    def has_room(self, lane: Sender) -> None:
        """Note that *lane* has room for one more request."""
        if self._overdue:
            self.record_overdue(clock())
        self.free[lane] = self.free.get(lane, 0) + 1
