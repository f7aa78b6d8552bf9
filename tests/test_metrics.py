"""The metrics are right, Prometheus can read them, and processes add up."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import prometheus_client
import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from silly import metrics
from silly._loop.live import Live
from silly.metrics import snapshots
from silly.metrics.meter import Meter
from silly.metrics.prometheus import page, registered_families
from silly.net import listener as listener_module
from silly.net import observer, tcp
from silly.net.limits import Limits
from silly.net.tcp import Conn

ANY = "127.0.0.1:0"

Samples = dict[tuple[str, str], float]


async def serves(conn: Conn) -> None:
    async for line in conn:
        if line == b"crash\n":
            raise ZeroDivisionError
        await conn.write(line)


async def ask(addr: str, request: bytes) -> tuple[str, bytes]:
    """Send an HTTP request; return the status line and the body."""
    async with await tcp.connect(addr) as conn:
        conn.write(request)
        head = await conn.read(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        body = await conn.read(length)
        with pytest.raises((EOFError, OSError)):
            await conn.read()
    return head.decode().partition("\r\n")[0], body


async def scrape(addr: str, accept: str = "text/plain") -> str:
    request = f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode()
    status, body = await ask(addr, request)
    assert status == "HTTP/1.1 200 OK"
    return body.decode()


def samples(text: str, listener: str) -> Samples:
    """Return the samples of a listener, by name and value of the other label (or "")."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            if labels.pop("listener", None) == listener:
                found[sample.name, next(iter(labels.values()), "")] = sample.value
    return found


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_prometheus_reads_the_metrics(caplog: pytest.LogCaptureFixture) -> None:
    web = metrics.serve(ANY)
    async with tcp.listen(ANY, serves, limits=Limits(max_connections=2)) as listener:
        addr = listener.local_addr
        crasher = await tcp.connect(addr)
        crasher.write(b"crash\n")
        with pytest.raises((EOFError, OSError)):
            await crasher.read()
        crasher.close()
        await until(lambda: listener.connections == 0)
        async with await tcp.connect(addr) as first, await tcp.connect(addr) as second:
            await first.write(b"12345\n")
            await first.read(b"\n")
            await second.write(b"unfinished")
            await until(lambda: listener.stats.unread_bytes == 10)
            with pytest.raises((EOFError, OSError)):
                async with await tcp.connect(addr) as refused:
                    await refused.read()
            text = await scrape(web.local_addr)
            found = samples(text, addr)
            assert found["silly_connections", ""] == 2
            assert found["silly_connections_accepted_total", ""] == 3
            assert found["silly_connections_refused_total", "max_connections"] == 1
            assert found["silly_connections_ended_total", "handler_error"] == 1
            assert found["silly_handler_errors_total", "ZeroDivisionError"] == 1
            assert found["silly_received_bytes_total", ""] == 6 + 6 + 10
            assert found["silly_sent_bytes_total", ""] == 6
            assert found["silly_unread_bytes", ""] == 10
            assert found["silly_unsent_bytes", ""] == 0
            assert found["silly_handler_duration_seconds_bucket", "+Inf"] == 1
            assert found["silly_handler_duration_seconds_count", ""] == 1
            assert "silly_loop_lag_seconds_bucket" in text
            assert "process_open_fds" in text  # from prometheus_client itself
            assert web.local_addr not in text  # the metrics listener is not counted
    after = samples(await scrape(web.local_addr), addr)  # the counts of a closed listener stay
    assert after["silly_connections_accepted_total", ""] == 3
    assert after["silly_received_bytes_total", ""] == 22
    assert after["silly_connections_ended_total", "peer_finished"] == 2
    assert ("silly_connections", "") not in after
    await web.close()
    assert all(record.exc_info for record in caplog.records if record.levelname == "ERROR")


async def test_openmetrics_if_asked_for_it() -> None:
    web = metrics.serve(ANY)
    text = await scrape(web.local_addr, "application/openmetrics-text; version=1.0.0")
    families = {family.name for family in openmetrics.text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    assert "silly_loop_lag_seconds" in families
    await web.close()


async def test_every_metric_is_served() -> None:
    web = metrics.serve(ANY, metrics.snapshot)
    async with tcp.listen(ANY, serves):
        text = await scrape(web.local_addr)
        for metric in metrics.METRICS:
            assert f"# TYPE {metric.name}" in text
    await web.close()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_accepts_the_page() -> None:
    web = metrics.serve(ANY, metrics.snapshot)
    async with tcp.listen(ANY, serves):
        checked = await asyncio.to_thread(
            subprocess.run,
            ["promtool", "check", "metrics"],
            input=await scrape(web.local_addr),
            capture_output=True,
            text=True,
            check=False,
        )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    await web.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        (b"\xff\xfe nonsense\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (b"GET /metrics?x=1 HTTP/1.0\r\nhost\r\n\r\n", "HTTP/1.1 200 OK"),
    ],
)
async def test_other_requests(request_: bytes, status: str) -> None:
    web = metrics.serve(ANY)
    assert (await ask(web.local_addr, request_))[0] == status
    await web.close()


@pytest.mark.parametrize("request_", [b"", b"GET /metrics HT", b"x" * 100_000])
async def test_an_invalid_request_is_not_answered(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    web = metrics.serve(ANY)
    async with await tcp.connect(web.local_addr) as conn:
        conn.write(request_)
        conn.close_write()
        with pytest.raises((EOFError, OSError)):
            await conn.read()
    await until(lambda: web.connections == 0)
    assert web.stats.handler_errors == 0
    await web.close()


@pytest.mark.parametrize(
    "accept",
    [
        b"application/openmetrics-text; version=banana",
        b"application/openmetrics-text;version=;escaping=",
        b"application/openmetrics-text;version=" + b"9" * 5000,
        b"text/plain;version=x.y.z; escaping=\xff",
        b"text/plain;version=1.0.0\rSet-Cookie: x",
        b";;;===",
        b"," * 5000,
        b"application/openmetrics-text;a=b=c;version",
    ],
)
async def test_any_accept_header_is_answered(accept: bytes) -> None:
    web = metrics.serve(ANY)
    request = b"GET /metrics HTTP/1.1\r\nAccept: " + accept + b"\r\n\r\n"
    status, body = await ask(web.local_addr, request)
    assert status == "HTTP/1.1 200 OK"
    assert b"silly_loop_lag_seconds" in body
    assert web.stats.handler_errors == 0
    await web.close()


class Odd(BaseException):
    """Not an `Exception`."""


class Collects:
    """A collector of the program that fails or returns invalid families."""

    def __init__(self, *families: Any, error: BaseException | None = None) -> None:
        self.families = families
        self.error = error

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Any:
        yield from self.families
        if self.error is not None:
            raise self.error


def gauge(name: str, value: Any) -> Any:
    return GaugeMetricFamily(name, "of the program", value=value)


@pytest.mark.parametrize(
    "bad",
    [
        Collects(error=ZeroDivisionError("a defect")),
        Collects(error=Odd()),
        Collects(error=asyncio.CancelledError()),
        Collects(gauge("before", 1), error=ZeroDivisionError()),
        Collects("no metric"),
        Collects(gauge("wrong", "no number")),
    ],
)
@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_a_bad_collector_loses_only_its_own_metrics(
    bad: Collects, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry: Any = prometheus_client.REGISTRY
    good = Collects(gauge("good", 7))
    web = metrics.serve(ANY)
    registry.register(bad)
    registry.register(good)
    try:
        text = await scrape(web.local_addr, accept)
    finally:
        registry.unregister(bad)
        registry.unregister(good)
    assert "good 7.0" in text
    assert "silly_loop_lag_seconds" in text
    await until(lambda: web.connections == 0)
    assert web.stats.handler_errors == 1  # and it is logged
    assert [record.exc_info is not None for record in caplog.records] == [True]
    await web.close()


class Fails:
    """Fails whatever is done with it: the first *count* times as defects do, then by Ctrl-C."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __float__(self) -> float:
        self.count -= 1
        raise KeyboardInterrupt if self.count < 0 else ZeroDivisionError

    def collect(self) -> list[Any]:
        return [float(self)]

    def describe(self) -> list[Any]:
        return []


@pytest.mark.parametrize("failures", [0, 1])
def test_ctrl_c_is_no_bad_collector(failures: int) -> None:
    registry: Any = prometheus_client.CollectorRegistry()
    registry.register(Fails(failures))
    with pytest.raises(KeyboardInterrupt):
        registered_families(registry, [])
    with pytest.raises(KeyboardInterrupt):
        page("", [gauge("x", Fails(failures * 2))], [])


def test_a_registry_of_another_kind_that_fails() -> None:
    failures: list[BaseException] = []
    assert registered_families(Fails(1), failures) == []
    assert [type(each) for each in failures] == [ZeroDivisionError]


async def test_connections_of_another_loop_are_not_measured() -> None:
    async def elsewhere() -> str:
        async with tcp.listen(ANY, serves) as listener:
            conn = await tcp.connect(listener.local_addr)
            conn.close()
            await conn.wait_closed()
        return listener.local_addr

    web = metrics.serve(ANY)
    addr = await asyncio.to_thread(asyncio.run, elsewhere())
    assert addr not in await scrape(web.local_addr)
    await web.close()


def test_what_the_system_does_not_tell_of_a_process_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: str) -> list[str]:
        raise FileNotFoundError

    monkeypatch.setattr(os, "listdir", fail)
    found = snapshots._process()
    assert "descriptors" not in found
    assert found["cpu_seconds"] > 0


async def test_a_source_that_fails_is_answered() -> None:
    def source() -> metrics.Snapshot:
        raise ZeroDivisionError

    web = metrics.serve(ANY, source)
    status, _ = await ask(web.local_addr, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert status == "HTTP/1.1 500 Internal Server Error"
    await web.close()


# --------------------------------------------------------- closed listeners, ended processes


@pytest.mark.heavy
async def test_closed_listeners_leave_no_series() -> None:
    web = metrics.serve(ANY)
    meter = Meter.of(asyncio.get_running_loop())
    sizes = []
    async with tcp.listen(ANY, serves) as stays:
        for number in range(60):
            async with tcp.listen(ANY, serves) as listener:
                async with await tcp.connect(listener.local_addr) as conn:
                    conn.write(b"x\n")
                    await conn.read(b"\n")
            if number % 10 == 5:
                sizes.append(len((await scrape(web.local_addr)).splitlines()))
        await until(lambda: stays.connections == 0)
        found = metrics.snapshot()["listeners"]
        assert stays.local_addr in found
        assert listener.local_addr in found  # the latest
        assert len(found) <= 12
        for table in (meter.handlers, meter.endings, meter.closed_counts, meter.tracked):
            assert len(table) <= 12
        assert sizes[-1] <= sizes[1] + 1
    await web.close()


def test_ended_processes_leave_no_series() -> None:
    so_far: metrics.Snapshot | None = None
    for number in range(1000):
        last = {
            "listeners": {
                "main:1": {"accepted": 1, "connections": 5},
                f"own:{number}": {"accepted": 1},
            },
            "process": {"processes": 1, "cpu_seconds": 0.5},
        }
        so_far = metrics.retired(last, so_far)
    assert so_far is not None
    assert len(so_far["listeners"]) == 10
    assert so_far["listeners"]["main:1"] == {"accepted": 1000}
    assert so_far["listeners"]["own:999"] == {"accepted": 1}
    assert so_far["process"] == {"cpu_seconds": 500.0}


async def test_a_long_sum_does_not_block_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_SUM_BATCH", 2)
    web = metrics.serve(ANY)
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    async with tcp.listen(ANY, serves) as listener:
        conns = [await tcp.connect(listener.local_addr) for _ in range(20)]
        for conn in conns:
            conn.write(b"x\n")
            await conn.read(b"\n")
        asyncio.get_running_loop().call_soon(turn)
        summing = asyncio.ensure_future(metrics.snapshot_in_turns())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for conn in conns[:10]:  # they end meanwhile, and are neither lost nor counted twice
            conn.abort()
        taken = (await summing)["listeners"][listener.local_addr]
        assert taken["bytes_in"] == taken["bytes_out"] == 40
        assert turns >= 8
        monkeypatch.undo()
        before = taken
        await until(lambda: listener.connections == 10)
        after = metrics.snapshot()["listeners"][listener.local_addr]
        assert after["bytes_in"] == before["bytes_in"]
        turn = lambda: None  # noqa: E731
        for conn in conns:
            conn.abort()
    await web.close()


async def test_measuring_ends_with_the_listener() -> None:
    loop = asyncio.get_running_loop()
    web = metrics.serve(ANY)
    meter = Meter.of(loop)
    assert web in Live.of(loop).auxiliaries
    assert not Live.of(loop)  # it does not keep the program running
    assert meter in observer.registered
    while not meter.lag.counts.count(1):
        await asyncio.sleep(0.05)
    assert sum(metrics.snapshot()["loop"]["lag_seconds"]["buckets"]) >= 1
    await web.close()
    await until(lambda: meter not in observer.registered)
    assert web not in Live.of(loop).auxiliaries


async def test_another_registry_and_another_thread() -> None:
    registry = prometheus_client.CollectorRegistry()
    collector = metrics.Collector(process=True)
    registry.register(collector)
    async with tcp.listen(ANY, serves) as listener:
        for text in (
            prometheus_client.generate_latest(registry).decode(),
            (await asyncio.to_thread(prometheus_client.generate_latest, registry)).decode(),
        ):
            assert samples(text, listener.local_addr)["silly_connections", ""] == 0
            assert "process_cpu_seconds_total" in text
    collector.close()


# -------------------------------------------------------------------- processes


def process(**listener: Any) -> metrics.Snapshot:
    return {
        "about": {"version": "1"},
        "listeners": {"a:1": listener},
        "process": {"processes": 1, "cpu_seconds": 1.5, "descriptors": 10},
        "loop": {"lag_seconds": {"buckets": [1, 2], "sum": 0.5}},
    }


def test_snapshots_add_up() -> None:
    merged = metrics.merge(
        [
            process(connections=1, refused={"x": 1}, backlog_used=None, certificate_expires_at=7.5),
            process(connections=2, refused={"x": 1, "y": 5}, backlog_used=3),
            process(connections=0, certificate_expires_at=None),
            process(connections=0, certificate_expires_at=6.5),
            {"listeners": {"b:2": {"connections": 7}}},
        ]
    )
    assert merged == {
        "about": {"version": "1"},
        "listeners": {
            "a:1": {
                "connections": 3,
                "refused": {"x": 2, "y": 5},
                "backlog_used": 3,
                "certificate_expires_at": 6.5,
            },
            "b:2": {"connections": 7},
        },
        "process": {"processes": 4, "cpu_seconds": 6.0, "descriptors": 40},
        "loop": {"lag_seconds": {"buckets": [4, 8], "sum": 2.0}},
    }
    assert metrics.merge([]) == {}


def test_a_sum_is_the_same_in_any_order() -> None:
    # Otherwise a counter could decrease in the last digit when the order changes.
    snapshots = [{"process": {"cpu_seconds": seconds}} for seconds in (0.1, 0.2, 0.3)]
    assert metrics.merge(snapshots) == metrics.merge(reversed(snapshots))


def test_the_counts_of_an_ended_process_stay() -> None:
    last = process(connections=1, accepted=5, unread_bytes=3, unsent_bytes=2, bytes_in=9)
    before = json.dumps(last)
    gone = metrics.retired(last)
    assert gone["listeners"] == {"a:1": {"accepted": 5, "bytes_in": 9}}
    assert gone["process"] == {"cpu_seconds": 1.5}
    assert metrics.merge([gone, process(accepted=1)])["listeners"]["a:1"]["accepted"] == 6
    assert json.dumps(last) == before


async def test_several_processes_are_served_as_one() -> None:
    async with tcp.listen(ANY, serves) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"x\n")
            await conn.read(b"\n")
            own = json.loads(json.dumps(metrics.snapshot()))  # as from another process

            async def workers() -> metrics.Snapshot:
                await asyncio.sleep(0)
                return metrics.merge([own, own, metrics.retired(own)])

            def directly() -> Awaitable[metrics.Snapshot]:
                return workers()

            for source in (workers, directly):
                web = metrics.serve(ANY, source)
                text = await scrape(web.local_addr)
                found = samples(text, listener.local_addr)
                assert found["silly_connections", ""] == 2
                assert found["silly_connections_accepted_total", ""] == 3
                assert "silly_processes 2.0\n" in text
                assert text.count("# TYPE process_cpu_seconds_total counter") == 1
                await web.close()
