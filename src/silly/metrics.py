"""Metrics: the counts of the listeners, handler durations, event loop lag.

`snapshot` reads the current values. Bytes and connections are counted anyway, so
metrics cost nothing per message. While `measure` is active (`serve` and
`silly.admin.serve` call it), each connection also updates a histogram, and a timer
samples the event loop's lag every half second. The counts of closed listeners are
kept for a while: for the last ten, or for as many as were ever open at once.

A snapshot consists of JSON values. `merge` adds up the snapshots of several
processes; `retired` keeps the counts of a process that has ended. `Collector` and
`serve` export them to Prometheus (extra: ``silly-net[prometheus]``); `METRICS`
defines the names there.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import platform
import sys
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import silly
from silly._engine import engine
from silly._logs.logger import ENDS_PROGRAM
from silly._loop.live import Live
from silly._loop.registry import PerLoop
from silly._values.extras import install_command
from silly.errors import SillyError
from silly.net import observer, tcp
from silly.text import printable

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector as Registry

__all__ = [
    "HANDLER_BUCKETS",
    "LAG_BUCKETS",
    "METRICS",
    "Collector",
    "MetricDef",
    "Snapshot",
    "measure",
    "merge",
    "retired",
    "serve",
    "snapshot",
    "snapshot_in_turns",
]

Snapshot = dict[str, Any]

HANDLER_BUCKETS: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)  # seconds
LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)  # seconds
_INTERVAL: Final = 0.5  # seconds between two samples of the lag
_CLOSED_KEPT: Final = 10  # the counts of at least this many closed listeners are kept
_DIGITS: Final = 6  # seconds are rounded, so that sums do not depend on the order of adding

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"


@dataclass(frozen=True, slots=True)
class MetricDef:
    """One metric: its place in a snapshot and its name in Prometheus."""

    where: str
    """The part of the snapshot: ``listener``, ``process`` or ``loop``."""
    key: str
    """Its key in that part."""
    name: str
    """Its name in Prometheus, without the ``_total`` of counters."""
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    help: str
    """Its description."""
    label: str | None = None
    """The label that distinguishes its values, besides the listener's address."""


METRICS: Final = (
    MetricDef(
        "listener",
        "connections",
        "silly_connections",
        GAUGE,
        "Open connections, including those that are closing",
    ),
    MetricDef(
        "listener",
        "accepted",
        "silly_connections_accepted",
        COUNTER,
        "Connections accepted and passed to a handler",
    ),
    MetricDef(
        "listener",
        "refused",
        "silly_connections_refused",
        COUNTER,
        "Connections reset at once because of a limit or a lack of descriptors",
        "reason",
    ),
    MetricDef(
        "listener",
        "endings",
        "silly_connections_ended",
        COUNTER,
        "Connections that are over, by how they ended",
        "ending",
    ),
    MetricDef(
        "listener",
        "limits",
        "silly_limits_reached",
        COUNTER,
        "Connections that a limit ended",
        "limit",
    ),
    MetricDef(
        "listener",
        "handler_errors",
        "silly_handler_errors",
        COUNTER,
        "Handlers that crashed, by the type of the exception",
        "type",
    ),
    MetricDef(
        "listener",
        "handler_seconds",
        "silly_handler_duration_seconds",
        HISTOGRAM,
        "Run time of handlers that have ended",
    ),
    MetricDef("listener", "bytes_in", "silly_received_bytes", COUNTER, "Bytes received"),
    MetricDef("listener", "bytes_out", "silly_sent_bytes", COUNTER, "Bytes sent"),
    MetricDef(
        "listener",
        "unread_bytes",
        "silly_unread_bytes",
        GAUGE,
        "Bytes received that handlers have not read",
    ),
    MetricDef("listener", "unsent_bytes", "silly_unsent_bytes", GAUGE, "Bytes queued for sending"),
    MetricDef(
        "listener",
        "backlog_used",
        "silly_backlog_used",
        GAUGE,
        "Connections waiting to be accepted",
    ),
    MetricDef(
        "listener",
        "backlog_size",
        "silly_backlog_size",
        GAUGE,
        "Maximum number of connections waiting to be accepted",
    ),
    MetricDef(
        "listener",
        "accept_stalls",
        "silly_accept_stalls",
        COUNTER,
        "Number of times accepting paused for lack of descriptors or memory",
    ),
    MetricDef(
        "loop",
        "lag_seconds",
        "silly_loop_lag_seconds",
        HISTOGRAM,
        "Delay of an event loop timer, sampled twice a second",
    ),
    MetricDef(
        "process", "processes", "silly_processes", GAUGE, "Processes included in the metrics"
    ),
    MetricDef(
        "process",
        "cpu_seconds",
        "process_cpu_seconds",
        COUNTER,
        "Processor time, user and system",
    ),
    MetricDef(
        "process",
        "resident_bytes",
        "process_resident_memory_bytes",
        GAUGE,
        "Memory in use (resident set)",
    ),
    MetricDef("process", "descriptors", "process_open_fds", GAUGE, "Open descriptors"),
)
"""All metrics, in display order."""

# --------------------------------------------------------------------- measuring


class _Histogram:
    """A count for each bucket, one more for values above the last bound, and the sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def values(self) -> dict[str, Any]:
        return {"buckets": list(self.counts), "sum": round(self.sum, _DIGITS)}


class _Meter:
    """The measurements of one event loop: observes connections and samples the lag."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._users = 0
        self._sampler: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.lag = _Histogram(LAG_BUCKETS)
        self.handlers: dict[str, _Histogram] = {}
        self.endings: dict[str, dict[str, int]] = {}
        self.tracked: set[tcp.Listener] = set()  # their counts are not in `closed_counts`
        self.closed_counts: dict[str, dict[str, Any]] = {}  # by address, the latest last
        self.most_open = 0  # the largest number of listeners open at once

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> _Meter:
        return _meters.of(loop)

    def start(self) -> None:
        self._users += 1
        if self._users == 1:
            observer.register(self)
            self._due = self._loop.time() + _INTERVAL
            self._sampler = self._loop.call_at(self._due, self._sample)

    def stop(self) -> None:
        self._users -= 1
        if self._users == 0:
            observer.unregister(self)
            if self._sampler is not None:
                self._sampler.cancel()

    def _sample(self) -> None:
        now = self._loop.time()
        self.lag.add(max(0.0, now - self._due))
        self._due = now + _INTERVAL
        self._sampler = self._loop.call_at(self._due, self._sample)
        self._retire_closed()

    def opened(self, conn: tcp.Conn, listener: tcp.Listener) -> None:  # noqa: ARG002
        if listener._loop is self._loop:
            self.tracked.add(listener)

    def closed(self, conn: tcp.Conn, listener: tcp.Listener, ending: observer.Ending) -> None:  # noqa: ARG002
        address = listener.local_addr
        if listener not in self.tracked and address not in self.closed_counts:  # of another loop
            return
        if address not in self.handlers:
            self.handlers[address] = _Histogram(HANDLER_BUCKETS)
            self.endings[address] = {}
        self.handlers[address].add(ending.handler_seconds)
        endings = self.endings[address]
        endings[ending.how] = endings.get(ending.how, 0) + 1

    def _retire_closed(self) -> set[tcp.Listener]:
        """Save the counts of listeners that were closed; return the open ones."""
        live = cast("set[tcp.Listener]", Live.of(self._loop).listeners)
        self.tracked |= live
        self.most_open = max(self.most_open, len(live))
        for listener in self.tracked - live:
            address = listener.local_addr
            kept = _without_gauges(_counts(listener.stats), "listener")
            self.closed_counts[address] = _sum(self.closed_counts.pop(address, {}), kept)
        self.tracked &= live
        if len(self.closed_counts) > max(_CLOSED_KEPT, self.most_open):
            open_now = {listener.local_addr for listener in live}
            for address in [each for each in self.closed_counts if each not in open_now]:
                if len(self.closed_counts) > max(_CLOSED_KEPT, self.most_open):
                    del self.closed_counts[address]
                    self.handlers.pop(address, None)
                    self.endings.pop(address, None)
        return live

    def listeners(self, stats: Mapping[tcp.Listener, tcp.ListenerStats]) -> dict[str, Any]:
        """Return the numbers by address; *stats* has those already read from listeners."""
        live = self._retire_closed()
        known = dict(self.closed_counts)
        for listener in live:
            address = listener.local_addr
            counts = _counts(stats.get(listener) or listener.stats)
            known[address] = _sum(known.get(address, {}), counts)
            known[address]["limits_set"] = _limits_with_origins(listener.limits)
        return {
            printable(address): {
                **counts,
                "endings": dict(self.endings.get(address, {})),
                "handler_seconds": self._handler_seconds(address),
            }
            for address, counts in sorted(known.items())
        }

    def _handler_seconds(self, address: str) -> dict[str, Any]:
        return self.handlers.get(address, _Histogram(HANDLER_BUCKETS)).values()


_meters: Final = PerLoop("meter", _Meter)


def _limits_with_origins(limits: tcp.Limits) -> dict[str, str]:
    """Return each limit and its origin, such as ``"60 (flag)"``: text, which is not summed."""
    origins = limits.origins
    return {
        each.name: f"{each.text(getattr(limits, each.name))} ({origins[each.name]})"
        for each in limits.fields()
    }


def _counts(stats: tcp.ListenerStats) -> dict[str, Any]:
    return {
        "connections": stats.connections,
        "accepted": stats.accepted,
        "refused": dict(stats.refused),
        "limits": dict(stats.ended),
        "handler_errors": dict(stats.handler_errors_by_type),
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "unread_bytes": stats.unread_bytes,
        "unsent_bytes": stats.unsent_bytes,
        "backlog_used": stats.backlog_used,
        "backlog_size": stats.backlog_size,
        "accept_stalls": stats.accept_stalls,
    }


def measure() -> Callable[[], None]:
    """Start measuring handler durations and lag on the running event loop.

    Returns:
        A function to call when the measurements are no longer needed. They stop
        when every caller of `measure` has done so.

    Raises:
        RuntimeError: no event loop is running.
    """
    meter = _Meter.of(asyncio.get_running_loop())
    meter.start()
    return meter.stop


def snapshot() -> Snapshot:
    """Return all numbers of this process and the running event loop, as JSON values.

    The parts are ``listeners`` (by address), ``loop``, ``process`` and ``about``
    (the version, the engine and the Python version).

    Raises:
        RuntimeError: no event loop is running.
    """
    return _snapshot(_Meter.of(asyncio.get_running_loop()), {})


async def snapshot_in_turns() -> Snapshot:
    """Return the same as `snapshot`, without blocking the loop if there are many connections."""
    loop = asyncio.get_running_loop()
    listeners = cast("set[tcp.Listener]", Live.of(loop).listeners)
    stats = {listener: await listener._stats_in_batches() for listener in list(listeners)}
    return _snapshot(_Meter.of(loop), stats)


def _snapshot(meter: _Meter, stats: Mapping[tcp.Listener, tcp.ListenerStats]) -> Snapshot:
    return {
        "about": {
            "version": silly.__version__,
            "engine": engine.NAME,
            "python": platform.python_version(),
        },
        "listeners": meter.listeners(stats),
        "loop": {"lag_seconds": meter.lag.values()},
        "process": _process(),
    }


def _process() -> dict[str, Any]:
    times = os.times()
    numbers: dict[str, Any] = {"processes": 1, "cpu_seconds": round(times.user + times.system, 2)}
    try:  # proc(5); omitted on other systems
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            numbers["resident_bytes"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        numbers["descriptors"] = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - our own
    except OSError:
        pass
    return numbers


# ----------------------------------------------------------------------- merging


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Add up the snapshots of several processes, address by address."""
    merged: Snapshot = {}
    for each in snapshots:
        merged = _sum(merged, each)
    return merged


def retired(last: Snapshot, before: Snapshot | None = None) -> Snapshot:
    """Return the counts of a process that has ended, without its gauges.

    Args:
        last: its last snapshot.
        before: the result for processes that ended earlier, to be added. Of its
            listeners that are not in *last*, the latest are kept, so that the result
            has ten listeners, or as many as *last*.
    """
    listeners = last.get("listeners", {})
    counts = {address: _without_gauges(values, "listener") for address, values in listeners.items()}
    stays = {
        **last,
        "listeners": counts,
        "process": _without_gauges(last.get("process", {}), "process"),
    }
    if before is None:
        return stays
    earlier = before.get("listeners", {})
    others = [address for address in earlier if address not in counts]
    others = others[max(0, len(others) + len(counts) - _CLOSED_KEPT) :]
    merged = _sum(before, stays)
    merged["listeners"] = {address: merged["listeners"][address] for address in (*others, *counts)}
    return cast("Snapshot", merged)


def _without_gauges(values: dict[str, Any], where: str) -> dict[str, Any]:
    gauges = {each.key for each in METRICS if each.where == where and each.kind == GAUGE}
    return {key: value for key, value in values.items() if key not in gauges}


def _sum(first: Any, second: Any) -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        sums = {key: _sum(first[key], value) for key, value in second.items() if key in first}
        return {**first, **second, **sums}
    if isinstance(first, list) and isinstance(second, list):
        return [_sum(*pair) for pair in zip(first, second, strict=True)]
    if isinstance(first, int | float) and isinstance(second, int | float):
        return round(first + second, _DIGITS)
    return first if second is None else second


# -------------------------------------------------------------------- Prometheus

Source = Callable[[], "Snapshot | Awaitable[Snapshot]"]


class Collector:
    """A collector for prometheus_client; it reads a new snapshot for each scrape.

    For programs that serve their metrics themselves (`serve` does not need it)::

        prometheus_client.REGISTRY.register(metrics.Collector())

    Another thread may call `collect`, as prometheus_client's own server does; the
    event loop has five seconds to answer.

    Args:
        source: a function that returns a snapshot; `snapshot` if None.
        process: also export the process metrics. prometheus_client's own registry
            has them for one process, but not for several.

    Raises:
        RuntimeError: no event loop is running.
    """

    def __init__(self, source: Callable[[], Snapshot] | None = None, *, process: bool = False):
        self._source = snapshot if source is None else source
        self._process = process
        self._loop = asyncio.get_running_loop()
        _prometheus()
        self._stop = measure()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        return _families(self._read(), process=self._process)

    def describe(self) -> list[Metric]:
        """Return an empty list: the metrics are known only when they are collected."""
        return []

    def close(self) -> None:
        """Stop measuring."""
        self._stop()

    def _read(self) -> Snapshot:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            return self._source()
        return asyncio.run_coroutine_threadsafe(self._take(), self._loop).result(5)

    async def _take(self) -> Snapshot:
        return await snapshot_in_turns() if self._source is snapshot else self._source()


def _families(taken: Snapshot, *, process: bool) -> Iterator[Metric]:
    client = _prometheus()
    about = taken.get("about", {})
    if about:
        info = client.InfoMetricFamily("silly", "The version of silly, its engine, and the Python")
        info.add_metric([], about)
        yield info
    values: dict[tuple[str, ...], Any]
    for metric in METRICS:
        if metric.where == "listener":
            values = {
                (address,): counts.get(metric.key)
                for address, counts in taken.get("listeners", {}).items()
            }
            labels = ["listener"]
        elif metric.where == "process" and not process and not metric.name.startswith("silly"):
            continue
        else:
            values = {(): taken.get(metric.where, {}).get(metric.key)}
            labels = []
        yield _family(client, metric, labels, values)


def _family(
    client: Any, metric: MetricDef, labels: list[str], values: dict[tuple[str, ...], Any]
) -> Metric:
    if metric.label is not None:
        labels = [*labels, metric.label]
        values = {
            (*key, name): number
            for key, numbers in values.items()
            for name, number in (numbers or {}).items()
        }
    kinds = {
        COUNTER: client.CounterMetricFamily,
        GAUGE: client.GaugeMetricFamily,
        HISTOGRAM: client.HistogramMetricFamily,
    }
    family = kinds[metric.kind](metric.name, metric.help, labels=labels)
    bounds = LAG_BUCKETS if metric.where == "loop" else HANDLER_BUCKETS
    for key, value in values.items():
        if value is None:
            continue
        if metric.kind == HISTOGRAM:
            family.add_metric(list(key), _cumulative(bounds, value["buckets"]), value["sum"])
        else:
            family.add_metric(list(key), value)
    return cast("Metric", family)


def _cumulative(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, int]]:
    total = 0
    cumulative = []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        cumulative.append((bound, total))
    return cumulative


def _prometheus() -> Any:
    try:
        import prometheus_client.core  # noqa: PLC0415 - an extra
        import prometheus_client.exposition  # noqa: PLC0415
    except ImportError:
        raise ImportError(
            "silly.metrics needs prometheus-client: " + install_command("prometheus")
        ) from None
    return prometheus_client.core


# ------------------------------------------------------------------------ serving

_MAX_REQUEST: Final = 16 * 1024  # bytes
_REQUEST_TIMEOUT: Final = 10.0  # seconds


class _FixedCollector:
    """Passes given families to an encoder, which expects a collector."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


Failures = list[BaseException]


def _program_families(registry: Registry, failures: Failures) -> list[Metric]:
    """Return the metrics that the program registered, without those that fail."""
    try:
        return list(registry.collect())
    except ENDS_PROGRAM:
        raise
    except BaseException as failure:  # noqa: BLE001 - a collector is the user's code
        collectors = list(getattr(registry, "_collector_to_names", ()))
        if not collectors:
            failures.append(failure)
    families: list[Metric] = []
    for collector in collectors:  # one by one, to find those that work
        try:
            families += list(collector.collect())
        except ENDS_PROGRAM:
            raise
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)
    return families


def _page(accept: str, families: list[Metric], failures: Failures) -> tuple[bytes, str]:
    """Encode the families in the format that the client prefers, without invalid ones."""
    choose = sys.modules["prometheus_client.exposition"].choose_encoder
    for preference in (printable(accept), ""):
        try:
            encode, content_type = choose(preference)
            return encode(_FixedCollector(families)), content_type
        except ENDS_PROGRAM:
            raise
        except BaseException:  # noqa: BLE001, S110 - an unknown version or an invalid family
            pass
    encode, content_type = choose("")
    good = []
    for family in families:
        try:
            encode(_FixedCollector([family]))
        except ENDS_PROGRAM:
            raise
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)
        else:
            good.append(family)
    return encode(_FixedCollector(good)), content_type


def serve(addr: str, source: Source | None = None) -> tcp.Listener:
    """Serve the metrics for Prometheus at ``http://ADDR/metrics``.

    The page also has the metrics that the program registered with
    prometheus_client. This listener does not keep the program running. It closes
    last, so that a drain can be watched.

    Args:
        addr: as for `silly.net.tcp.listen`, such as ``"127.0.0.1:9100"``. Anyone
            who can connect can read the metrics.
        source: a function or coroutine function that returns the snapshot to serve
            instead, such as the merged snapshots of several processes.

    Returns:
        The listener; close it to stop.

    Raises:
        ImportError: prometheus-client is not installed.
        OSError, TypeError, ValueError, RuntimeError: as for `silly.net.tcp.listen`.
    """
    registry = _prometheus().REGISTRY if source is None else None
    take: Source = snapshot_in_turns if source is None else source

    async def answer(conn: tcp.Conn) -> None:
        try:
            head = await conn.read(b"\r\n\r\n", limit=_MAX_REQUEST, timeout=_REQUEST_TIMEOUT)
        except (SillyError, OSError):  # no request to answer
            return
        method, target, accept = _parse_request(head)
        if target.partition("?")[0] != "/metrics":
            conn.write(_response("404 Not Found", b"the metrics are at /metrics\n"))
        elif method != "GET":
            conn.write(_response("405 Method Not Allowed", b"only GET\n", extra="Allow: GET\r\n"))
        else:
            await answer_scrape(conn, accept)

    async def answer_scrape(conn: tcp.Conn, accept: str) -> None:
        failures: Failures = []
        try:
            taken = take()
            if inspect.isawaitable(taken):
                taken = await taken
            families = list(_families(taken, process=source is not None))
            if registry is not None:
                families += _program_families(registry, failures)
            body, content_type = _page(accept, families, failures)
        except Exception:
            conn.write(
                _response("500 Internal Server Error", b"cannot read the metrics: see the log\n")
            )
            raise
        conn.write(_response("200 OK", body, content_type))
        if failures:  # for the log; the client got the other metrics
            raise BaseExceptionGroup("some metrics could not be read", failures)

    listener = tcp.listen(addr, answer)
    Live.of(listener._loop).add_auxiliary(listener, measure() if source is None else None)
    return listener


def _parse_request(head: bytes) -> tuple[str, str, str]:
    """Return the method, the target and the Accept header of an HTTP/1 request (RFC 9112)."""
    first, *fields = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    accept = ""
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() == "accept":
            accept = value.strip()
    return words[0], words[1] if len(words) == 3 else "", accept


def _response(
    status: str, body: bytes, content_type: str = "text/plain; charset=utf-8", extra: str = ""
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
