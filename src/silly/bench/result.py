"""The result of a run in its published form: plain data, ready for JSON.

``result.schema.json`` in this package describes it. Times are in seconds, sizes in
bytes, shares from 0 to 1.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import silly
from silly._values.units import counted
from silly.bench.asserts import Claim
from silly.bench.fleet import Fleet, summed
from silly.bench.histogram import Histogram
from silly.bench.plan import Plan
from silly.bench.process import Usage
from silly.bench.recorder import AFTER, Interval

__all__ = ["PERCENTILES", "SCHEMA", "build", "schema"]

SCHEMA: Final = "silly-bench/1"
PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999)
WRONG: Final = (
    "corrupt", "lost", "reordered", "duplicate", "misdelivered", "unasked", "wrong body", "invalid",
)  # fmt: skip
_BUSY: Final = 0.9  # share of the time from which a busy client may be the limit
_EXAMPLES: Final = 20  # errors to describe, at most
_LATE: Final = 0.01  # share of late requests from which to warn


def schema() -> dict[str, Any]:
    """Return the JSON schema of a result (JSON Schema 2020-12)."""
    from importlib import resources  # noqa: PLC0415 - slow to import, rarely needed

    text = resources.files("silly.bench").joinpath("result.schema.json").read_text("utf-8")
    made: dict[str, Any] = json.loads(text)
    return made


def build(
    plan: Plan,
    fleet: Fleet,
    *,
    began: dt.datetime,
    interrupted: bool,
    server: Sequence[Usage],
    pid: int | None,
    claims: Iterable[Claim],
) -> dict[str, Any]:
    """Return the result of a run.

    Args:
        plan: the settings of the run.
        fleet: the workers, which have reported everything.
        began: when the run began.
        interrupted: whether a signal ended the run.
        server: the usage of the server's process at the start and after each interval.
        pid: the server's process, or None.
        claims: the claims to check.
    """
    zero = fleet.started + round(plan.warmup * 1e9)
    end = max((summary["end"] for summary in fleet.summaries), default=zero)
    duration = max(0.0, (end - zero) / 1e9)
    measured = {index: part for index, part in sorted(fleet.series.items()) if index >= 0}
    total = summed(measured.values())
    within = summed(part for index, part in measured.items() if index != AFTER)
    reasons = [summary["why"] for summary in fleet.summaries if summary["why"]]
    why = next((reason for reason in reasons if reason != "interrupted"), "")
    everything = summed(fleet.series.values())
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "silly": silly.__version__,
        "engine": silly.engine(),
        "python": platform.python_version(),
        "addr": plan.place,
        "began": began.isoformat(timespec="seconds"),
        "plan": plan.to_dict(),
        "outcome": "interrupted" if interrupted else "stopped" if why else "finished",
        "why": why,
        "duration": duration,
        "requests": total.requests,
        "rate": within.requests / duration if duration else 0.0,
        "unanswered": total.unanswered,
        "bytes_in": total.bytes_in,
        "bytes_out": total.bytes_out,
        "bytes_in_rate": within.bytes_in / duration if duration else 0.0,
        "bytes_out_rate": within.bytes_out / duration if duration else 0.0,
        "latency": _latencies(total.latency),
        "service": None if total.service is None else _latencies(total.service),
        "connect": None if everything.connects is None else _latencies(everything.connects),
        "tls": _encryption(fleet, everything),
        "open_loop": _open_loop(plan, fleet, total),
        "udp": _datagrams(everything) if plan.udp else None,
        "http": None if plan.http is None else _http(fleet),
        "websocket": None if plan.websocket is None else _websocket(everything),
        "fan_out": _fan_out(plan, everything) if plan.fan_out else None,
        "errors": {
            "total": sum(everything.errors.values()),
            "wrong": sum(everything.errors.get(kind, 0) for kind in WRONG),
            "kinds": everything.errors,
            "first": _examples([summary["first_errors"] for summary in fleet.summaries]),
        },
        "client": {
            "workers": plan.workers,
            "cpu": within.cpu / duration if duration else 0.0,
            "busy_poll": plan.busy_poll,
            "busy": _busy(plan, within, duration),
            "is_limit": False,
        },
        "server": _server(server, pid, total.requests),
        "intervals": _intervals(plan, fleet.series, duration),
    }
    doubts = list(_client_doubts(result, within))
    result["client"]["is_limit"] = bool(doubts)
    result["warnings"] = [*doubts, *_warnings(result, within)]
    result["claims"] = [
        {"text": claim.text, "actual": claim.actual_text(result), "holds": claim.holds(result)}
        for claim in claims
    ]
    return result


def _seconds(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def _latencies(histogram: Histogram) -> dict[str, Any]:
    found = histogram.percentiles(PERCENTILES)
    return {
        "count": histogram.count,
        "min": _seconds(histogram.minimum),
        "mean": _seconds(histogram.mean),
        "max": _seconds(histogram.maximum),
        "percentiles": {
            f"{percent:g}": value / 1e9 for percent, value in zip(PERCENTILES, found, strict=False)
        },
        "histogram": histogram.to_list() if histogram.count else [],
    }


def _open_loop(plan: Plan, fleet: Fleet, total: Interval) -> dict[str, Any] | None:
    if plan.rate is None:
        return None
    scheduled = sum(summary["scheduled"] for summary in fleet.summaries)
    sent = sum(part.sent for part in fleet.series.values())
    return {
        "asked_rate": plan.rate,
        "scheduled": scheduled,
        "sent": sent,
        "unsent": max(0, scheduled - sent),
        "late": total.late,
        "late_by_client": total.late_by_client,
        "max_lag": total.max_lag / 1e9,
    }


def _encryption(fleet: Fleet, everything: Interval) -> dict[str, Any] | None:
    negotiated = [each["negotiated"] for each in fleet.summaries if each["negotiated"]]
    if not negotiated:
        return None
    full, resumed = everything.handshakes, everything.resumptions
    return {
        **negotiated[0],
        "full": None if full is None else _latencies(full),
        "resumed": None if resumed is None else _latencies(resumed),
    }


def _datagrams(everything: Interval) -> dict[str, Any]:
    """Return what became of datagrams in the whole run, the warm-up included."""
    sent = everything.sent
    return {
        "sent": sent,
        "answered": everything.requests,
        "lost": everything.lost,
        "loss": everything.lost / sent if sent else 0.0,
        "received": everything.datagrams_in,
        "duplicates": everything.duplicates,
        "reordered": everything.reordered,
        "late": everything.late_replies,
        "dropped_by_client": everything.own_drops,
    }


def _http(fleet: Fleet) -> dict[str, Any]:
    """Return what came in the whole run, the warm-up included."""
    statuses: Counter[int] = Counter()
    for each in fleet.summaries:
        statuses.update(each["statuses"])
    return {
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "repeated": sum(each["repeated"] for each in fleet.summaries),
    }


def _websocket(everything: Interval) -> dict[str, Any]:
    """Return how long opening WebSockets took, in the whole run."""
    opened = everything.upgrades
    return {"opened": None if opened is None else _latencies(opened)}


def _fan_out(plan: Plan, everything: Interval) -> dict[str, Any]:
    """Return what was sent to all receivers, in the whole run, the warm-up included."""
    return {
        "receivers": plan.connections,
        "messages": everything.sent,
        "delivered": everything.requests,
        "undelivered": everything.unanswered,
    }


def _server(seen: Sequence[Usage], pid: int | None, requests: int) -> dict[str, Any] | None:
    if pid is None or len(seen) < 2:
        return None
    cpu, seconds = seen[-1].cpu - seen[0].cpu, seen[-1].at - seen[0].at
    return {
        "pid": pid,
        "cpu_seconds": cpu,
        "cpu": cpu / seconds if seconds else 0.0,
        "cpu_per_request": cpu / requests if requests else None,
        "rss": max(usage.rss for usage in seen),
        "rss_growth": seen[-1].rss - seen[0].rss,
    }


def _examples(workers: Sequence[dict[str, list[str]]]) -> list[str]:
    """Return descriptions of errors, one of each kind in turn, so that no kind hides another."""
    kinds: dict[str, list[str]] = {}
    for described in workers:
        for kind, texts in described.items():
            kinds.setdefault(kind, []).extend(texts)
    turns = itertools.zip_longest(*kinds.values())
    return [text for turn in turns for text in turn if text is not None][:_EXAMPLES]


def _intervals(plan: Plan, series: dict[int, Interval], duration: float) -> list[dict[str, Any]]:
    """Return a row for each interval, including those in which nothing happened.

    The warm-up, and the time after the measured time, have a row if anything happened
    in them, so that the rows add up to the totals.
    """
    interval, rows = plan.interval, []
    before = summed(part for index, part in series.items() if index < 0)
    if before.latency.count or before.errors:
        rows.append(_row("warm-up", before, -plan.warmup, plan.warmup))
    count = max(0, math.ceil(duration / interval - 1e-6))
    for index in range(count):
        begin = index * interval
        parts = [series[index]] if index in series else []
        if index == count - 1:  # the last row includes anything reported at the very end
            parts += [part for at, part in series.items() if index < at < AFTER]
        length = min(interval, duration - begin)
        rows.append(_row("measured", summed(parts), begin, length))
    after = summed(part for index, part in series.items() if index >= (0 if not count else AFTER))
    if after.latency.count or after.errors:
        rows.append(_row("after", after, duration, after.length))
    return rows


def _row(phase: str, part: Interval, start: float, length: float) -> dict[str, Any]:
    found = part.latency.percentiles((50, 90, 99, 99.9))
    return {
        "phase": phase,
        "start": start,
        "length": length,
        "requests": part.requests,
        "rate": part.requests / length if length and phase != "after" else None,
        "errors": sum(part.errors.values()),
        "unanswered": part.unanswered,
        "late": part.late,
        "p50": found[0] / 1e9 if found else None,
        "p90": found[1] / 1e9 if found else None,
        "p99": found[2] / 1e9 if found else None,
        "p99.9": found[3] / 1e9 if found else None,
        "max": _seconds(part.latency.maximum),
        "histogram": part.latency.to_list() if part.latency.count else [],
    }


def _busy(plan: Plan, within: Interval, duration: float) -> float:
    """Return the share of the time in which each worker had something to do."""
    if not duration:
        return 0.0
    busy = within.cpu / plan.workers
    if plan.busy_poll and plan.rate is not None:  # polling uses a whole core, busy or not
        busy = duration - within.idle / 1e9 / plan.workers
    return min(1.0, max(0.0, busy / duration))


def _client_doubts(result: dict[str, Any], within: Interval) -> Iterable[str]:
    """Yield reasons why the client, not the server, may have been the limit."""
    client, open_loop = result["client"], result["open_loop"]
    if (open_loop is not None or not client["busy_poll"]) and client["busy"] >= _BUSY:
        yield (
            f"the client itself may be the limit: each worker was busy for "
            f"{client['busy']:.0%} of the time (use more --workers, on cores that the server "
            f"does not use)"
        )
    if open_loop is None:
        return
    own = open_loop["late_by_client"]
    if own > _LATE * max(1, within.sent):
        yield (
            f"the client itself was late: it sent {counted(own, 'request')} more than 1 ms after "
            f"they were due, although a connection was free (use more --workers)"
        )


def _warnings(result: dict[str, Any], within: Interval) -> Iterable[str]:
    if result["duration"] == 0:
        yield "the run ended before it measured anything"
        return
    if result["udp"] is not None and result["udp"]["dropped_by_client"]:
        yield (
            f"this machine dropped {counted(result['udp']['dropped_by_client'], 'datagram')}: "
            f"some of the loss is the client's (use more --workers, or a lower --rate)"
        )
    open_loop = result["open_loop"]
    if open_loop is None:
        return
    waited = open_loop["late"] - open_loop["late_by_client"] + open_loop["unsent"]
    if open_loop["unsent"] or waited > _LATE * max(1, within.sent):
        yield (
            f"all connections were busy when {counted(waited, 'request')} "
            f"{'was' if waited == 1 else 'were'} due: the server is too slow, or the run needs "
            f"more --connections (or --depth)"
        )
