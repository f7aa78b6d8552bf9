"""What every kind of bus does, as a suite: one coroutine function for each promise.

`CHECKS` lists them; each takes a function that connects to the bus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from silly import pubsub
from silly.errors import ConcurrentRead, ConnectionClosed

Connect = Callable[..., Any]
"""`pubsub.connect` without its URL."""

DEADLINE = 30.0  # seconds


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds; it has no event."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


async def take(messages: pubsub.Subscription, count: int) -> list[pubsub.Message]:
    """Return the next *count* messages."""
    async with asyncio.timeout(DEADLINE):
        return [await anext(messages) for _ in range(count)]


async def arrives_as_it_was_sent(connect: Connect) -> None:
    whole = bytes(range(256)) * 257
    async with connect() as bus, bus.subscribe("room.general") as messages:
        for data in (b"hello", b"", b"\r\n\0", whole, bytearray(b"array"), memoryview(b"view")):
            await bus.publish("room.general", data)
            assert await take(messages, 1) == [pubsub.Message("room.general", bytes(data), 0)]


async def is_in_force_when_entered(connect: Connect) -> None:
    async with connect() as bus, connect() as other:
        for number in range(20):
            async with bus.subscribe(f"room.{number}.*") as messages:
                await other.publish(f"room.{number}.x", b"%d" % number)
                assert (await take(messages, 1))[0].data == b"%d" % number


async def matches_tokens(connect: Connect) -> None:
    subjects = [
        *("room", "room.a", "room.b", "room.a.b", "room.a.b.c", "rooms.a", "Room.a", "other"),
        *("room.[ab]", "room.?", "room.\\", "room.^a", "room.a-b", "room.é", "room.{}", "$room.a"),
    ]
    expected = {
        "room": ["room"],
        "room.a": ["room.a"],
        "room.*": [each for each in subjects if each.startswith("room.") and each.count(".") == 1],
        "room.>": [each for each in subjects if each.startswith("room.")],
        "*.a": ["room.a", "rooms.a", "Room.a", "$room.a"],
        "*.*.*": ["room.a.b"],
        "room.*.>": ["room.a.b", "room.a.b.c"],
        "*": ["room", "other"],
        ">": subjects,
        "room.[ab]": ["room.[ab]"],
        "*.[ab]": ["room.[ab]"],
        "*.?": ["room.?"],
        "*.\\": ["room.\\"],
        "*.é": ["room.é"],
    }
    async with connect() as bus, connect() as other:
        end = "the.last.of.all.of.them"
        async with asyncio.TaskGroup() as group:

            async def collect(pattern: str, ready: asyncio.Event) -> None:
                async with bus.subscribe(pattern) as messages, bus.subscribe(end) as last:
                    ready.set()
                    await take(last, 1)
                    await until(lambda: messages.stats.received >= len(expected[pattern]))
                    found = await take(messages, messages.stats.queued)
                subjects_found = [each.subject for each in found if each.subject != end]
                assert subjects_found == expected[pattern], pattern

            for pattern in expected:
                ready = asyncio.Event()
                group.create_task(collect(pattern, ready))
                await ready.wait()
            for subject in subjects:
                await other.publish(subject, b"")
            await other.publish(end, b"")


async def keeps_the_order_of_a_publisher(connect: Connect) -> None:
    async with connect() as bus, connect() as other, other.subscribe("order.>") as messages:
        async with asyncio.TaskGroup() as group:
            for number in range(500):
                group.create_task(bus.publish(f"order.{number % 7}", b"%d" % number))
        found = await take(messages, 500)
        assert [each.data for each in found] == [b"%d" % number for number in range(500)]
        assert not any(each.gap for each in found)
        assert bus.stats.published == 500
        assert bus.stats.unconfirmed == 0


async def delivers_once_to_each_subscription(connect: Connect) -> None:
    async with (
        connect() as bus,
        bus.subscribe("a.*") as first,
        bus.subscribe("a.*") as second,
        bus.subscribe("a.>") as third,
        bus.subscribe("a.b") as fourth,
        bus.subscribe("end") as end,
    ):
        await bus.publish("a.b", b"1")
        await bus.publish("end", b"")
        await take(end, 1)
        for each in (first, second, third, fourth):
            assert (await take(each, 1))[0].data == b"1"
            assert each.stats.received == 1
        assert bus.stats.subscriptions == 5


async def drops_the_oldest_and_says_how_many(connect: Connect) -> None:
    async with (
        connect() as bus,
        bus.subscribe("x", max_messages=10) as few,
        bus.subscribe("x", max_bytes=10) as small,
    ):
        for number in range(25):
            await bus.publish("x", b"%02d" % number)
        await until(lambda: few.stats.received == small.stats.received == 25)
        assert (few.stats.dropped, few.stats.queued, few.stats.queued_bytes) == (15, 10, 20)
        assert (small.stats.dropped, small.stats.queued) == (20, 5)
        assert bus.stats.dropped == 35
        found = await take(few, 10)
        assert [each.data for each in found] == [b"%02d" % number for number in range(15, 25)]
        assert [each.gap for each in found] == [15] + 9 * [0]
        found = await take(small, 5)
        assert [each.gap for each in found] == [20, 0, 0, 0, 0]
        await bus.publish("x", b"longer than the queue")  # one message always has room
        assert await take(small, 1) == [pubsub.Message("x", b"longer than the queue", 0)]
        await bus.publish("x", b"longer than the queue")
        await bus.publish("x", b"again")
        await until(lambda: small.stats.received == 28)
        assert await take(small, 1) == [pubsub.Message("x", b"again", 1)]


async def loses_nothing_when_reading_is_cancelled(connect: Connect) -> None:
    async with connect() as bus, bus.subscribe("x") as messages:

        async def publish() -> None:
            for number in range(100):
                await bus.publish("x", b"%d" % number)

        publishing = asyncio.create_task(publish())
        found: list[pubsub.Message] = []
        async with asyncio.timeout(DEADLINE):
            while len(found) < 100:
                reading = asyncio.ensure_future(anext(messages))
                await asyncio.sleep(0)
                reading.cancel()
                try:
                    found.append(await reading)
                except asyncio.CancelledError:
                    await asyncio.sleep(0)
        await publishing
        assert [each.data for each in found] == [b"%d" % number for number in range(100)]


async def forgets_a_cancelled_subscription(connect: Connect) -> None:
    async with connect() as bus:

        async def enter() -> None:
            async with bus.subscribe("x.*"):
                await asyncio.Event().wait()

        for passes in range(6):
            entering = asyncio.create_task(enter())
            for _ in range(passes):
                await asyncio.sleep(0)
            entering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await entering
        assert bus.stats.subscriptions == 0
        async with bus.subscribe("x.*") as messages:
            await bus.publish("x.y", b"hello")
            assert await take(messages, 1) == [pubsub.Message("x.y", b"hello", 0)]
            assert messages.stats.received == 1


async def unsubscribes_at_the_end_of_the_block(connect: Connect) -> None:
    async with connect() as bus, bus.subscribe("y") as others:
        for _ in range(3):
            async with bus.subscribe("x") as messages:
                await bus.publish("x", b"hello")
                await until(lambda: messages.stats.received == 1)
            assert messages.stats.queued == 0
            with pytest.raises(StopAsyncIteration):
                await anext(messages)
            await bus.publish("x", b"for nobody")
            await bus.publish("y", b"")
            await take(others, 1)
            assert messages.stats.received == 1
        assert bus.stats.subscriptions == 1
        assert bus.stats.dropped == 0


async def ends_when_it_is_closed(connect: Connect) -> None:
    bus = await connect()
    ended = []

    async def read(ready: asyncio.Event) -> None:
        async with bus.subscribe("x") as messages:
            ready.set()
            ended.extend([message.data async for message in messages])
        ended.append(b"end")

    ready = asyncio.Event()
    reading = asyncio.create_task(read(ready))
    await ready.wait()
    async with bus.subscribe("x") as messages:
        await bus.publish("x", b"1")
        await until(lambda: messages.stats.queued == 1)
        assert not bus.is_closed
        assert bus.is_connected
        await bus.close()
        assert bus.is_closed
        assert not bus.is_connected
        await reading
        assert ended == [b"1", b"end"]
        assert [message.data async for message in messages] == [b"1"]
    await bus.close()
    with pytest.raises(ConnectionClosed, match="the bus is closed"):
        await bus.publish("x", b"")
    with pytest.raises(ConnectionClosed, match="the bus is closed"):
        async with bus.subscribe("x"):
            pass
    assert "closed" in repr(bus)


async def refuses_misuse(connect: Connect) -> None:
    limits = pubsub.Limits(max_message_bytes=1000)
    async with connect(limits=limits) as bus:
        for subject in ("", ".", "a.", ".a", "a..b", "a b", "a\n", "a.*", ">", "a*", "x" * 256):
            with pytest.raises(ValueError, match=r"^subject "):
                await bus.publish(subject, b"")
        for pattern in ("", "a.", "a b", "a.>.b", "a>", "*a", "**", "a.\r\nPUB x", "\ud800"):
            with pytest.raises(ValueError, match=r"^pattern "):
                bus.subscribe(pattern)
        with pytest.raises(TypeError, match=r"^subject must be a str"):
            await bus.publish(b"a", b"")
        with pytest.raises(TypeError, match=r"^pattern must be a str"):
            bus.subscribe(None)
        with pytest.raises(TypeError, match=r"data must be bytes, not str: encode it"):
            await bus.publish("a", "text")
        with pytest.raises(ValueError, match=r"data has 1001 bytes; max_message_bytes is 1000"):
            await bus.publish("a", bytes(1001))
        with pytest.raises(ValueError, match="max_messages must be 1 or more"):
            bus.subscribe("a", max_messages=0)
        with pytest.raises(ValueError, match="timeout"):
            await bus.publish("a", b"", timeout=0)
        unused = bus.subscribe("a")
        with pytest.raises(RuntimeError, match="inside `async with"):
            await anext(unused)
        async with unused:
            waiting = asyncio.ensure_future(anext(unused))
            await asyncio.sleep(0)
            with pytest.raises(ConcurrentRead, match="another task reads"):
                await anext(unused)
            await bus.publish("a", b"1")
            assert (await waiting).data == b"1"
        with pytest.raises(RuntimeError, match="entered once"):
            async with unused:
                pass
        assert bus.stats.published == 1


CHECKS = (
    arrives_as_it_was_sent,
    is_in_force_when_entered,
    matches_tokens,
    keeps_the_order_of_a_publisher,
    delivers_once_to_each_subscription,
    drops_the_oldest_and_says_how_many,
    loses_nothing_when_reading_is_cancelled,
    forgets_a_cancelled_subscription,
    unsubscribes_at_the_end_of_the_block,
    ends_when_it_is_closed,
    refuses_misuse,
)
