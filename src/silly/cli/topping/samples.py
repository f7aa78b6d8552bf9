"""What ``silly top`` shows: numbers of a moment, and rates since the moment before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from silly.cli.topping.source import Answers

__all__ = ["sample"]

_RATES: Final = {"accepted": "accepted_rate", "bytes_in": "in_rate", "bytes_out": "out_rate"}
_SHOWN: Final = ("connections", "accepted", "bytes_in", "bytes_out", "unsent_bytes", "backlog_used")


def sample(now: Answers, before: Answers | None) -> dict[str, Any]:
    """Return the numbers as JSON values: ``health``, ``processes`` and ``listeners``.

    Rates are per second since *before*; of a process or a listener that was not there then,
    and without *before*, they are None. ``cpu`` is a share of one processor, ``lag`` the mean
    delay of a timer of the event loop, in seconds.
    """
    seconds = now.at - before.at if before is not None else 0.0
    processes = {each["pid"]: each for each in before.processes} if before is not None else {}
    listeners = before.stats.get("listeners", {}) if before is not None else {}
    return {
        "health": now.health,
        "processes": [
            _process(each, processes.get(each["pid"]), seconds) for each in now.processes
        ],
        "listeners": [
            _listener(addr, each, listeners.get(addr), seconds)
            for addr, each in now.stats.get("listeners", {}).items()
        ],
    }


def _process(now: dict[str, Any], before: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
    lag = now["lag_seconds"]
    earlier = {"count": 0, "sum": 0.0} if before is None else before["lag_seconds"]
    count = lag["count"] - earlier["count"]
    return {
        **{key: value for key, value in now.items() if key not in {"lag_seconds", "cpu_seconds"}},
        **_rates(now, before, seconds),
        "cpu": _rate(now, before, "cpu_seconds", seconds),
        "lag": (lag["sum"] - earlier["sum"]) / count if count > 0 else None,
    }


def _listener(
    addr: str, now: dict[str, Any], before: dict[str, Any] | None, seconds: float
) -> dict[str, Any]:
    return {
        "listener": addr,
        **{key: now.get(key) for key in _SHOWN},
        "refused": sum(now.get("refused", {}).values()),
        "errors": sum(now.get("handler_errors", {}).values()),
        **_rates(now, before, seconds),
    }


def _rates(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float
) -> dict[str, float | None]:
    return {name: _rate(now, before, key, seconds) for key, name in _RATES.items()}


def _rate(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, key: str, seconds: float
) -> float | None:
    if before is None or seconds <= 0 or now.get(key) is None or before.get(key) is None:
        return None
    return float(max(0.0, (now[key] - before[key]) / seconds))
