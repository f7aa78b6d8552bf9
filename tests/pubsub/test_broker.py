"""A bus over a broker that answers when the test lets it: what real brokers do rarely."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from silly import pubsub
from silly.pubsub.broker import BrokerBus
from silly.pubsub.link import Key, Link, Publication, Receive, Server
from silly.pubsub.subjects import Pattern
from tests.pubsub.conformance import take, until

pytestmark = pytest.mark.no_engine

FAST = pubsub.Limits(min_reconnect_delay=0.001, max_reconnect_delay=0.001)


class FakeLink(Link):
    """A connection whose broker confirms each batch once the test has set *confirms*."""

    def __init__(self, broker: FakeBroker, receive: Receive) -> None:
        super().__init__(receive)
        self._broker = broker

    async def subscribe(self, keys: Sequence[Key]) -> dict[Key, Exception]:
        self._broker.asked.append(list(keys))
        await self._broker.confirms.wait()
        return {key: Exception("not allowed") for key in keys if key[1] in self._broker.refused}

    async def unsubscribe(self, keys: Sequence[Key]) -> None: ...

    async def publish(self, batch: Sequence[Publication]) -> None:
        self._broker.published += [[each.data for each in batch]]
        await self._broker.confirms.wait()

    async def ping(self) -> None: ...

    async def close(self) -> None:
        self.lose(ConnectionError("closed"))
        if self._broker.defect is not None:
            raise self._broker.defect


class FakeBroker(Server):
    """A broker with one subscription for each pattern."""

    address = "fake://broker"

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.asked: list[list[Key]] = []
        self.published: list[list[bytes]] = []
        self.refused: set[str] = set()
        self.confirms = asyncio.Event()
        self.confirms.set()
        self.defect: Exception | None = None

    async def connect(self, receive: Receive) -> Link:
        self.links.append(FakeLink(self, receive))
        return self.links[-1]

    def key(self, pattern: Pattern) -> Key:
        return "", pattern.text

    def send(self, subject: str, data: bytes, to: str | None = None) -> None:
        self.links[-1].deliver(("", to or subject), subject, data)

    async def bus(self, limits: pubsub.Limits = FAST) -> Any:
        bus = BrokerBus(self, limits)
        await bus.connect()
        return bus


async def test_subscriptions_that_are_refused_after_an_outage_end() -> None:
    broker = FakeBroker()
    async with await broker.bus() as bus, bus.subscribe("a") as a, bus.subscribe("b") as b:
        broker.send("a", b"1")
        broker.refused.add("a")
        broker.links[0].lose(ConnectionError("gone"))
        broker.send("b", b"too late")  # it would come after the gap
        await until(lambda: bus.stats.subscriptions == 1 and bus.is_connected)
        broker.send("b", b"2")
        assert await take(b, 1) == [pubsub.Message("b", b"2", 1)]
        assert await take(a, 1) == [pubsub.Message("a", b"1", 0)]
        for _ in range(2):
            with pytest.raises(PermissionError, match="broker refused to subscribe to 'a': not al"):
                await take(a, 1)
        assert [sorted(keys) for keys in broker.asked[-1:]] == [[("", "a"), ("", "b")]]


async def test_an_outage_while_subscriptions_are_renewed() -> None:
    broker = FakeBroker()
    async with await broker.bus() as bus, bus.subscribe("a") as a:
        broker.confirms.clear()
        broker.links[0].lose(ConnectionError("gone"))
        await until(lambda: len(broker.asked) == 2)
        broker.links[1].lose(ConnectionError("gone again"))
        await until(lambda: len(broker.links) == 3)
        broker.confirms.set()
        await until(lambda: bus.is_connected)
        broker.send("a", b"1")
        assert await take(a, 1) == [pubsub.Message("a", b"1", 1)]  # it never was in force between
        assert bus.stats.outages == 1


async def test_closing_while_subscriptions_are_renewed() -> None:
    broker = FakeBroker()
    async with await broker.bus() as bus, bus.subscribe("a") as a:
        broker.confirms.clear()
        broker.links[0].lose(ConnectionError("gone"))
        await until(lambda: len(broker.asked) == 2)
        await bus.close()
        assert broker.links[1].lost.done()
        with pytest.raises(StopAsyncIteration):
            await anext(a)


async def test_what_is_cancelled_before_it_is_sent_is_not_sent() -> None:
    broker = FakeBroker()
    async with await broker.bus() as bus:
        broker.confirms.clear()
        first = asyncio.create_task(bus.publish("x", b"1"))
        await until(lambda: bool(broker.published))
        second = asyncio.create_task(bus.publish("x", b"2"))
        await until(lambda: bus.stats.unconfirmed == 2)
        second.cancel()
        await asyncio.wait((second,))
        assert bus.stats.unconfirmed == 1
        broker.confirms.set()
        await first
        await bus.publish("x", b"3")
        assert broker.published == [[b"1"], [b"3"]]
        assert bus.stats.published == 2


async def test_messages_that_do_not_belong_to_a_bus_are_ignored() -> None:
    broker = FakeBroker()
    async with await broker.bus() as bus, bus.subscribe("*.b") as messages:
        for subject in ("a..b", "", "a.b\n", "a.*"):  # of programs that do not use silly
            broker.send(subject, b"", to="*.b")
        broker.send("a.b.c", b"", to="*.b")  # brokers may send more than was asked for
        broker.send("a.b", b"1", to="*.b")
        assert await take(messages, 1) == [pubsub.Message("a.b", b"1", 0)]
        assert (bus.stats.ignored, bus.stats.received) == (4, 1)


async def test_a_defect_ends_the_subscriptions_with_it() -> None:
    loop = asyncio.get_running_loop()
    told: list[str] = []
    loop.set_exception_handler(lambda _, context: told.append(repr(context["exception"])))
    broker = FakeBroker()
    bus = await broker.bus()
    messages = await bus.subscribe("a").__aenter__()
    broker.defect = RuntimeError("a defect")
    broker.links[0].lose(ConnectionError("gone"))
    with pytest.raises(RuntimeError, match="a defect"):
        await anext(messages)
    await bus.close()
    del bus, messages, broker
    gc.collect()
    assert told == ["RuntimeError('a defect')"]  # asyncio logs it
