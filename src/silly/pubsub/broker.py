"""A bus over a broker: what happens when, whichever broker it is.

One task has the connection (a `Link`). While there is one, it sends what has changed in the
subscriptions and what was published, in turns: all messages that wait go in one batch, and
the next batch follows when the broker has answered. When the connection is lost, that task
connects again, subscribes again, and goes on.

- A message that was sent and not confirmed when the connection was lost is not sent again:
  its publisher is told. One that was not sent waits, within its deadline.
- Subscriptions that were in force when the connection was lost have a gap.
- The connection counts as lost, too, when the broker does not answer in time.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import FIRST_COMPLETED
from collections import deque
from collections.abc import Coroutine, Iterator
from typing import Any, Final, TypeVar

from silly._logs.logger import Logger
from silly._loop.live import INTERNAL_TASK
from silly._values.units import counted, duration_text
from silly.errors import ConnectionClosed, WriteQueueFull
from silly.pubsub.bus import Bus
from silly.pubsub.errors import PublishError, PublishTimeout
from silly.pubsub.limits import Limits
from silly.pubsub.link import Key, Link, Publication, Refused, Server
from silly.pubsub.subjects import is_subject
from silly.pubsub.subscription import Subscription

__all__ = ["BrokerBus"]

logger = Logger("silly.pubsub")

_BATCH: Final = 256  # messages
_BATCH_BYTES: Final = 1024 * 1024

T = TypeVar("T")


class BrokerBus(Bus):
    """A bus over a broker."""

    def __init__(self, server: Server, limits: Limits) -> None:
        super().__init__(server.address, limits)
        self._server = server
        self._link: Link | None = None
        self._runner: asyncio.Task[None] | None = None
        self._wanted: dict[Key, dict[Subscription, None]] = {}  # subscriptions, by key
        self._in_force: set[Key] = set()  # keys, on this link
        self._changed: dict[Key, None] = {}  # keys that may be only in one of the two
        self._waiting: dict[Subscription, asyncio.Future[None]] = {}  # to be in force
        self._unsent: deque[Publication] = deque()
        self._sent: list[Publication] = []
        self._held = self._held_bytes = 0  # unconfirmed messages
        self._work = asyncio.Event()

    async def connect(self) -> None:
        """Connect for the first time.

        Raises:
            OSError: the broker cannot be reached, or refuses.
        """
        try:
            link = await self._new_link()
        except BaseException:
            self._end()
            raise
        self._link = link
        self._runner = self._loop.create_task(self._run(link), name=f"{INTERNAL_TASK}pubsub")

    async def close(self) -> None:
        """See `Bus.close`."""
        self._end()
        if self._runner is not None:
            await asyncio.wait((self._runner,))

    @property
    def is_connected(self) -> bool:
        """See `Bus.is_connected`."""
        return self._link is not None

    @property
    def _unconfirmed(self) -> int:
        return self._held

    def _subscriptions(self) -> Iterator[Subscription]:
        return (each for group in self._wanted.values() for each in group)

    def _end(self) -> None:
        if self._is_closed:
            return
        super()._end()
        self._link = None
        closed = ConnectionClosed("the bus is closed", address=self.address)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(closed)
        self._fail_sent("closed", "the bus was closed before the broker had confirmed it")
        while self._unsent:
            publication = self._unsent.popleft()
            if not publication.is_over:
                self._counts.publish_errors["closed"] += 1
                publication.finish(ConnectionClosed("the bus is closed", address=self.address))
        if self._runner is not None and self._runner is not asyncio.current_task():
            self._runner.cancel()

    # ------------------------------------------------------------------ publishing

    async def _publish(self, subject: str, data: bytes, timeout: float) -> None:
        limits = self.limits
        if (
            self._held >= limits.max_unconfirmed
            or self._held_bytes + len(data) > limits.max_unconfirmed_bytes
        ):
            self._counts.publish_errors["full"] += 1
            raise WriteQueueFull(
                f"{counted(self._held, 'message')} of {counted(self._held_bytes, 'byte')} wait for "
                "the broker: publish more slowly, or await each publish()",
                address=self.address,
            )
        publication = Publication(subject, data, self._loop.create_future())
        self._unsent.append(publication)
        self._held += 1
        self._held_bytes += len(data)
        self._work.set()
        try:
            async with asyncio.timeout(timeout):
                await publication.outcome
        except TimeoutError:
            self._counts.publish_errors["timeout"] += 1
            what = (
                "the broker did not confirm the message"
                if publication.is_sent
                else (
                    "the message was not sent: no connection to the broker"
                    if self._link is None
                    else "the message was not sent: the broker is slow"
                )
            )
            raise PublishTimeout(
                f"{what} within {duration_text(timeout)}",
                address=self.address,
                is_uncertain=publication.is_sent,
            ) from None
        except Refused as reason:
            self._counts.publish_errors["refused"] += 1
            raise PublishError(
                f"the broker refused the message: {reason}", address=self.address
            ) from None
        else:
            self._counts.published += 1
        finally:
            publication.data = b""  # it may still be in a queue
            self._held -= 1
            self._held_bytes -= len(data)

    def _fail_sent(self, reason: str, text: str) -> None:
        """Tell the publishers of what was sent and not confirmed that nobody will know."""
        sent, self._sent = self._sent, []
        for publication in sent:
            if not publication.is_over:
                self._counts.publish_errors[reason] += 1
                publication.finish(PublishError(text, address=self.address, is_uncertain=True))

    async def _send(self, link: Link) -> None:
        size = 0
        while self._unsent and len(self._sent) < _BATCH and size < _BATCH_BYTES:
            publication = self._unsent.popleft()
            if not publication.is_over:
                publication.is_sent = True
                size += len(publication.data)
                self._sent.append(publication)
        if not self._sent:
            return
        await self._answered(link, link.publish(self._sent))
        sent, self._sent = self._sent, []
        for publication in sent:
            publication.finish()

    # --------------------------------------------------------------- subscriptions

    async def _enter(self, subscription: Subscription) -> None:
        self._check_open()
        key = self._server.key(subscription.pattern)
        self._wanted.setdefault(key, {})[subscription] = None
        if key in self._in_force:
            subscription._in_force = True
            return
        self._changed[key] = None
        self._work.set()
        waiting = self._waiting[subscription] = self._loop.create_future()
        try:
            async with asyncio.timeout(self.limits.subscribe_timeout):
                await waiting
        except TimeoutError:
            raise TimeoutError(
                f"{self.address}: the broker did not confirm the subscription "
                f"within {duration_text(self.limits.subscribe_timeout)}"
            ) from None
        finally:
            self._waiting.pop(subscription, None)

    def _leave(self, subscription: Subscription) -> None:
        key = self._server.key(subscription.pattern)
        group = self._wanted.get(key, {})
        if subscription not in group:
            return
        del group[subscription]
        if not group:
            del self._wanted[key]
            self._changed[key] = None
            self._work.set()

    async def _update(self, link: Link) -> None:
        """Tell the broker what has changed in the subscriptions."""
        changed, self._changed = self._changed, {}
        added = [key for key in changed if key in self._wanted and key not in self._in_force]
        removed = [key for key in changed if key in self._in_force and key not in self._wanted]
        if removed:
            self._in_force.difference_update(removed)
            await self._answered(link, link.unsubscribe(removed))
        if added:
            await self._subscribe(link, added)

    async def _subscribe(self, link: Link, keys: list[Key]) -> None:
        refused = await self._answered(link, link.subscribe(keys))
        for key in keys:
            if key in refused:
                self._refuse(key, refused[key])
                continue
            self._in_force.add(key)
            if key not in self._wanted:  # not any more
                self._changed[key] = None
            for subscription in self._wanted.get(key, ()):
                subscription._in_force = True
                waiting = self._waiting.get(subscription)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)

    def _refuse(self, key: Key, reason: Exception) -> None:
        for subscription in self._wanted.pop(key, {}):
            error = PermissionError(
                f"{self.address}: the broker refused to subscribe to "
                f"{subscription.pattern.text!r}: {reason}"
            )
            waiting = self._waiting.get(subscription)
            if waiting is None:
                subscription._end(error)
            elif not waiting.done():
                waiting.set_exception(error)

    def _receive(self, key: Key, subject: str, data: bytes) -> None:
        if not is_subject(subject):
            self._counts.ignored += 1
            return
        for subscription in self._wanted.get(key, ()):
            if subscription.pattern.matches(subject):
                subscription._put(subject, data)

    # -------------------------------------------------------------- the connection

    async def _run(self, link: Link) -> None:
        try:
            while True:
                reason = await self._serve(link)
                self._lose(reason)
                await link.close()
                link = await self._reconnect()
        except Exception as error:
            for each in self._subscriptions():
                each._end(error)
            raise
        finally:
            self._end()
            await link.close()

    async def _serve(self, link: Link) -> Exception:
        """Do the work until the connection is lost; return why."""
        work = self._loop.create_task(self._do_work(link), name=f"{INTERNAL_TASK}pubsub work")
        try:
            await asyncio.wait((work, link.lost), return_when=FIRST_COMPLETED)
            if not link.lost.done():
                link.lose(_error_of(work))
            return link.lost.result()
        finally:
            await _cancel(work)

    async def _do_work(self, link: Link) -> None:
        while True:
            self._work.clear()
            if self._changed:
                await self._update(link)
            if self._unsent:
                await self._send(link)
            if self._changed or self._unsent:
                continue
            try:
                async with asyncio.timeout(self.limits.heartbeat):
                    await self._work.wait()
            except TimeoutError:
                await self._answered(link, link.ping())

    async def _answered(self, link: Link, operation: Coroutine[Any, Any, T]) -> T:
        """Return the result of *operation*, which waits for an answer of the broker.

        Raises:
            TimeoutError: none came in time.
            Exception: the connection was lost.
        """
        task = self._loop.create_task(operation, name=f"{INTERNAL_TASK}pubsub command")
        half = self.limits.answer_timeout / 2
        try:
            # In two steps: when the loop was blocked, what has arrived is read in the second.
            for _ in range(2):
                await asyncio.wait((task, link.lost), timeout=half, return_when=FIRST_COMPLETED)
                if task.done():
                    return task.result()
                if link.lost.done():
                    raise link.lost.result()
            raise TimeoutError(
                f"the broker did not answer within {duration_text(self.limits.answer_timeout)}"
            )
        finally:
            await _cancel(task)

    def _lose(self, reason: Exception) -> None:
        self._link = None
        self._in_force.clear()
        self._counts.outages += 1
        self._fail_sent("disconnected", "the connection was lost before the broker confirmed it")
        for subscription in self._subscriptions():
            if subscription._in_force:
                subscription._in_force = False
                subscription._miss()
        logger.warning("%s: connection lost: %s; reconnecting", self.address, _text(reason))

    async def _reconnect(self) -> Link:
        began, attempts, delay = self._loop.time(), 0, self.limits.min_reconnect_delay
        while True:
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - not a secret
            delay = min(2 * delay, self.limits.max_reconnect_delay)
            attempts += 1
            link = None
            try:
                link = await self._new_link()
                self._changed.clear()
                if self._wanted:
                    await self._subscribe(link, list(self._wanted))
            except Exception as error:  # noqa: BLE001 - of whatever kind: try again
                self._in_force.clear()
                logger.debug("%s: cannot reconnect: %s", self.address, _text(error))
                if link is not None:
                    await link.close()
                continue
            except BaseException:
                if link is not None:
                    await link.close()
                raise
            self._link = link
            logger.info(
                "%s: connected again after %s and %s",
                self.address,
                duration_text(self._loop.time() - began),
                counted(attempts, "attempt"),
            )
            return link

    async def _new_link(self) -> Link:
        # In its own task: libraries may catch a cancellation and go on.
        task = self._loop.create_task(
            self._server.connect(self._receive), name=f"{INTERNAL_TASK}pubsub connecting"
        )
        is_in_time = False
        try:
            await asyncio.wait((task,), timeout=self.limits.connect_timeout)
            is_in_time = task.done()
        finally:
            await _cancel(task)
            if not is_in_time and not task.cancelled() and task.exception() is None:
                await task.result().close()
        if is_in_time:
            return task.result()
        raise TimeoutError(
            f"{self.address}: no connection within {duration_text(self.limits.connect_timeout)}"
        )


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _error_of(task: asyncio.Task[None]) -> Exception:
    """Return what *task*, which never returns, has raised."""
    error = None if task.cancelled() else task.exception()
    return error if isinstance(error, Exception) else RuntimeError("the bus's task was cancelled")


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel *task*, again if it catches that, and wait until it has ended."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=1)
    if not task.cancelled():
        task.exception()  # it is known
