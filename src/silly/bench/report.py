"""A result as one HTML page with graphs, which needs nothing else: no network, no other file.

plotly.js (MIT; from the package plotly, extra ``silly-net[cli]``) is put into
the page, and the page is told what is in the result. It follows the reader's
choice of light or dark, and the width of the screen.
"""

from __future__ import annotations

import html as escaping
import json
import re
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from silly._units import duration_text, text_of_count
from silly.bench.histogram import Histogram, middle
from silly.bench.summary import described, lines
from silly.text import printable

__all__ = ["html"]

_NARROW = 1.05  # of neighbouring slots that are drawn as one bar


def html(result: dict[str, Any]) -> str:
    """Return the page for *result*, as published."""
    page = resources.files("silly.bench").joinpath("report.html").read_text("utf-8")
    parts = {
        "TITLE": f"silly bench {_safe(result['addr'])}",
        "SUBTITLE": _safe(f"{described(result)}. {result['began'][:19].replace('T', ' ')} UTC"),
        "CARDS": "\n".join(_cards(result)),
        "NOTES": "\n".join(_notes(result)),
        "SUMMARY": "\n".join(map(_safe, lines(result))),
        "PLAN": "\n".join(_plan(result)),
        "DATA": json.dumps(_data(result)).replace("<", "\\u003c"),  # no tag, no comment
        "PLOTLY": get_plotlyjs().replace("</script", "<\\/script"),
    }
    # In one go: what is put in may look like a place to put something in, too.
    return re.sub(r"%%([A-Z]+)%%", lambda place: parts[place[1]], page)


def _safe(text: str) -> str:
    """Return *text*, some of which the server chose, for the page."""
    return escaping.escape(printable(text))


def _cards(result: dict[str, Any]) -> list[str]:
    percentiles = result["latency"]["percentiles"]
    errors = result["errors"]["total"]
    cards = [
        ("requests / s", text_of_count(result["rate"]), ""),
        ("p50", duration_text(percentiles.get("50")), ""),
        ("p99", duration_text(percentiles.get("99")), ""),
        ("max", duration_text(result["latency"]["max"]), ""),
        ("requests", text_of_count(result["requests"]), ""),
        ("errors", text_of_count(errors), "bad" if errors else "good"),
    ]
    return [
        f'<div class="card {kind}"><b>{_safe(value)}</b><span>{name}</span></div>'
        for name, value, kind in cards
    ]


def _notes(result: dict[str, Any]) -> list[str]:
    notes = []
    if result["outcome"] != "finished":
        notes.append(("bad", f"This run was {result['outcome']}. {result['why']}"))
    notes += [
        ("good" if claim["holds"] else "bad",
         f"{'holds' if claim['holds'] else 'fails'}: {claim['text']} ({claim['actual']})")
        for claim in result["claims"]
    ]  # fmt: skip
    notes += [("warn", warning) for warning in result["warnings"]]
    notes += [("bad", text) for text in result["errors"]["first"]]
    return [f'<p class="note {kind}">{_safe(text)}</p>' for kind, text in notes]


def _plan(result: dict[str, Any]) -> list[str]:
    told = {
        **result["plan"],
        "silly": f"{result['silly']}, {result['engine']} engine, Python {result['python']}",
    }
    return [
        f"<tr><th>{_safe(name.replace('_', ' '))}</th>"
        f"<td>{_safe(json.dumps(value, ensure_ascii=False))}</td></tr>"
        for name, value in told.items()
        if value not in (None, [], "")
    ]


def _data(result: dict[str, Any]) -> dict[str, Any]:
    views = [("from due time" if result["service"] else "latency", result["latency"])]
    if result["service"]:
        views.append(("from sending", result["service"]))
    intervals = [
        {name: value for name, value in part.items() if name != "histogram"}
        for part in result["intervals"]
    ]
    return {
        "curves": [{"name": name, **_curve(latency)} for name, latency in views],
        "bars": _bars(result["latency"]),
        "intervals": intervals,
        "kinds": result["errors"]["kinds"],
    }


def _curve(latency: dict[str, Any]) -> dict[str, list[float]]:
    """Return latencies by percentile, as far into the tail as there are requests."""
    if not latency["count"]:
        return {"x": [], "y": [], "percent": []}
    histogram = Histogram.from_list(latency["histogram"])
    percents = [100 * (1 - 10 ** -(step / 20)) for step in range(101)]
    percents = [p for p in percents if histogram.count * (1 - p / 100) >= 1] or [0.0]
    found = histogram.percentiles(percents)
    return {
        "x": [1 / (1 - percent / 100) for percent in percents] + [float(histogram.count) + 1e-9],
        "y": [value / 1e6 for value in found] + [histogram.high / 1e6],
        "percent": [round(percent, 5) for percent in percents] + [100.0],
    }


def _bars(latency: dict[str, Any]) -> dict[str, list[float]]:
    """Return how many requests took how long, in steps of at least five hundredths."""
    edges: list[tuple[float, int]] = []
    if latency["count"]:
        for slot, count in Histogram.from_list(latency["histogram"]).slots():
            value = middle(slot) / 1e6
            if edges and value < edges[-1][0] * _NARROW:
                edges[-1] = (edges[-1][0], edges[-1][1] + count)
            else:
                edges.append((value, count))
    return {"x": [value for value, _ in edges], "y": [float(count) for _, count in edges]}
