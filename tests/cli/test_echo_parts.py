"""The parts of ``silly echo`` that need no process: paces, counts, impaired paths."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from silly.cli.echoing import chargen
from silly.cli.echoing.impairment import Dropped, Impaired, Impairment, Pace, path
from silly.cli.echoing.meter import HOSTS_KEPT, Meter, Peer
from silly.testing import memory_pair, run_virtual

pytestmark = pytest.mark.no_engine


def test_chargen_is_the_pattern_of_the_rfc() -> None:
    assert chargen.line(0) == (
        rb""" !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefg""" + b"\r\n"
    )
    assert chargen.line(1)[:-3] == chargen.line(0)[1:-2]
    assert chargen.line(94)[:2] == b"~ "
    assert chargen.line(95) == chargen.line(0)
    assert len(chargen.BLOCK) == 95 * 74
    assert chargen.datagram(5000) == chargen.BLOCK[:512]


def test_a_pace_is_kept() -> None:
    pace = Pace(100)
    assert pace.piece == 5
    assert pace.wait(50, 10.0) == pytest.approx(0.5)
    assert pace.wait(50, 10.5) == pytest.approx(0.5)
    assert pace.wait(50, 10.6) == pytest.approx(0.9)
    assert pace.wait(50, 20.0) == pytest.approx(0.5)  # what was not used is not saved
    assert Pace(0.1).piece == 1


def test_a_pace_admits_a_burst() -> None:
    pace = Pace(100)
    assert [pace.admits(60, 0.0, 1.0), pace.admits(60, 0.0, 1.0), pace.admits(40, 0.0, 1.0)] == [
        True, False, True,
    ]  # fmt: skip
    assert not pace.admits(1, 0.0, 1.0)
    assert pace.admits(50, 0.5, 1.0)


def test_answers_that_are_late_are_late_together() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        to = path(ours, Impairment(delay=2.0))
        loop = asyncio.get_running_loop()
        start = loop.time()
        await to.send(b"one")
        await asyncio.sleep(0.5)
        await to.send(b"two")
        assert loop.time() - start == 0.5
        assert await theirs.read(3) == b"one"
        assert loop.time() - start == pytest.approx(2.0)
        assert await theirs.read(3) == b"two"
        assert loop.time() - start == pytest.approx(2.5)
        await to.finish()
        await to.send(b"three")  # the task that moves them had ended
        assert await theirs.read(5) == b"three"
        await to.stop()

    run_virtual(main())


def test_a_rate_is_kept_and_room_is_waited_for() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        to = Impaired(ours, Impairment(max_rate=1 << 20))
        loop = asyncio.get_running_loop()
        start = loop.time()
        await to.send(bytes(1 << 20))
        assert loop.time() == start
        sending = loop.create_task(to.send(bytes(1 << 20)))  # waits for room

        async def receive(count: int) -> None:
            while count:
                count -= len(await theirs.read())

        receiving = loop.create_task(receive(2 << 20))
        await sending
        assert loop.time() - start == pytest.approx(1.0, abs=0.1)
        await to.finish()
        await receiving
        assert loop.time() - start == pytest.approx(2.0, abs=0.1)

    run_virtual(main())


def test_dropping_raises_and_a_welcome_is_not_dropped() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        to = path(ours, Impairment(drop=1.0))
        await to.put(b"welcome")
        with pytest.raises(Dropped):
            await to.send(b"answer")
        await to.finish()
        assert await theirs.read() == b"welcome"

    run_virtual(main())


def test_a_lost_connection_is_told_to_who_sends() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        to = path(ours, Impairment(delay=1.0))
        await to.send(b"x")
        theirs.abort()
        await asyncio.sleep(2)
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
            await to.send(b"y")
        await to.stop()

    run_virtual(main())


# ------------------------------------------------------------------------- the meter


@dataclass(eq=False)
class Conn:
    remote_addr: str
    stats: Any = field(default_factory=lambda: SimpleNamespace(bytes_in=0, bytes_out=0))


def test_the_meter_counts_live_and_past_connections() -> None:
    meter = Meter(0.0)
    one, two, unix = Conn("10.0.0.1:5"), Conn("10.0.0.1:6"), Conn("unix:")
    for conn in (one, two, unix):
        meter.opened(conn)
    one.stats.bytes_in = 100
    two.stats.bytes_out = 50
    meter.sample(2.0)
    assert (meter.samples[-1].bytes_in, meter.samples[-1].bytes_out) == (50, 25)
    meter.closed(one)
    meter.received("[::1]:7", 10)
    meter.answered("[::1]:7", 20)
    assert meter.totals() == (110, 70)
    assert meter.top(5) == [
        Peer("10.0.0.1", 1, 100, 50), Peer("[::1]", 0, 10, 20), Peer("unix:", 1, 0, 0),
    ]  # fmt: skip
    assert len(meter.top(2)) == 2
    meter.sample(2.0)  # no time went by: no rate
    assert len(meter.samples) == 1
    meter.sample(3.0)
    assert (meter.samples[-1].bytes_in, meter.samples[-1].answers) == (10, 1)
    summary = meter.summary(4.0)
    assert (summary["seconds"], summary["connections"]) == (4.0, {"accepted": 3, "peak": 3})


def test_the_meter_forgets_hosts_but_no_bytes() -> None:
    meter = Meter(0.0)
    for number in range(5 * HOSTS_KEPT):
        meter.received(f"10.0.{number // 250}.{number % 250}:9", number)
    assert len(meter.top(10**6)) <= HOSTS_KEPT
    assert meter.totals()[0] == sum(range(5 * HOSTS_KEPT))
    assert meter.top(1)[0].bytes_in == 5 * HOSTS_KEPT - 1
