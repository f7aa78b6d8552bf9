"""What a bus needs of a client library: one connection to a broker, as a `Link`.

A link is connected once. It does not reconnect: that is the bus's business
(`silly.pubsub.broker`), once for all brokers.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from silly.pubsub.subjects import Pattern

__all__ = ["Key", "Link", "Publication", "Receive", "Refused", "Server"]

Key = tuple[str, str]
"""What a broker is asked for: a kind of subscription, and a name or pattern."""

Receive = Callable[[Key, str, bytes], object]


class Refused(Exception):  # noqa: N818 - named by what happened
    """The broker refused a message."""


class Publication:
    """A message that is being published."""

    __slots__ = ("data", "is_sent", "outcome", "subject")

    def __init__(self, subject: str, data: bytes, outcome: asyncio.Future[None]) -> None:
        self.subject = subject
        self.data = data
        self.outcome = outcome
        self.is_sent = False

    @property
    def is_over(self) -> bool:
        """Whether its outcome is known, or nobody waits for it any more."""
        return self.outcome.done()

    def finish(self, error: Exception | None = None) -> None:
        """Set the outcome, unless there is one."""
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(None)
        else:
            self.outcome.set_exception(error)


class Link(ABC):
    """A connection to a broker.

    Its methods are called by one task, one at a time. They raise when the connection is lost,
    or may not return; `lost` is set in both cases. Whatever they raise, the bus closes the link.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        """Its result is the reason why the connection is lost."""

    def deliver(self, key: Key, subject: str, data: bytes) -> None:
        """Pass on a message, unless the connection is lost: then it would come after the gap."""
        if not self.lost.done():
            self._receive(key, subject, data)

    def lose(self, reason: Exception) -> None:
        """Note that the connection is lost, unless that is known."""
        if not self.lost.done():
            self.lost.set_result(reason)

    @abstractmethod
    async def subscribe(self, keys: Sequence[Key]) -> dict[Key, Exception]:
        """Subscribe to *keys*; return when the broker has confirmed it.

        Returns:
            Why the broker refused those that it did.
        """

    @abstractmethod
    async def unsubscribe(self, keys: Sequence[Key]) -> None:
        """End the subscriptions of *keys*."""

    @abstractmethod
    async def publish(self, batch: Sequence[Publication]) -> None:
        """Publish *batch* in its order; return when the broker has it.

        Messages that the broker refuses are finished with `Refused`; others may be finished
        as soon as it has confirmed them.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Return when the broker has answered, on each connection of the link."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection at once. This raises nothing and waits for nobody else."""


class Server(ABC):
    """A broker, as a URL names it."""

    address: str
    """The URL without user name and password."""

    @abstractmethod
    async def connect(self, receive: Receive) -> Link:
        """Return a link to it.

        Raises:
            OSError: it cannot be reached.
            PermissionError: it does not accept the user name or the password.
        """

    @abstractmethod
    def key(self, pattern: Pattern) -> Key:
        """Return what the broker is to be asked for, to get at least what *pattern* matches."""
