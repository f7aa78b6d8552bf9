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

from silly.metrics.definitions import HANDLER_BUCKETS, LAG_BUCKETS, METRICS, MetricDef
from silly.metrics.merging import Snapshot, merge, retired
from silly.metrics.meter import measure
from silly.metrics.prometheus import Collector
from silly.metrics.server import serve
from silly.metrics.snapshots import snapshot, snapshot_in_turns

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
