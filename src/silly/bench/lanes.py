"""The kinds of lanes: what each may send, and when.

closed loop   each reply makes room for the next request: `depth` are in flight
open loop     requests are due at times that do not depend on replies
hold          connections are idle, and each has one request at the end
reconnect     each request has its own connection (closed or open loop)
"""

from __future__ import annotations

import asyncio
import contextlib

from silly.bench.clock import clock
from silly.bench.connector import Connector
from silly.bench.dispatcher import Dispatcher
from silly.bench.lane import PAUSE, Lane

__all__ = ["ClosedLane", "HoldLane", "OpenLane", "ReconnectLane"]


class ClosedLane(Lane):
    """Closed loop: each reply is followed by the next request."""

    __slots__ = ()

    def begin(self, now: int) -> None:
        """Send requests until `depth` of them are in flight."""
        if count := self._dispatcher.grant(self._dispatcher.plan.depth - self.in_flight):
            self._send(count, now, now)

    def record(self, answered: int, now: int) -> None:
        """Record the replies: those to requests sent together may not come together."""
        flights, record = self._flights, self._recorder.answered
        left = answered
        while left:
            due, sent, count = flights[0]
            if count <= left:
                flights.popleft()
            else:
                flights[0] = (due, sent, count - left)
                count = left
            record(now, now - sent, count)
            left -= count

    def send_more(self, answered: int, now: int) -> None:
        """Send as many requests as were answered."""
        if not self._ending and (answered := self._dispatcher.grant(answered)):
            self._send(answered, now, now)


class OpenLane(Lane):
    """Open loop: requests are sent when they are due, or as soon as there is room."""

    __slots__ = ()

    def begin(self, now: int) -> None:
        """Offer room until `depth` requests are in flight."""
        self.send_more(self._dispatcher.plan.depth - self.in_flight, now)

    def record(self, answered: int, now: int) -> None:
        """Record each reply."""
        served = self._recorder.served
        for _ in range(answered):
            due, sent, _count = self._flights.popleft()
            served(now, due, sent)

    def send_more(self, answered: int, now: int) -> None:
        """Send what is due already, and offer the rest of the room."""
        dispatcher = self._dispatcher
        for _ in range(answered):
            if dispatcher.next_due <= now and not self._ending:
                self.send_due(dispatcher.take_due(now), now)
            else:
                dispatcher.has_room(self)

    def send_due(self, due: int, now: int) -> None:
        """Send the request that was *due*.

        If the connection has just been lost, the request is lost with it: the lane's own
        task, which waits in a read, records that.
        """
        with contextlib.suppress(OSError):
            self._send(1, due, now)


class HoldLane(ClosedLane):
    """Hold: idle until the end; then one request shows that the connection works."""

    __slots__ = ()

    def begin(self, now: int) -> None:
        """Send nothing."""

    def _done(self) -> bool:
        return self._replies.answered > 0

    def finish(self) -> None:
        """Send the only request."""
        self._ending = True
        if self._conn is not None and not self._replies.sent and self._conn.is_alive:
            now = clock()
            self._send(1, now, now)


class ReconnectLane(Lane):
    """Reconnect: each request has its own connection; latencies include connecting."""

    __slots__ = ("_begun", "_due", "_given")

    def __init__(self, dispatcher: Dispatcher, connector: Connector) -> None:
        super().__init__(dispatcher, connector)
        self._given: asyncio.Future[tuple[int, int] | None] | None = None

    async def live(self) -> None:
        """Open a connection for each request until the run ends."""
        while not (self._ending or self._dispatcher.stopping):
            due = await self._wait_for_work()
            if due is None:
                return
            self._dispatcher.connecting += 1
            try:
                is_connected = await self.connect(due[0])
            finally:
                self._dispatcher.connecting -= 1
            if is_connected:
                self._due, self._begun = due
                await self._use()
            else:
                await asyncio.sleep(PAUSE)

    async def _wait_for_work(self) -> tuple[int, int] | None:
        dispatcher, now = self._dispatcher, clock()
        if dispatcher.plan.rate is None:
            return (now, now) if dispatcher.grant(1) else None
        if dispatcher.next_due <= now:
            return dispatcher.take_due(now), now
        self._given = asyncio.get_running_loop().create_future()
        dispatcher.has_room(self)
        try:
            return await self._given
        finally:
            self._given = None

    def send_due(self, due: int, now: int) -> None:
        """Send the request that was *due*."""
        if self._given is not None and not self._given.done():
            self._given.set_result((due, now))

    def finish(self) -> None:
        """End; an exchange that has begun is finished first."""
        self._ending = True
        if self._given is not None and not self._given.done():
            self._given.set_result(None)

    def begin(self, now: int) -> None:  # noqa: ARG002 - the request was due, or begun, before
        """Send the request that the connection was opened for."""
        self._send(1, self._due, self._begun)

    def record(self, answered: int, now: int) -> None:  # noqa: ARG002 - always 1
        """Record the reply."""
        due, sent, _ = self._flights.popleft()
        if self._dispatcher.plan.rate is None:
            self._recorder.answered(now, now - sent, 1)
        else:
            self._recorder.served(now, due, sent)

    def send_more(self, answered: int, now: int) -> None:
        """Send nothing: the connection was for one request."""

    def _done(self) -> bool:
        return self._replies.answered > 0
