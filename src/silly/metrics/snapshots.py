"""The current values of all metrics, as JSON values."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Mapping
from typing import Any, cast

import silly
from silly._engine import engine
from silly._loop.live import Live
from silly.metrics.merging import Snapshot
from silly.metrics.meter import Meter
from silly.net import tcp
from silly.net.opening import totals
from silly.pubsub.bus import totals as totals_of_buses

__all__ = ["snapshot", "snapshot_in_turns"]


def snapshot() -> Snapshot:
    """Return all numbers of this process and the running event loop, as JSON values.

    The parts are ``listeners`` (by address), ``datagrams``, ``pubsub``, ``loop``, ``process``
    and ``about`` (the version, the engine and the Python version).

    Raises:
        RuntimeError: no event loop is running.
    """
    return _snapshot(Meter.of(asyncio.get_running_loop()), {})


async def snapshot_in_turns() -> Snapshot:
    """Return the same as `snapshot`, without blocking the loop if there are many connections."""
    loop = asyncio.get_running_loop()
    listeners = cast("set[tcp.Listener]", Live.of(loop).listeners)
    stats = {listener: await listener._stats_in_batches() for listener in list(listeners)}
    return _snapshot(Meter.of(loop), stats)


def _snapshot(meter: Meter, stats: Mapping[tcp.Listener, tcp.ListenerStats]) -> Snapshot:
    return {
        "about": {
            "version": silly.__version__,
            "engine": engine.NAME,
            "python": platform.python_version(),
        },
        "listeners": meter.listeners(stats),
        "datagrams": _datagrams(meter.loop),
        "pubsub": _pubsub(meter.loop),
        "loop": {"lag_seconds": meter.lag.values()},
        "process": _process(),
    }


def _datagrams(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    found = totals(loop)
    dropped = {
        "kernel": "dropped_by_kernel",
        "queue": "dropped_by_queue",
        "truncated": "truncated",
        "send_queue": "send_dropped",
    }
    same = ("sockets", "received", "sent", "bytes_in", "bytes_out", "unread", "unsent")
    return {
        **{name: found.get(name, 0) for name in same},
        "dropped": {reason: found.get(name, 0) for reason, name in dropped.items()},
        "send_errors": dict(found.get("send_errors", {})),
    }


def _pubsub(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    found = totals_of_buses(loop)
    return {**found, "publish_errors": dict(found["publish_errors"])}


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
