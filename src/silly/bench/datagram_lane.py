"""Lanes of datagrams: each uses one UDP socket, and tells what became of each request.

A reply is recognized by its bytes, which contain the number of its request: so loss,
duplication and reordering can be told apart from a wrong reply. A request without a reply
within the timeout is lost; that is a figure, not an error.

Every request that was sent is in the end either answered or lost, and every datagram that
arrived is a reply, a duplicate, late (its request was counted as lost before), or wrong.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from silly._values.units import counted
from silly.bench.clock import NEVER, clock
from silly.bench.connector import Connector, cause
from silly.bench.dispatcher import Dispatcher
from silly.bench.lane import PAUSE
from silly.errors import ConnectionClosed
from silly.net import udp

__all__ = ["ClosedDatagramLane", "DatagramLane", "OpenDatagramLane"]

_REMEMBERED: Final = 4096  # replies of a socket, to recognize duplicates and late ones
_NUMBER: Final = re.compile(rb"\d{10}")  # of a generated request
_HEADER: Final = 14  # bytes in which it is
_SHOWN: Final = 40  # bytes of a wrong reply


class DatagramLane:
    """Uses one socket; knows which requests are in flight on it."""

    __slots__ = (
        "_connector",
        "_dispatcher",
        "_ending",
        "_flights",
        "_highest",
        "_known",
        "_messages",
        "_number",
        "_recorder",
        "_sent",
        "_socket",
    )

    def __init__(self, dispatcher: Dispatcher, connector: Connector) -> None:
        self._dispatcher = dispatcher
        self._connector = connector
        self._recorder = dispatcher.recorder
        self._socket: udp.Socket | None = None
        self._ending = False
        self._sent = 0
        self._highest = -1  # the highest number of a request that was answered
        self._flights: dict[bytes, tuple[int, int, int]] = {}  # by reply: number, due, sent
        self._known: dict[bytes, bool] = {}  # replies that may come again; whether they came

    @property
    def in_flight(self) -> int:
        """The number of requests that were sent, and neither answered nor lost."""
        return len(self._flights)

    @property
    def waiting_since(self) -> int:
        """When the oldest request in flight was sent."""
        return next(iter(self._flights.values()))[2] if self._flights else NEVER

    async def connect(self, due: int | None = None) -> bool:  # noqa: ARG002 - as other lanes
        """Open the socket; return False if that fails."""
        made = await self._connector.open_socket()
        if made is None:
            return False
        self._socket, self._number, self._messages = made
        return True

    async def live(self) -> None:
        """Use the socket until the run ends."""
        while self._socket is None and not (self._ending or self._dispatcher.stopping):
            if not await self.connect():
                await asyncio.sleep(PAUSE)
        if self._socket is None:
            return
        try:
            await self._use(self._socket)
        finally:
            self._connector.alive -= 1
            self._close()
            self._socket = None

    async def _use(self, sock: udp.Socket) -> None:
        self.begin(clock())
        while self._flights or not (self._ending or self._dispatcher.stopping):
            try:
                data, _ = await sock.recv()
            except ConnectionClosed:
                return
            except OSError as error:  # reported by the server's machine: nobody receives
                self._connector.failed("refused", f"socket {self._number}: {cause(error)}")
            else:
                self._receive(data, clock())

    def _receive(self, data: bytes, now: int) -> None:
        recorder = self._recorder
        if now >= recorder.ends:
            recorder.roll(now)
        interval = recorder.now
        interval.bytes_in += len(data)
        interval.datagrams_in += 1
        flight = self._flights.pop(data, None)
        if flight is None:
            self._receive_other(data)
            return
        number, due, sent = flight
        self._remember(data, came=True)
        if number < self._highest:
            interval.reordered += 1
        else:
            self._highest = number
        self.record(now, due, sent)
        self.send_more(now)

    def _receive_other(self, data: bytes) -> None:
        """Count a datagram that answers no request in flight."""
        interval = self._recorder.now
        came = self._known.get(data)
        if came is None and self._is_old(data):
            interval.late_replies += 1
        elif came is None:
            other = self._messages.addressee(data)
            what = (
                f"{counted(len(data), 'byte')} that no request asked for: {data[:_SHOWN]!r}"
                if other is None or other == self._number % 1_000_000
                else f"a reply for socket {other}"
            )
            kind = "misdelivered" if what.startswith("a reply") else "corrupt"
            self._connector.failed(kind, f"socket {self._number}: {what}")
        elif came:
            interval.duplicates += 1
        else:
            self._known[data] = True
            interval.late_replies += 1

    def _is_old(self, data: bytes) -> bool:
        """Return whether *data* is the reply to a request so old that it was forgotten."""
        found = _NUMBER.search(data, 0, _HEADER)
        return (
            found is not None
            and int(found[0]) < self._sent
            and self._messages.reply(int(found[0])) == data
        )

    def _remember(self, reply: bytes, *, came: bool) -> None:
        self._known[reply] = came
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    def _send(self, due: int, now: int) -> None:
        """Send the next request."""
        sock = self._socket
        assert sock is not None
        request, reply = self._messages.batch(self._sent, 1)
        self._flights[reply] = (self._sent, due, now)
        self._sent += 1
        interval = self._recorder.now
        interval.bytes_out += len(request)
        interval.sent += 1
        sock.send(request)

    # ----------------------------------------------------------- depends on the kind of load

    def begin(self, now: int) -> None:
        """Start to use the socket."""
        raise NotImplementedError

    def record(self, now: int, due: int, sent: int) -> None:
        """Record a reply."""
        raise NotImplementedError

    def send_more(self, now: int) -> None:
        """Send the next request: one was answered, or lost."""
        raise NotImplementedError

    def send_due(self, due: int, now: int) -> None:
        """Send the request that was *due* (open loop)."""
        raise NotImplementedError

    # ------------------------------------------------------------------------- the end

    def time_out(self) -> None:
        """Count requests without a reply within the timeout as lost."""
        now = clock()
        limit = now - round(self._dispatcher.plan.timeout * 1e9)
        while self._flights and self.waiting_since <= limit:
            self._lose(now)
            self.send_more(now)
        if self._ending and not self._flights:
            self._close()

    def _lose(self, now: int) -> None:
        reply = next(iter(self._flights))
        _, due, sent = self._flights.pop(reply)
        open_loop = self._dispatcher.plan.rate is not None
        self._recorder.gave_up(now, due, sent if open_loop else None)
        self._recorder.now.lost += 1
        self._remember(reply, came=False)

    def finish(self) -> None:
        """Send no more requests; end as soon as none is in flight."""
        self._ending = True
        if not self._flights:
            self._close()

    def abandon(self) -> None:
        """End now: what is in flight counts as lost."""
        self._ending = True
        now = clock()
        while self._flights:
            self._lose(now)
        self._close()

    def _close(self) -> None:
        """Close the socket, and count what this machine dropped: that is not the server's fault."""
        self._dispatcher.free.pop(self, None)  # nothing more is sent on it
        sock = self._socket
        if sock is None or not sock.is_open:
            return
        stats = sock.stats  # before what is unread counts as dropped: it comes too late
        self._recorder.now.own_drops += (
            (stats.dropped_by_kernel or 0)
            + stats.dropped_by_queue
            + stats.send_dropped
            + sum(stats.send_errors.values())
        )
        sock.close()


class ClosedDatagramLane(DatagramLane):
    """Closed loop: each reply, or loss, is followed by the next request."""

    __slots__ = ()

    def begin(self, now: int) -> None:
        """Send the first `depth` requests."""
        for _ in range(self._dispatcher.grant(self._dispatcher.plan.depth)):
            self._send(now, now)

    def record(self, now: int, due: int, sent: int) -> None:  # noqa: ARG002 - due when sent
        """Record a reply."""
        self._recorder.answered(now, now - sent, 1)

    def send_more(self, now: int) -> None:
        """Send the next request."""
        if not self._ending and self._dispatcher.grant(1):
            self._send(now, now)


class OpenDatagramLane(DatagramLane):
    """Open loop: requests are sent when they are due, or as soon as there is room."""

    __slots__ = ()

    def begin(self, now: int) -> None:
        """Offer room for `depth` requests."""
        for _ in range(self._dispatcher.plan.depth):
            self.send_more(now)

    def record(self, now: int, due: int, sent: int) -> None:
        """Record a reply."""
        self._recorder.served(now, due, sent)

    def send_more(self, now: int) -> None:
        """Send what is due already, or offer the room."""
        dispatcher = self._dispatcher
        if dispatcher.next_due <= now and not self._ending:
            self._send(dispatcher.take_due(now), now)
        else:
            dispatcher.has_room(self)

    def send_due(self, due: int, now: int) -> None:
        """Send the request that was *due*."""
        self._send(due, now)
