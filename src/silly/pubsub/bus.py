"""What a bus is, whatever carries its messages."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final, Self

from silly._loop.live import Live
from silly._loop.registry import PerLoop
from silly._values.arguments import positive_seconds, size
from silly.errors import ConnectionClosed
from silly.pubsub.limits import Limits
from silly.pubsub.stats import BusStats, Counts
from silly.pubsub.subjects import Pattern, check_subject
from silly.pubsub.subscription import Subscription

__all__ = ["Bus", "totals"]


class Bus(ABC):
    """A connection to what carries messages; `silly.pubsub.connect` makes it.

    Order: a subscription gets the messages of one bus in the order in which its `publish`
    was called (by whatever task), whatever their subjects. Messages of several buses are in
    no particular order. Nothing is delivered twice to a subscription.

    A bus belongs to the event loop in which it was made, and is closed with it. It does not
    keep a program running.
    """

    def __init__(self, address: str, limits: Limits) -> None:
        self.address = address
        """What it is connected to, as text, without a password."""
        self.limits = limits
        """Its `Limits`."""
        self._loop = asyncio.get_running_loop()
        self._counts = Counts()
        self._is_closed = False
        _buses.of(self._loop).open.add(self)
        Live.of(self._loop).buses.add(self)

    # ------------------------------------------------------------------ for programs

    async def publish(
        self, subject: str, data: bytes | bytearray | memoryview, *, timeout: float | None = None
    ) -> None:
        """Publish *data* under *subject*; return when the broker has it.

        That says nothing about subscribers: there may be none. While the broker is away, this
        waits until it is back. A message is sent once at most.

        Args:
            subject: tokens joined by dots, such as ``"room.general"``; no wildcards.
            data: the message. It may be changed as soon as this returns or raises.
            timeout: seconds; None for `Limits.publish_timeout`.

        Raises:
            PublishTimeout: the broker did not confirm it in time (a `TimeoutError`).
            PublishError: the connection was lost after it was sent, or the broker refused it
                (a `ConnectionError`). `PublishError.is_uncertain` says of both whether it
                may have been published all the same. So it may if this is cancelled.
            WriteQueueFull: too many messages of this bus are unconfirmed; it was not sent.
            ConnectionClosed: the bus is closed; it was not sent.
            TypeError, ValueError: the subject is invalid, or *data* too long or not bytes.
        """
        check_subject(subject)
        if not isinstance(data, bytes | bytearray | memoryview):
            hint = ": encode it, as in text.encode()" if isinstance(data, str) else ""
            raise TypeError(f"data must be bytes, not {type(data).__name__}{hint}")
        data = bytes(data)
        if len(data) > self.limits.max_message_bytes:
            raise ValueError(
                f"data has {len(data)} bytes; max_message_bytes is {self.limits.max_message_bytes}"
            )
        limit = positive_seconds(timeout, "timeout") or self.limits.publish_timeout
        self._check_open()
        await self._publish(subject, data, limit)

    def subscribe(
        self, pattern: str, *, max_messages: int | None = None, max_bytes: int | None = None
    ) -> Subscription:
        """Return the messages whose subjects match *pattern*, for ``async with``.

        ::

            async with bus.subscribe("room.*") as messages:
                async for message in messages:
                    print(message.subject, message.data)

        In the block, the subscription is in force: the broker has confirmed it. At the end of
        the block it is not any more, and what was not read is forgotten.

        Args:
            pattern: a subject, in which ``*`` stands for one token, and ``>`` at the end for
                one or more.
            max_messages, max_bytes: of its queue; None for those of `Limits`. When a message
                arrives and there is no room, the oldest ones are dropped; the first that is
                read after them has a `Message.gap`.

        Raises:
            TypeError, ValueError: an argument has the wrong type or value.
        """
        limits = self.limits
        return Subscription(
            self,
            Pattern(pattern),
            limits.max_messages if max_messages is None else _least_1(max_messages, "max_messages"),
            limits.max_bytes if max_bytes is None else _least_1(max_bytes, "max_bytes"),
        )

    async def close(self) -> None:
        """Close the bus: iterations end after what has arrived, and publishing raises.

        Messages that are being published are not waited for: their `publish` raises. Closing
        twice is no error.
        """
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called, or the event loop has ended."""
        return self._is_closed

    @property
    @abstractmethod
    def is_connected(self) -> bool:
        """Whether messages can be sent and arrive now."""

    @property
    def stats(self) -> BusStats:
        """Its counts now."""
        queues = [each.stats for each in self._subscriptions()]
        return BusStats(
            **self._counts.values(),
            unconfirmed=self._unconfirmed,
            subscriptions=len(queues),
            queued=sum(each.queued for each in queues),
            queued_bytes=sum(each.queued_bytes for each in queues),
            is_connected=self.is_connected,
        )

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open" if self.is_connected else "reconnecting"
        return f"<pubsub.Bus {self.address} {state}>"

    # ---------------------------------------------------------- for each kind of bus

    @property
    def _unconfirmed(self) -> int:
        return 0

    @abstractmethod
    async def _publish(self, subject: str, data: bytes, timeout: float) -> None:
        """Publish, as `publish` says."""

    @abstractmethod
    async def _enter(self, subscription: Subscription) -> None:
        """Add *subscription*, and wait until it is in force."""

    @abstractmethod
    def _leave(self, subscription: Subscription) -> None:
        """Remove *subscription*, if it is there."""

    @abstractmethod
    def _subscriptions(self) -> Iterator[Subscription]:
        """Return those that are open."""

    def _end(self) -> None:
        """End everything at once, without waiting."""
        if self._is_closed:
            return
        self._is_closed = True
        Live.of(self._loop).buses.discard(self)
        buses = _buses.of(self._loop)
        buses.open.discard(self)
        buses.past.add(self._counts)
        for each in list(self._subscriptions()):
            each._end()

    def _check_open(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("a bus belongs to the event loop in which it was connected")
        if self._is_closed:
            raise ConnectionClosed("the bus is closed", address=self.address)

    def _disown(self) -> None:
        """In a forked child: the bus is the parent's."""
        self._is_closed = True


def _least_1(value: int, name: str) -> int:
    return size(value, name, least=1)


class _Buses:
    """The buses of an event loop."""

    def __init__(self, _loop: asyncio.AbstractEventLoop) -> None:
        self.open: set[Bus] = set()
        self.past = Counts()  # of closed ones


_buses: Final = PerLoop("buses", _Buses)


def totals(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """Return the sums of the counts of all buses of *loop*, past and present, by name.

    ``buses`` is how many are open now, ``connected`` how many of them are connected.
    """
    found = _buses.of(loop)
    counts = Counts()
    counts.add(found.past)
    stats = []
    for bus in found.open:
        counts.add(bus._counts)
        stats.append(bus.stats)
    return {
        **counts.values(),
        "buses": len(stats),
        "connected": sum(each.is_connected for each in stats),
        "subscriptions": sum(each.subscriptions for each in stats),
        "unconfirmed": sum(each.unconfirmed for each in stats),
        "queued": sum(each.queued for each in stats),
        "queued_bytes": sum(each.queued_bytes for each in stats),
    }
