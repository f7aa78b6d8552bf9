"""Sums of snapshots: of several processes, of listeners and processes that are gone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from silly.metrics.definitions import GAUGE, METRICS

__all__ = ["CLOSED_KEPT", "DIGITS", "Snapshot", "add", "merge", "retired", "without_gauges"]

Snapshot = dict[str, Any]

CLOSED_KEPT: Final = 10  # the counts of at least this many closed listeners are kept
_EARLIEST: Final = frozenset(each.key for each in METRICS if each.is_earliest)
DIGITS: Final = 6  # seconds are rounded, so that sums do not depend on the order of adding


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Add up the snapshots of several processes, address by address."""
    merged: Snapshot = {}
    for each in snapshots:
        merged = add(merged, each)
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
    counts = {address: without_gauges(values, "listener") for address, values in listeners.items()}
    stays = {
        **last,
        "listeners": counts,
        "process": without_gauges(last.get("process", {}), "process"),
        "datagrams": without_gauges(last.get("datagrams", {}), "datagrams"),
        "pubsub": without_gauges(last.get("pubsub", {}), "pubsub"),
    }
    if before is None:
        return stays
    earlier = before.get("listeners", {})
    others = [address for address in earlier if address not in counts]
    others = others[max(0, len(others) + len(counts) - CLOSED_KEPT) :]
    merged = add(before, stays)
    merged["listeners"] = {address: merged["listeners"][address] for address in (*others, *counts)}
    return cast("Snapshot", merged)


def without_gauges(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return *values*, those of the part *where* of a snapshot, without the gauges."""
    gauges = {each.key for each in METRICS if each.where == where and each.kind == GAUGE}
    return {key: value for key, value in values.items() if key not in gauges}


def add(first: Any, second: Any) -> Any:
    """Add up the numbers in two parts of snapshots; of other values, keep the second."""
    if isinstance(first, dict) and isinstance(second, dict):
        sums = {
            key: _earliest(first[key], value) if key in _EARLIEST else add(first[key], value)
            for key, value in second.items()
            if key in first
        }
        return {**first, **second, **sums}
    if isinstance(first, list) and isinstance(second, list):
        return [add(*pair) for pair in zip(first, second, strict=True)]
    if isinstance(first, int | float) and isinstance(second, int | float):
        return round(first + second, DIGITS)
    return first if second is None else second


def _earliest(first: float | None, second: float | None) -> float | None:
    return min(first, second) if first is not None and second is not None else first or second
