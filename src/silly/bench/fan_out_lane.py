"""A lane for fan-out: one WebSocket sends, and all the others receive what it has sent.

A server that passes messages on, such as a chat or a feed, is loaded by one message at a time for
all of its receivers. The lane has all connections, and one clock: the latency of each delivery is
the time since its message was due (open loop), or sent. A message is recognized by its bytes, which
contain its number, so a receiver that misses one, or gets it twice or too late, is told apart from
one that gets something else. What comes back to the sender does not count.

============  ==================================================================
lost          a message did not reach a receiver within the timeout
abandoned     it was on its way to a receiver when a connection failed
reordered     it came after a later one
duplicate     it came again
unasked       a message came that was not sent
============  ==================================================================

When a connection fails, all are closed, and opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from silly._values.units import counted, duration_text
from silly.bench.clock import NEVER, clock
from silly.bench.connector import Connector, cause
from silly.bench.dispatcher import Dispatcher
from silly.bench.lane import PAUSE
from silly.bench.verify import shown
from silly.bench.websocket_replies import Channel, WebSocketReplies, as_bytes
from silly.errors import ConnectionClosed, EndOfStream
from silly.net import tcp
from silly.net.websocket.session import Message

__all__ = ["FanOutLane"]

_REMEMBERED: Final = 4096  # messages, to recognize duplicates


class _Flight:
    """A message that has not reached every receiver."""

    __slots__ = ("due", "left", "sent")

    def __init__(self, due: int, sent: int, left: int) -> None:
        self.due = due
        self.sent = sent
        self.left = left


class _Receiver:
    """A connection, and what it has received."""

    __slots__ = ("channel", "conn", "following", "number", "skipped")

    def __init__(self, conn: tcp.Conn, number: int, channel: Channel, following: int) -> None:
        self.conn = conn
        self.number = number
        self.channel = channel
        self.following = following
        """The message that should come next."""
        self.skipped: set[int] = set()
        """Messages before it that have not come."""


class FanOutLane:
    """Uses all connections; knows which messages are on their way."""

    def __init__(self, dispatcher: Dispatcher, connector: Connector) -> None:
        self._dispatcher = dispatcher
        self._connector = connector
        self._recorder = dispatcher.recorder
        self._sessions = [connector.sessions() for _ in range(dispatcher.plan.connections + 1)]
        self._messages = dispatcher.plan.factory()(0)
        self._receivers: list[_Receiver] = []
        self._sender: _Receiver | None = None
        self._ending = False
        self._sent = 0
        self._flights: dict[int, _Flight] = {}
        self._numbers: dict[bytes, int] = {}  # of the last messages

    @property
    def in_flight(self) -> int:
        """The number of messages that have not reached every receiver."""
        return len(self._flights)

    @property
    def waiting_since(self) -> int:
        """When the oldest of them was sent."""
        return next(iter(self._flights.values())).sent if self._flights else NEVER

    # ---------------------------------------------------------------- its connections

    async def connect(self, due: int | None = None) -> bool:  # noqa: ARG002 - as other lanes
        """Open all connections, the sender's last; return False if one of them fails."""
        *receivers, last = self._sessions
        made = await asyncio.gather(*(self._connector.connect(each) for each in receivers))
        made.append(await self._connector.connect(last) if None not in made else None)
        opened = []
        for each in made:
            if each is not None:
                conn, number, replies = each
                assert isinstance(replies, WebSocketReplies)
                opened.append(_Receiver(conn, number, replies.channel, self._sent))
        if len(opened) < len(made):
            await self._close(opened)
            return False
        *self._receivers, self._sender = opened
        return True

    async def live(self) -> None:
        """Use the connections until the run ends."""
        while not (self._ending or self._dispatcher.stopping):
            if self._sender is None and not await self.connect():
                await asyncio.sleep(PAUSE)
                continue
            await self._use()
        await self._close(self._all())

    def _all(self) -> list[_Receiver]:
        return [*self._receivers, *([] if self._sender is None else [self._sender])]

    async def _use(self) -> None:
        """Send and receive until a connection ends; then close all."""
        opened = self._all()
        tasks = [asyncio.create_task(self._receive(each)) for each in opened]
        try:
            self.begin(clock())
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._dispatcher.free.pop(self, None)
            self._give_up(NEVER, "abandoned", "when a connection failed")
            self._receivers, self._sender = [], None
            await self._close(opened)
            await asyncio.gather(*tasks)

    async def _close(self, opened: list[_Receiver]) -> None:
        for each in opened:
            self._leave(each)
            self._connector.alive -= 1
        for each in opened:
            await each.conn.wait_closed()

    def _leave(self, one: _Receiver) -> None:
        if one.conn.is_alive and (farewell := one.channel.farewell()):
            with contextlib.suppress(OSError):
                one.conn.write(farewell)
        one.conn.close()

    # --------------------------------------------------------------------- receiving

    async def _receive(self, one: _Receiver) -> None:
        """Receive until the connection ends, and record why, if this process did not end it."""
        recorder, counts = self._recorder, one is not self._sender
        try:
            while one.channel.end is None:
                piece = await one.conn.read()
                now = clock()
                if now >= recorder.ends:
                    recorder.roll(now)
                recorder.now.bytes_in += len(piece)
                messages = one.channel.receive(piece)
                if counts:
                    for message in messages:
                        self._deliver(one, message, now)
        except ConnectionClosed:  # by this process
            return
        except EndOfStream:
            self._fail(one, "closed", "the server closed the connection")
        except OSError as error:
            self._fail(one, "lost connection", cause(error))
        else:
            self._fail(one, *one.channel.end)

    def _deliver(self, one: _Receiver, message: Message, now: int) -> None:
        """Check a message, and record its delivery."""
        data = as_bytes(message)
        number = self._numbers.get(data)
        is_text = isinstance(message, str)
        if number is None or is_text == one.channel.is_binary:
            kind = "text" if is_text else "binary"
            self._fail(one, "unasked", f"a {kind} message that was not sent: {shown(data, 0)}")
            return
        if number >= one.following:
            one.skipped.update(range(one.following, number))
            one.following = number + 1
        elif number in one.skipped:
            one.skipped.discard(number)
            later = one.following - 1
            self._fail(one, "reordered", f"message {number} came after message {later}")
        else:
            self._fail(one, "duplicate", f"message {number} came twice")
            return
        flight = self._flights.get(number)
        if flight is None:  # it has been counted as lost
            return
        if self._dispatcher.plan.rate is None:
            self._recorder.answered(now, now - flight.sent, 1)
        else:
            self._recorder.served(now, flight.due, flight.sent)
        flight.left -= 1
        if not flight.left:
            del self._flights[number]
            self._go_on(now)

    def _fail(self, one: _Receiver, kind: str, text: str, count: int = 1) -> None:
        self._connector.failed(kind, f"connection {one.number}: {text}", count)

    # ----------------------------------------------------------------------- sending

    def begin(self, now: int) -> None:
        """Send messages, or offer room, until `depth` of them are in flight."""
        for _ in range(self._dispatcher.plan.depth - self.in_flight):
            self._go_on(now)

    def _go_on(self, now: int) -> None:
        """Send the next message, if it may be sent; end with the last one."""
        dispatcher = self._dispatcher
        if self._ending or dispatcher.stopping:
            if not self._flights:
                self.finish()
        elif dispatcher.plan.rate is None:
            if dispatcher.grant(1):
                self._send(now, now)
        elif dispatcher.next_due <= now:
            self._send(dispatcher.take_due(now), now)
        else:
            dispatcher.has_room(self)

    def send_due(self, due: int, now: int) -> None:
        """Send the message that was *due* (open loop)."""
        self._send(due, now)

    def _send(self, due: int, now: int) -> None:
        sender = self._sender
        assert sender is not None  # who has none has nothing in flight, and offers no room
        number = self._sent
        self._sent += 1
        request, reply = self._messages.batch(number, 1)
        self._numbers[reply] = number
        if len(self._numbers) > _REMEMBERED + self.in_flight:
            del self._numbers[next(iter(self._numbers))]
        self._flights[number] = _Flight(due, now, len(self._receivers))
        framed = sender.channel.frame(request)
        interval = self._recorder.now
        interval.bytes_out += len(framed)
        interval.sent += 1
        with contextlib.suppress(OSError):  # the sender's task, which waits in a read, records it
            sender.conn.write(framed)

    # ------------------------------------------------------------------------ the end

    def time_out(self) -> None:
        """Count what has not been delivered within the timeout as lost."""
        timeout = self._dispatcher.plan.timeout
        before = clock() - round(timeout * 1e9)
        for _ in range(self._give_up(before, "lost", f"within {duration_text(timeout)}")):
            self._go_on(clock())

    def _give_up(self, before: int, kind: str = "", when: str = "") -> int:
        """Give up what was sent *before*, and not delivered; return how many messages.

        *kind*: of the error, which *when* describes; empty: the run was interrupted.
        """
        now, open_loop = clock(), self._dispatcher.plan.rate is not None
        count = 0
        while self._flights and self.waiting_since <= before:
            number = next(iter(self._flights))
            flight = self._flights.pop(number)
            count += 1
            sent = flight.sent if open_loop else None
            self._recorder.gave_up(now, flight.due, sent, flight.left)
            if kind:
                receivers = counted(len(self._receivers), "receiver")
                text = f"message {number} had not reached {flight.left} of {receivers} {when}"
                self._connector.failed(kind, text, flight.left)
        return count

    def finish(self) -> None:
        """Send no more; end as soon as everything is delivered."""
        self._ending = True
        if not self._flights:
            for each in self._all():
                self._leave(each)

    def abandon(self) -> None:
        """End now."""
        self._ending = True
        self._give_up(NEVER)
        for each in self._all():
            each.conn.abort()
