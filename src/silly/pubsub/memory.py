"""A bus inside one process, for programs that have no broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Final

from silly._logs.logger import Logger
from silly._loop.registry import PerLoop
from silly.net.listening import has_source
from silly.pubsub.bus import Bus
from silly.pubsub.limits import Limits
from silly.pubsub.subscription import Subscription

__all__ = ["MemoryBus"]

logger = Logger("silly.pubsub")


class _Space:
    """The subscriptions of all memory buses of an event loop."""

    def __init__(self, _loop: asyncio.AbstractEventLoop) -> None:
        self.has_warned = False
        self._exact: dict[str, dict[Subscription, None]] = {}  # by subject
        self._wild: dict[Subscription, None] = {}

    def add(self, subscription: Subscription) -> None:
        self._place(subscription)[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        self._place(subscription).pop(subscription, None)
        subject = subscription.pattern.text
        if not self._exact.get(subject, True):
            del self._exact[subject]

    def _place(self, subscription: Subscription) -> dict[Subscription, None]:
        pattern = subscription.pattern
        return self._exact.setdefault(pattern.text, {}) if pattern.is_subject else self._wild

    def deliver(self, subject: str, data: bytes) -> None:
        for each in self._exact.get(subject, ()):
            each._put(subject, data)
        for each in self._wild:
            if each.pattern.matches(subject):
                each._put(subject, data)


_spaces: Final = PerLoop("memory_bus", _Space)


class MemoryBus(Bus):
    """A bus that all ``connect("memory:")`` of an event loop share."""

    def __init__(self, limits: Limits) -> None:
        super().__init__("memory:", limits)
        self._space = _spaces.of(self._loop)
        self._own: dict[Subscription, None] = {}
        if has_source() and not self._space.has_warned and os.environ.get("SILLY_WORKER") == "1":
            self._space.has_warned = True
            logger.warning(
                "memory: is a bus inside one process: each worker has its own, and does not get "
                "the messages of the others. Use redis:// or nats:// with several workers"
            )

    @property
    def is_connected(self) -> bool:
        """See `Bus.is_connected`."""
        return not self._is_closed

    async def _publish(self, subject: str, data: bytes, timeout: float) -> None:  # noqa: ARG002
        self._space.deliver(subject, data)
        self._counts.published += 1
        await asyncio.sleep(0)  # let subscribers read: a loop that publishes must not starve them

    async def _enter(self, subscription: Subscription) -> None:
        self._check_open()
        self._space.add(subscription)
        self._own[subscription] = None
        subscription._in_force = True

    def _leave(self, subscription: Subscription) -> None:
        if self._own.pop(subscription, True) is None:
            self._space.remove(subscription)

    def _subscriptions(self) -> Iterator[Subscription]:
        return iter(self._own)

    def _end(self) -> None:
        for each in list(self._own):
            self._space.remove(each)
        super()._end()
