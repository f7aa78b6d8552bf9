"""Kill a broker under load, again and again, and check what publishers and subscribers are told.

    python -m tests.pubsub.outages --kills 100

Two buses publish numbers as fast as the broker confirms them; three others subscribe to them.
After each start of the broker, it is killed as soon as every subscription has received some.
Then this must hold for each subscription:

- The numbers of a publisher come in order, none twice.
- A number that was confirmed and did not come is in a gap that the next message tells.
- A number whose `publish` said that it was not sent did not come.
- It gets what is published after the last start.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from silly import pubsub
from tests.pubsub.brokers import KINDS, Broker, running

LIMITS = pubsub.Limits(
    min_reconnect_delay=0.01, max_reconnect_delay=0.1, max_messages=1_000_000, max_bytes=1 << 30
)
PATTERNS = ("load.*", "load.>", "load.0")
DEADLINE = 60.0  # seconds for each step

CONFIRMED, UNCERTAIN, NOT_SENT = "confirmed", "uncertain", "not sent"


@dataclass
class Publisher:
    """Publishes 0, 1, 2, … and notes what it is told about each."""

    subject: str
    bus: pubsub.Bus
    timeout: float
    outcomes: list[str] = field(default_factory=list)
    is_over: bool = False

    async def run(self) -> None:
        while not self.is_over:
            number = len(self.outcomes)
            self.outcomes.append(UNCERTAIN)
            try:
                await self.bus.publish(self.subject, b"%d" % number, timeout=self.timeout)
            except pubsub.PublishError as error:
                self.outcomes[number] = UNCERTAIN if error.is_uncertain else NOT_SENT
            else:
                self.outcomes[number] = CONFIRMED


@dataclass
class Reader:
    """Reads all messages of a pattern: their publishers, numbers and gaps."""

    pattern: str
    bus: pubsub.Bus
    found: list[tuple[str, int, int]] = field(default_factory=list)
    stats: pubsub.SubscriptionStats | None = None

    async def run(self, ready: asyncio.Event) -> None:
        async with self.bus.subscribe(self.pattern) as messages:
            ready.set()
            async for message in messages:
                self.found.append((message.subject, int(message.data), message.gap))
            self.stats = messages.stats

    def check(self, publishers: list[Publisher]) -> None:
        """Check everything that this subscription got."""
        for publisher in publishers:
            if self.pattern in {publisher.subject, "load.*", "load.>"}:
                self._check(publisher)

    def _check(self, publisher: Publisher) -> None:
        before, is_gap = -1, False
        for subject, number, gap in self.found:
            is_gap = is_gap or gap > 0
            if subject != publisher.subject:
                continue
            what = f"{self.pattern}: {number} of {subject} after {before}"
            assert number > before, f"{what}: out of order, or twice"
            assert publisher.outcomes[number] != NOT_SENT, f"{what}: it was not sent"
            missing = publisher.outcomes[before + 1 : number].count(CONFIRMED)
            assert is_gap or not missing, f"{what}: {missing} were lost without a gap"
            before, is_gap = number, False
        last = len(publisher.outcomes) - 1
        assert before == last, f"{self.pattern}: {before} of {publisher.subject}, not {last}"


async def run(broker: Broker, kills: int, seed: int = 0) -> str:
    """Kill *broker*, which runs, *kills* times, and check; return a summary."""
    draw = random.Random(seed)
    buses = [await pubsub.connect(broker.url, limits=LIMITS) for _ in range(2 + len(PATTERNS))]
    # One of them gives up during an outage, the other waits until it is over.
    publishers = [
        Publisher("load.0", buses[0], timeout=0.02),
        Publisher("load.1", buses[1], timeout=DEADLINE),
    ]
    readers = [Reader(*pair) for pair in zip(PATTERNS, buses[2:], strict=True)]
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            ready = asyncio.Event()
            group.create_task(reader.run(ready))
            await ready.wait()
        publishing = [asyncio.create_task(each.run()) for each in publishers]
        try:
            for _ in range(kills):
                await _until_received(publishers, readers, draw.randint(1, 50))
                broker.kill()
                await _until(lambda: not any(bus.is_connected for bus in buses))
                await asyncio.to_thread(broker.start)
                await _until(lambda: all(bus.is_connected for bus in buses))
            await _until_received(publishers, readers, 50)
        finally:
            for publisher in publishers:
                publisher.is_over = True
            await asyncio.gather(*publishing)
        for publisher in publishers:  # the last of each is one that must come
            number = len(publisher.outcomes)
            publisher.outcomes.append(CONFIRMED)
            await publisher.bus.publish(publisher.subject, b"%d" % number, timeout=DEADLINE)
        await _until(lambda: all(_has_last(reader, publishers) for reader in readers))
        for bus in buses:
            await bus.close()
    for reader in readers:
        reader.check(publishers)
        assert reader.stats is not None
        assert reader.stats.outages == reader.bus.stats.outages >= kills
    outcomes = [outcome for each in publishers for outcome in each.outcomes]
    for bus, publisher in zip(buses, publishers, strict=False):
        assert bus.stats.published == publisher.outcomes.count(CONFIRMED)
        failed = len(publisher.outcomes) - bus.stats.published
        assert sum(bus.stats.publish_errors.values()) == failed
    gaps = sum(gap for reader in readers for _, _, gap in reader.found)
    kinds = (CONFIRMED, UNCERTAIN, NOT_SENT)
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in kinds)
    return f"{kills} kills: {counts}; {gaps} gaps in {len(readers)} subscriptions"


def _has_last(reader: Reader, publishers: list[Publisher]) -> bool:
    wanted = {
        (each.subject, len(each.outcomes) - 1)
        for each in publishers
        if reader.pattern in {each.subject, "load.*", "load.>"}
    }
    return wanted <= {(subject, number) for subject, number, _ in reader.found[-1000:]}


async def _until_received(publishers: list[Publisher], readers: list[Reader], count: int) -> None:
    """Wait until each reader has received, and each publisher sent, *count* more."""
    have = [len(each.found) for each in readers]
    sent = [each.outcomes.count(CONFIRMED) for each in publishers]
    await _until(
        lambda: (
            all(len(each.found) >= n + count for each, n in zip(readers, have, strict=True))
            and all(
                each.outcomes.count(CONFIRMED) >= n + count
                for each, n in zip(publishers, sent, strict=True)
            )
        )
    )


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.002)


def main() -> None:
    """Run it on each broker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    logging.getLogger("silly.pubsub").setLevel(logging.ERROR)
    print(f"seed {options.seed}")
    for scheme in KINDS:
        with (
            tempfile.TemporaryDirectory() as directory,
            running(scheme, Path(directory)) as broker,
        ):
            print(f"{scheme}: {asyncio.run(run(broker, options.kills, options.seed))}", flush=True)


if __name__ == "__main__":
    main()
