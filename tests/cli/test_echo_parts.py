"""The parts of ``silly echo`` that need no process: rates, counts, impaired paths."""

from __future__ import annotations

import asyncio
import io
import logging
import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from rich.console import Console

from silly.cli import echo
from silly.cli.echoing import chargen, datagrams, impairment, modes, view
from silly.cli.echoing.impairment import Dropped, Impaired, Impairment, Pace, path
from silly.cli.echoing.log import Lines, Log, _Handler, warnings_to
from silly.cli.echoing.meter import HOSTS_KEPT, Meter, Peer
from silly.net import udp
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


def test_pace() -> None:
    pace = Pace(100, 10.0)
    assert pace.piece == 1
    assert pace.wait(50, 10.0) == pytest.approx(0.5)
    assert pace.wait(50, 10.5) == pytest.approx(0.5)
    assert pace.wait(50, 10.6) == pytest.approx(0.9)
    assert pace.wait(50, 11.54) == pytest.approx(0.46)  # a late timer is compensated
    assert pace.wait(50, 20.0) == pytest.approx(0.45)  # unused time is not saved up
    assert Pace(1e6, 10.0).wait(64, 10.0) == 0  # too short for a timer
    assert Pace(0.1, 0.0).piece == 1


class LateTimers:
    """The module asyncio, but `sleep` wakes up 1.1 ms late, on the clock of the loop."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds and seconds + 0.0011)


@pytest.mark.parametrize("rate", [1_000, 64_000, 1_000_000])
@pytest.mark.parametrize(
    ("mode", "request_", "one_by_one"),
    [
        ("lines", b"123456\n", False),
        ("lines", bytes(63) + b"\n", False),
        ("lines", bytes(63) + b"\n", True),
        ("lines", bytes(30_000) + b"\n", False),
        ("raw", bytes(100), True),
        ("raw", bytes(100_000), False),
        ("frames", (60).to_bytes(4, "big") + bytes(60), False),
        ("commands", b"help\n", True),
        ("chargen", b"x", True),
        ("discard", bytes(1000), False),
    ],
    ids=lambda value: f"{len(value)}B" if isinstance(value, bytes) else None,
)
def test_the_rate_is_exact_on_average(
    mode: str, request_: bytes, one_by_one: bool, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impairment, "asyncio", LateTimers())
    monkeypatch.setattr(modes, "asyncio", LateTimers())
    monkeypatch.setattr(impairment, "ROOM", 10_000)

    async def main() -> None:
        theirs, ours = memory_pair()
        loop = asyncio.get_running_loop()

        async def send() -> None:
            while True:
                await theirs.write(request_)

        def moved() -> int:
            return ours.stats.bytes_in - ours.unread_bytes if silent else ours.stats.bytes_out

        silent = mode == "discard"
        handle = modes.handler(
            modes.MODES[mode], Impairment(max_rate=rate), Meter(loop.time()), Log()
        )
        tasks = [asyncio.ensure_future(handle(ours))]
        if not one_by_one:
            tasks.append(loop.create_task(send()))
        start = loop.time()
        await theirs.write(request_)
        # Without answers, the bytes that fill the buffers at the start are taken at once.
        while loop.time() < start + max(0.5, (30 * 65536 if silent else 3000) / rate):
            if silent:
                await asyncio.sleep(1000 / rate)
                continue
            await theirs.read()
            if one_by_one:
                await theirs.write(request_)
        held = moved() / (loop.time() - start)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert held == pytest.approx(rate, rel=0.05)

    run_virtual(main())


@pytest.mark.parametrize(
    ("size", "rate"),
    [(1, 100), (1, 1000), (64, 1000), (64, 64_000), (1400, 64_000), (60_000, 1000)],
)
def test_datagrams_above_the_rate_are_lost_and_no_others(size: int, rate: int) -> None:
    pace, step, admitted = Pace(rate, 0.0), size / rate / 3.3, 0
    count = round(max(4 / step, 300))
    for number in range(count):  # 3.3 times the rate
        admitted += pace.admits(size, number * step)
    assert admitted * size == pytest.approx(rate * count * step, rel=0.05)
    slow = Pace(rate, 0.0)
    assert all(slow.admits(size, number * size / rate * 1.01) for number in range(100))


def test_delays_of_answers_do_not_add_up() -> None:
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
        await to.send(b"three")  # after the sending task has ended
        assert await theirs.read(5) == b"three"
        await to.stop()

    run_virtual(main())


def test_the_rate_is_kept_and_senders_wait_for_room() -> None:
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


def test_answers_are_dropped_but_not_a_welcome() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        to = path(ours, Impairment(drop=1.0))
        await to.put(b"welcome")
        with pytest.raises(Dropped):
            await to.send(b"answer")
        await to.finish()
        assert await theirs.read() == b"welcome"

    run_virtual(main())


def test_a_lost_connection_raises_in_send() -> None:
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
    meter.sample(2.0)  # no time has passed: no rate
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


@pytest.mark.parametrize(
    ("addr", "shown"),
    [
        ("0.0.0.0:80", "localhost:80"),
        ("[::]:80", "localhost:80"),
        ("[::1]:80", "[::1]:80"),
        ("10.0.0.1:80", "10.0.0.1:80"),
    ],
)
def test_an_address_to_connect_to(addr: str, shown: str) -> None:
    assert echo._reachable(addr) == shown


def test_the_view_counts_datagrams() -> None:
    meter = Meter(0.0)
    meter.datagrams_in, meter.datagrams_overflowed = 4321, 17
    console = Console(width=100, height=30, file=io.StringIO(), force_terminal=False)
    made = view.View(
        console, meter, title="x", addrs=["127.0.0.1:1"], unit="answers", clock=lambda: 1.0,
        refused=lambda: 0,
    )  # fmt: skip
    console.print(made)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"datagrams +overflowed", text)
    assert re.search(r" 4 321 +17 ", text)


def test_warnings_are_lines_with_their_tracebacks() -> None:
    class Broken(Log):
        def say(self, _: str) -> None:
            raise ZeroDivisionError

    file = io.StringIO()
    logger = logging.getLogger("silly.test_echo_parts")
    try:
        raise KeyError("x")
    except KeyError:
        with warnings_to(Lines(file)):
            logger.exception("it failed")
        with warnings_to(Broken()), mock.patch.object(_Handler, "handleError") as failed:
            logger.exception("it failed")
    first, *others = file.getvalue().splitlines()
    assert first.endswith(" it failed")
    assert others[0].endswith("  Traceback (most recent call last):")
    assert others[-1].endswith("  KeyError: 'x'")
    failed.assert_called_once()


async def test_late_datagrams_are_bounded_and_lost_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datagrams, "_LATE", 2)
    meter = Meter(0.0)
    loop = asyncio.get_running_loop()
    one = datagrams.Datagrams(loop, "127.0.0.1:0", datagrams.echo, Impairment(delay=600.0), meter)
    async with udp.connect(one.local_addr) as client:
        for number in range(5):
            client.send(b"%d" % number)
        while meter.datagrams_in < 5:
            await asyncio.sleep(0)
        assert meter.datagrams_lost == 3
        late = set(one._late)
        one.close()
    await one._serving
    assert len(late) == 2
    assert all(timer.cancelled() for timer in late)


def test_only_the_last_datagrams_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_REMEMBERED", 3)
    repeats = datagrams._Repeats()
    for _ in range(datagrams.REPEATS):
        assert not repeats.ends_loop("a", b"x")
    for number in range(4):
        assert not repeats.ends_loop("b", b"%d" % number)
    assert repeats.ends_loop("a", b"x")  # still known
    for number in range(7):
        repeats.ends_loop("c", b"%d" % number)
    assert not repeats.ends_loop("a", b"x")  # forgotten
