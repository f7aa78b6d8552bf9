"""A subscription: a queue of messages, which its iteration takes.

Rules:

- A message is taken from the queue only in the step that returns it, so a cancelled
  iteration loses nothing.
- The queue is bounded. When a message arrives and there is no room, the oldest messages are
  dropped: a slow reader sees the newest. The message after the dropped ones says how many.
- When the connection to the broker is lost, the next message that arrives says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol, Self

from silly.errors import ConcurrentRead
from silly.pubsub.message import Message
from silly.pubsub.stats import Counts
from silly.pubsub.subjects import Pattern

__all__ = ["Subscription", "SubscriptionStats"]


class _Bus(Protocol):
    """What a subscription needs of its bus."""

    @property
    def address(self) -> str: ...
    @property
    def _counts(self) -> Counts: ...
    async def _enter(self, subscriber: Subscription) -> None: ...
    def _leave(self, subscriber: Subscription) -> None: ...


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """Counts of a subscription."""

    received: int
    """Messages that arrived."""
    dropped: int
    """Messages that were dropped because the queue was full."""
    outages: int
    """How often the connection to the broker was lost."""
    queued: int
    """Messages in its queue now."""
    queued_bytes: int
    """Bytes of data in these messages."""


class Subscription:
    """The messages of one pattern: ``async with`` begins and ends it, ``async for`` reads them.

    `Bus.subscribe` makes it. It can be entered once, and one task can read it at a time.
    """

    __slots__ = (
        "_bus",
        "_dropped",
        "_error",
        "_gap",
        "_in_force",
        "_is_entered",
        "_is_over",
        "_max_bytes",
        "_max_messages",
        "_outages",
        "_queue",
        "_queued_bytes",
        "_received",
        "_unread_gap",
        "_waiter",
        "pattern",
    )

    def __init__(self, bus: _Bus, pattern: Pattern, max_messages: int, max_bytes: int) -> None:
        self._bus = bus
        self.pattern = pattern
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._queue: deque[Message] = deque()
        self._queued_bytes = self._received = self._dropped = self._outages = 0
        self._gap = 0  # of the message that arrives next
        self._unread_gap = 0  # in addition, of the first in the queue, or else of the next
        self._waiter: asyncio.Future[None] | None = None
        self._is_entered = self._is_over = False
        self._error: Exception | None = None
        self._in_force = False

    @property
    def stats(self) -> SubscriptionStats:
        """Its counts now."""
        return SubscriptionStats(
            received=self._received,
            dropped=self._dropped,
            outages=self._outages,
            queued=len(self._queue),
            queued_bytes=self._queued_bytes,
        )

    # ------------------------------------------------------------------ for programs

    async def __aenter__(self) -> Self:
        """Subscribe, and wait until the broker has confirmed it.

        From then on, no message that is published is missed without a gap.

        Raises:
            TimeoutError: the broker did not confirm it within `Limits.subscribe_timeout`.
            PermissionError: the broker refused it.
            ConnectionClosed: the bus is closed.
        """
        if self._is_entered:
            raise RuntimeError("a subscription is entered once: call subscribe() again")
        self._is_entered = True
        try:
            await self._bus._enter(self)
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Unsubscribe; messages that were not read are forgotten. This waits for nothing."""
        self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Return the next message. If this is cancelled, the message stays for the next call.

        Raises:
            StopAsyncIteration: the subscription was left, or the bus was closed and all
                messages that had arrived before were read.
            PermissionError: after it has reconnected, the broker refused the subscription.
            ConcurrentRead: another task is waiting for the next message.
        """
        if self._waiter is not None:
            raise ConcurrentRead("another task reads this subscription", address=self._bus.address)
        if not self._is_entered:
            raise RuntimeError("a subscription is read inside `async with bus.subscribe(...)`")
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._is_over:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._queue.popleft()
        self._queued_bytes -= len(message.data)
        if self._unread_gap:
            message = Message(message.subject, message.data, message.gap + self._unread_gap)
            self._unread_gap = 0
        return message

    def _leave(self) -> None:
        self._bus._leave(self)
        self._end()
        self._queue.clear()
        self._queued_bytes = 0

    # ------------------------------------------------------------------ for the bus

    def _put(self, subject: str, data: bytes) -> None:
        """Queue a message that has arrived; drop the oldest ones if there is no room."""
        counts = self._bus._counts
        queue = self._queue
        while queue and (
            len(queue) >= self._max_messages or self._queued_bytes + len(data) > self._max_bytes
        ):
            oldest = queue.popleft()
            self._queued_bytes -= len(oldest.data)
            self._unread_gap += oldest.gap + 1
            self._dropped += 1
            counts.dropped += 1
        queue.append(Message(subject, data, self._gap))
        self._gap = 0
        self._queued_bytes += len(data)
        self._received += 1
        counts.received += 1
        self._wake()

    def _miss(self) -> None:
        """Note that messages may be missing from here on: the connection was lost."""
        self._gap += 1
        self._outages += 1

    def _end(self, error: Exception | None = None) -> None:
        """End the iteration after the messages that are queued, with *error* if there is one."""
        if not self._is_over:
            self._is_over = True
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
