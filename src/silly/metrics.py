"""Metrics: what the listeners count, how long handlers run, how late the event loop is.

`snapshot` reads all of it at the time of asking: bytes and connections are
counted anyway, so metrics cost nothing for a message. While they are measured
(`measure`, and what calls it: `serve`, `silly.admin.serve`), a connection also
costs its place in a histogram, and a timer looks every half second how late the
event loop is. Of a listener that was closed the counts stay for a while: of the last
ten, or of as many as were ever open at a time.

A snapshot is made of JSON values. Those of several processes are put together
with `merge`; of a process that ended, `retired` keeps the counts. `Collector`
and `serve` give them to Prometheus (extra: ``silly-net[prometheus]``). `METRICS`
says what each number becomes there.
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
from silly._extras import install_command
from silly._live import Live
from silly._logger import ENDS_PROGRAM
from silly.errors import SillyError
from silly.net import observer, tcp
from silly.text import printable

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector as _Registered

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
_INTERVAL: Final = 0.5  # seconds between two looks at how late the loop is
_KEPT: Final = 10  # closed listeners whose counts stay, at least
_DIGITS: Final = 6  # of seconds: rounded, a sum is the same in whatever order it is made

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"


@dataclass(frozen=True, slots=True)
class MetricDef:
    """One number of a snapshot, and what it is called in Prometheus."""

    where: str
    """``listener``, ``process`` or ``loop``: the part of the snapshot."""
    key: str
    """Its name there."""
    name: str
    """Its name in Prometheus; counters have ``_total`` behind it."""
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    help: str
    """What it says."""
    label: str | None = None
    """What tells several numbers of that name apart, beside the listener's address."""


METRICS: Final = (
    MetricDef(
        "listener",
        "connections",
        "silly_connections",
        GAUGE,
        "Connections that are alive, those being closed included",
    ),
    MetricDef(
        "listener",
        "accepted",
        "silly_connections_accepted",
        COUNTER,
        "Connections accepted and given to a handler",
    ),
    MetricDef(
        "listener",
        "refused",
        "silly_connections_refused",
        COUNTER,
        "Connections reset at once, because of a limit or for want of descriptors",
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
        "How long handlers ran that have ended",
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
    MetricDef("listener", "unsent_bytes", "silly_unsent_bytes", GAUGE, "Bytes queued to be sent"),
    MetricDef(
        "listener",
        "backlog_used",
        "silly_backlog_used",
        GAUGE,
        "Connections that wait to be accepted",
    ),
    MetricDef(
        "listener",
        "backlog_size",
        "silly_backlog_size",
        GAUGE,
        "How many connections may wait to be accepted",
    ),
    MetricDef(
        "listener",
        "accept_stalls",
        "silly_accept_stalls",
        COUNTER,
        "How often accepting was put off for want of descriptors or memory",
    ),
    MetricDef(
        "loop",
        "lag_seconds",
        "silly_loop_lag_seconds",
        HISTOGRAM,
        "How late a timer of the event loop was, looked at twice a second",
    ),
    MetricDef("process", "processes", "silly_processes", GAUGE, "Processes that these are from"),
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
"""All metrics, in the order in which they are shown."""

# --------------------------------------------------------------------- measuring


class _Histogram:
    """Counts by size: a count for each bucket, one more for what is above, and the sum."""

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
    """What is measured on one event loop: an observer, and the sampler of its lag."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._users = 0
        self._sampler: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.lag = _Histogram(LAG_BUCKETS)
        self.handlers: dict[str, _Histogram] = {}
        self.endings: dict[str, dict[str, int]] = {}
        self.known: set[tcp.Listener] = set()  # whose counts are not in `past`
        self.past: dict[str, dict[str, Any]] = {}  # counts of closed ones, the latest last
        self.most = 0  # listeners at a time

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _Meter:
        meter: _Meter | None = getattr(loop, "_silly_meter", None)
        if meter is None:
            meter = cls(loop)
            loop._silly_meter = meter  # type: ignore[attr-defined]
        return meter

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
        self._retire()

    def opened(self, conn: tcp.Conn, listener: tcp.Listener) -> None:  # noqa: ARG002
        if listener._loop is self._loop:
            self.known.add(listener)

    def closed(self, conn: tcp.Conn, listener: tcp.Listener, ending: observer.Ending) -> None:  # noqa: ARG002
        address = listener.local_addr
        if listener not in self.known and address not in self.past:  # nor of this loop
            return
        if address not in self.handlers:
            self.handlers[address] = _Histogram(HANDLER_BUCKETS)
            self.endings[address] = {}
        self.handlers[address].add(ending.handler_seconds)
        endings = self.endings[address]
        endings[ending.how] = endings.get(ending.how, 0) + 1

    def _retire(self) -> set[tcp.Listener]:
        """Keep the counts of listeners that were closed, and return the others."""
        live = cast("set[tcp.Listener]", Live.of(self._loop).listeners)
        self.known |= live
        self.most = max(self.most, len(live))
        for listener in self.known - live:
            address = listener.local_addr
            kept = _without_gauges(_counts(listener.stats), "listener")
            self.past[address] = _added(self.past.pop(address, {}), kept)
        self.known &= live
        if len(self.past) > max(_KEPT, self.most):
            open_now = {listener.local_addr for listener in live}
            for address in [each for each in self.past if each not in open_now]:
                if len(self.past) > max(_KEPT, self.most):
                    del self.past[address]
                    self.handlers.pop(address, None)
                    self.endings.pop(address, None)
        return live

    def listeners(self, stats: Mapping[tcp.Listener, tcp.ListenerStats]) -> dict[str, Any]:
        """What is known of each address; *stats* of those listeners that were asked already."""
        live = self._retire()
        found = dict(self.past)
        for listener in live:
            address = listener.local_addr
            counts = _counts(stats.get(listener) or listener.stats)
            found[address] = _added(found.get(address, {}), counts)
            found[address]["limits_set"] = _in_force(listener.limits)
        return {
            printable(address): {
                **counts,
                "endings": dict(self.endings.get(address, {})),
                "handler_seconds": self._handler_seconds(address),
            }
            for address, counts in sorted(found.items())
        }

    def _handler_seconds(self, address: str) -> dict[str, Any]:
        return self.handlers.get(address, _Histogram(HANDLER_BUCKETS)).values()


def _in_force(limits: tcp.Limits) -> dict[str, str]:
    """Return the limits in force, and who set them: ``"60 (flag)"``; text is not added up."""
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
    """Begin to measure handlers and the loop's lag on the running loop.

    Returns:
        What ends it, unless somebody else measures, too.

    Raises:
        RuntimeError: no event loop is running.
    """
    meter = _Meter.of(asyncio.get_running_loop())
    meter.start()
    return meter.stop


def snapshot() -> Snapshot:
    """Return all numbers of this process and of the running event loop, as JSON values.

    ``listeners`` (by address), ``loop``, ``process``, and ``about``: the version,
    the engine, and the Python.

    Raises:
        RuntimeError: no event loop is running.
    """
    return _snapshot(_Meter.of(asyncio.get_running_loop()), {})


async def snapshot_in_turns() -> Snapshot:
    """Return what `snapshot` does; of many connections, let the loop have its turns meanwhile."""
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
    found: dict[str, Any] = {"processes": 1, "cpu_seconds": round(times.user + times.system, 2)}
    try:  # proc(5); elsewhere they are left out
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            found["resident_bytes"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        found["descriptors"] = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - our own
    except OSError:
        pass
    return found


# ----------------------------------------------------------------------- merging


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Add up the snapshots of several processes; numbers of the same address become one."""
    merged: Snapshot = {}
    for each in snapshots:
        merged = _added(merged, each)
    return merged


def retired(last: Snapshot, before: Snapshot | None = None) -> Snapshot:
    """Return what stays of a process that has ended: its counts, without what it held.

    Args:
        last: its last snapshot.
        before: what stayed of those that ended earlier, to be added. Of listeners
            that *last* does not know, the latest stay: ten altogether.
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
    others = others[max(0, len(others) + len(counts) - _KEPT) :]
    merged = _added(before, stays)
    merged["listeners"] = {address: merged["listeners"][address] for address in (*others, *counts)}
    return cast("Snapshot", merged)


def _without_gauges(values: dict[str, Any], where: str) -> dict[str, Any]:
    gauges = {each.key for each in METRICS if each.where == where and each.kind == GAUGE}
    return {key: value for key, value in values.items() if key not in gauges}


def _added(first: Any, second: Any) -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        sums = {key: _added(first[key], value) for key, value in second.items() if key in first}
        return {**first, **second, **sums}
    if isinstance(first, list) and isinstance(second, list):
        return [_added(*pair) for pair in zip(first, second, strict=True)]
    if isinstance(first, int | float) and isinstance(second, int | float):
        return round(first + second, _DIGITS)
    return first if second is None else second


# -------------------------------------------------------------------- Prometheus

Source = Callable[[], "Snapshot | Awaitable[Snapshot]"]


class Collector:
    """A collector for prometheus_client, reading a snapshot whenever it is asked.

    For programs that serve their metrics themselves::

        prometheus_client.REGISTRY.register(metrics.Collector())

    May be asked from another thread, as prometheus_client's own server does; the
    loop has five seconds to answer. `serve` needs none of this.

    Args:
        source: a function that returns a snapshot; `snapshot` if None.
        process: also give what the process uses. prometheus_client's own registry
            does that for one process, but cannot for several.

    Raises:
        RuntimeError: no event loop is running.
    """

    def __init__(self, source: Callable[[], Snapshot] | None = None, *, process: bool = False):
        self._source = snapshot if source is None else source
        self._process = process
        self._loop = asyncio.get_running_loop()
        _client()
        self._stop = measure()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        return _families(self._read(), process=self._process)

    def describe(self) -> list[Metric]:
        """Return nothing: what is there is known when it is asked for."""
        return []

    def close(self) -> None:
        """Measure no more."""
        self._stop()

    def _read(self) -> Snapshot:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            return self._source()
        return asyncio.run_coroutine_threadsafe(self._called(), self._loop).result(5)

    async def _called(self) -> Snapshot:
        return await snapshot_in_turns() if self._source is snapshot else self._source()


def _families(taken: Snapshot, *, process: bool) -> Iterator[Metric]:
    client = _client()
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
    found = []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, total))
    return found


def _client() -> Any:
    try:
        import prometheus_client.core  # noqa: PLC0415 - an extra
        import prometheus_client.exposition  # noqa: PLC0415
    except ImportError:
        raise ImportError(
            "silly.metrics gives metrics to Prometheus with prometheus-client: "
            + install_command("prometheus")
        ) from None
    return prometheus_client.core


# ------------------------------------------------------------------------ serving

_REQUEST: Final = 16 * 1024  # bytes
_PATIENCE: Final = 10.0  # seconds for a request to come


class _Families:
    """What an encoder is given."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


Failures = list[BaseException]


def _registered(registry: _Registered, failures: Failures) -> list[Metric]:
    """What the program registered itself, without what cannot be had."""
    try:
        return list(registry.collect())
    except ENDS_PROGRAM:
        raise
    except BaseException as failure:  # noqa: BLE001 - a collector is a program of the user's
        collectors = list(getattr(registry, "_collector_to_names", ()))
        if not collectors:
            failures.append(failure)
    found: list[Metric] = []
    for collector in collectors:  # each by itself
        try:
            found += list(collector.collect())
        except ENDS_PROGRAM:
            raise
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)
    return found


def _page(accept: str, families: list[Metric], failures: Failures) -> tuple[bytes, str]:
    """The families in the format that the client prefers, without those that have none."""
    choose = sys.modules["prometheus_client.exposition"].choose_encoder
    for preference in (printable(accept), ""):
        try:
            encode, content_type = choose(preference)
            return encode(_Families(families)), content_type
        except ENDS_PROGRAM:
            raise
        except BaseException:  # noqa: BLE001, S110 - an unknown version, or a bad family
            pass
    encode, content_type = choose("")
    good = []
    for family in families:
        try:
            encode(_Families([family]))
        except ENDS_PROGRAM:
            raise
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)
        else:
            good.append(family)
    return encode(_Families(good)), content_type


def serve(addr: str, source: Source | None = None) -> tcp.Listener:
    """Serve the metrics for Prometheus on *addr*, as ``http://ADDR/metrics``.

    With this process's own numbers come those that the program registered with
    prometheus_client itself. The program does not stay up for this listener: it
    closes last, so that a drain can be watched, too.

    Args:
        addr: as for `silly.net.tcp.listen`, such as ``"127.0.0.1:9100"``. Whoever
            can connect can read them.
        source: a function, or a coroutine function, that returns what to serve
            instead, such as the merged snapshots of several processes.

    Returns:
        The listener; close it to stop.

    Raises:
        ImportError: prometheus-client is not installed.
        OSError, TypeError, ValueError, RuntimeError: as `silly.net.tcp.listen`.
    """
    registry = _client().REGISTRY if source is None else None
    take: Source = snapshot_in_turns if source is None else source

    async def answer(conn: tcp.Conn) -> None:
        try:
            head = await conn.read(b"\r\n\r\n", limit=_REQUEST, timeout=_PATIENCE)
        except (SillyError, OSError):  # no request: nobody to answer
            return
        method, target, accept = _parsed(head)
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
                families += _registered(registry, failures)
            body, content_type = _page(accept, families, failures)
        except Exception:
            conn.write(
                _response("500 Internal Server Error", b"there are no metrics: see the log\n")
            )
            raise
        conn.write(_response("200 OK", body, content_type))
        if failures:  # they are the log's; the client has what there is
            raise BaseExceptionGroup("some metrics could not be had", failures)

    listener = tcp.listen(addr, answer)
    Live.of(listener._loop).add_auxiliary(listener, measure() if source is None else None)
    return listener


def _parsed(head: bytes) -> tuple[str, str, str]:
    """The method, the target and the Accept header of an HTTP/1 request (RFC 9112)."""
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
