"""Snapshots as Prometheus knows metrics, by prometheus_client (an extra)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from silly._logs.logger import ENDS_PROGRAM
from silly._values.extras import install_command
from silly.metrics.definitions import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    METRICS,
    MetricDef,
)
from silly.metrics.merging import Snapshot
from silly.metrics.meter import measure
from silly.metrics.snapshots import snapshot, snapshot_in_turns
from silly.text import printable

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector as Registry

__all__ = ["Collector", "Failures", "families_of", "load_client", "page", "registered_families"]

Failures = list[BaseException]


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
        load_client()
        self._stop = measure()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        return families_of(self._read(), process=self._process)

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


def families_of(taken: Snapshot, *, process: bool) -> Iterator[Metric]:
    """Yield the metrics of a snapshot; with *process*, also those of the process."""
    client = load_client()
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
    inner = metric.labels or (() if metric.label is None else (metric.label,))
    if inner:
        labels = [*labels, *inner]
        values = {
            (*key, *name.split(" ", len(inner) - 1)): number
            for key, numbers in values.items()
            for name, number in (numbers or {}).items()
        }
    kinds = {
        COUNTER: client.CounterMetricFamily,
        GAUGE: client.GaugeMetricFamily,
        HISTOGRAM: client.HistogramMetricFamily,
    }
    family = kinds[metric.kind](metric.name, metric.help, labels=labels)
    for key, value in values.items():
        if value is None:
            continue
        if metric.kind == HISTOGRAM:
            family.add_metric(list(key), _cumulative(metric.bounds, value["buckets"]), value["sum"])
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


def load_client() -> Any:
    """Return the module ``prometheus_client.core``.

    Raises:
        ImportError: prometheus-client is not installed.
    """
    try:
        import prometheus_client.core  # noqa: PLC0415 - an extra
        import prometheus_client.exposition  # noqa: PLC0415
    except ImportError:
        raise ImportError(
            "silly.metrics needs prometheus-client: " + install_command("prometheus")
        ) from None
    return prometheus_client.core


# ------------------------------------------------------------------------ the page


class _FixedCollector:
    """Passes given families to an encoder, which expects a collector."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def registered_families(registry: Registry, failures: Failures) -> list[Metric]:
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


def page(accept: str, families: list[Metric], failures: Failures) -> tuple[bytes, str]:
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
