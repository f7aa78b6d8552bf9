"""Claims about a result: ``p99<5ms``, ``errors==0``, ``rate>=10k``.

A claim names a figure, a comparison and a value in the figure's unit. Figures are
read from the published result (schema ``result.schema.json``).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from silly._values import units

__all__ = ["Claim", "figure"]

_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_TIMES: Final = ("min", "mean", "max")
_COUNTS: Final = ("requests", "errors", "unanswered", "late", "unsent")
_FORMS: Final = (
    "FIGURE COMPARISON VALUE such as 'p99<5ms', 'errors==0' or 'rate>=10k'; figures: "
    "p50 to p99.999, min, mean, max (durations), rate (per second), requests, errors, "
    "unanswered, late, unsent, error_rate (a share such as 1%), client_cpu (cores), "
    "rss (bytes), cpu_per_request (a duration)"
)
_CLAIM: Final = re.compile(r"\s*([a-z_]+(?:\d+(?:\.\d+)?)?)\s*(<=|>=|==|!=|<|>)\s*(\S.*?)\s*")


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, as text and parsed."""

    text: str
    name: str
    comparison: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Claim:
        """Parse *text*. Raises ValueError, which says what was expected."""
        found = _CLAIM.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a claim: expected {_FORMS}")
        name, comparison, value = found.groups()
        try:
            return cls(text.strip(), name, comparison, _reader(name)(value))
        except ValueError as error:
            raise ValueError(f"{text!r} is not a claim: {error}; expected {_FORMS}") from None

    def holds(self, result: dict[str, Any]) -> bool:
        """Return whether *result* satisfies the claim; False if the figure was not measured."""
        actual = figure(result, self.name)
        return actual is not None and _COMPARE[self.comparison](actual, self.value)

    def actual_text(self, result: dict[str, Any]) -> str:
        """Return the figure in *result*, as text with its unit."""
        actual = figure(result, self.name)
        if actual is None:
            return "not measured"
        if _percent(self.name) is not None or self.name in (*_TIMES, "cpu_per_request"):
            return units.duration_text(actual)
        if self.name == "rss":
            return units.size_text(actual)
        return f"{actual:g}" if self.name in ("error_rate", "client_cpu") else f"{actual:.10g}"


def _percent(name: str) -> float | None:
    found = re.fullmatch(r"p(\d+(?:\.\d+)?)", name)
    if found is None or not 0 < float(found[1]) <= 100:
        return None
    return float(found[1])


def _reader(name: str) -> Callable[[str], float]:
    if _percent(name) is not None or name in (*_TIMES, "cpu_per_request"):
        return units.duration
    if name in _COUNTS:
        return units.count
    if name == "rate":
        return units.rate
    if name == "rss":
        return units.size
    if name in ("error_rate", "client_cpu"):
        return units.number
    raise ValueError(f"unknown figure {name!r}")


def figure(result: dict[str, Any], name: str) -> float | None:
    """Return the figure *name* of *result*; None if it was not measured.

    Percentiles that are not published are computed from the histogram.
    """
    percent = _percent(name)
    latency = result["latency"]
    value: Any
    if percent is not None:
        value = latency["percentiles"].get(f"{percent:g}")
        if value is None and latency["histogram"]:
            from silly.bench.histogram import Histogram  # noqa: PLC0415 - rarely needed

            found = Histogram.from_list(latency["histogram"]).percentile(percent)
            value = None if found is None else found / 1e9
    elif name in _TIMES:
        value = latency[name]
    elif name in ("late", "unsent"):
        value = result["open_loop"] and result["open_loop"][name]
    elif name in ("rss", "cpu_per_request"):
        value = result["server"] and result["server"][name]
    elif name == "errors":
        value = result["errors"]["total"]
    elif name == "error_rate":
        tried = result["requests"] + result["errors"]["total"]
        value = result["errors"]["total"] / tried if tried else None
    else:
        value = name if name in ("requests", "rate", "unanswered") else None
        value = result["client"]["cpu"] if value is None else result[value]
    return None if value is None else float(value)
