"""A result as one self-contained HTML page with graphs.

The graphs are SVG (`silly.bench.charts`). The page has no script, and adapts to the
browser's light or dark mode and to the width of the screen.
"""

from __future__ import annotations

import html as escaping
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from silly._values.units import duration_text, text_of_count
from silly.bench import charts
from silly.bench.histogram import Histogram, middle
from silly.bench.summary import described, lines
from silly.text import printable

__all__ = ["html"]

_NARROW = 1.05  # ratio of the edges of a bar; narrower slots are drawn as one


def html(result: dict[str, Any]) -> str:
    """Return the page for a published *result*."""
    page = resources.files("silly.bench").joinpath("report.html").read_text("utf-8")
    parts = {
        "TITLE": f"silly bench {_safe(result['addr'])}",
        "SUBTITLE": _safe(f"{described(result)}. {result['began'][:19].replace('T', ' ')} UTC"),
        "CARDS": "\n".join(_cards(result)),
        "NOTES": "\n".join(_notes(result)),
        "SUMMARY": "\n".join(map(_safe, lines(result))),
        "COMMAND": _safe(result.get("command", "")),
        "CHARTS": "\n".join(_charts(result)),
        "MADE": _safe(
            f"silly {result['silly']}, {result['engine']} engine, Python {result['python']}"
        ),
    }
    # In one pass, because a value may itself look like a placeholder.
    return re.sub(r"%%([A-Z]+)%%", lambda place: parts[place[1]], page)


def _safe(text: str) -> str:
    """Return *text* escaped for the page; the server may have chosen parts of it."""
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


def _charts(result: dict[str, Any]) -> Iterator[str]:
    yield _panel("Latency by percentile", "to the right: the slowest requests", _curves(result))
    yield _panel("Latency distribution", "how many requests took how long", _distribution(result))
    rows = result["intervals"]
    counted = [row for row in rows if row["phase"] != "warm-up"]
    measured = [row for row in rows if row["phase"] == "measured"]
    yield _panel("Latency over time", "in each interval", _over_time(counted))
    yield _panel(
        "Throughput over time", "correct replies per second",
        charts.bars("rates", _time(measured), charts.count_axis([row["rate"] for row in measured]),
                    [_bar(row, row["rate"], " /s") for row in measured]),
    )  # fmt: skip
    kinds = ", ".join(f"{count} {kind}" for kind, count in result["errors"]["kinds"].items())
    yield _panel(
        "Errors over time", kinds or "none: every reply was right, byte for byte",
        charts.bars("errors", _time(rows), charts.count_axis([row["errors"] for row in rows]),
                    [_bar(row, row["errors"], " errors") for row in rows], "failed"),
    )  # fmt: skip
    if result["open_loop"] is not None:
        yield _panel(
            "Sent late over time", "requests sent more than 1 ms after they were due: they "
            "waited for a connection, or for the client",
            charts.bars("late", _time(rows), charts.count_axis([row["late"] for row in rows]),
                        [_bar(row, row["late"], " sent late") for row in rows], "warned"),
        )  # fmt: skip


def _panel(title: str, hint: str, chart: str) -> str:
    return (
        f'<section class="panel"><h2>{title}</h2><p class="hint">{_safe(hint)}</p>\n'
        f"{chart}</section>"
    )


def _legend(names: Sequence[str]) -> str:
    parts = [f'<span class="c{at}"><i></i>{name}</span>' for at, name in enumerate(names)]
    return f'<p class="hint legend">{"".join(parts)}</p>'


def _time(rows: Sequence[dict[str, Any]]) -> charts.Axis:
    start = min((row["start"] for row in rows), default=0.0)
    return charts.time_axis(start, max((row["start"] + row["length"] for row in rows), default=1.0))


def _bar(row: dict[str, Any], value: float, unit: str) -> charts.Bar:
    begin = row["start"]
    title = f"{_when(row)}: {text_of_count(value)}{unit}"
    return begin, begin + row["length"], value, title


def _when(row: dict[str, Any]) -> str:
    when = f"{row['start']:.3g} s to {row['start'] + row['length']:.3g} s"
    return when if row["phase"] == "measured" else f"{row['phase']}, {when}"


def _over_time(rows: Sequence[dict[str, Any]]) -> str:
    names = ("p50", "p90", "p99", "p99.9", "max")
    series = [
        [
            (
                row["start"] + row["length"] / 2,
                row[name],
                f"{_when(row)}: {name} {duration_text(row[name])}",
            )
            for row in rows
        ]
        for name in names
    ]
    values = [value for points in series for _, value, _ in points if value is not None]
    return _legend(names) + charts.lines("times", _time(rows), charts.latency_axis(values), series)


def _curves(result: dict[str, Any]) -> str:
    named = [("from due time" if result["service"] else "latency", result["latency"])]
    if result["service"]:
        named.append(("from sending", result["service"]))
    series = [_curve(latency) for _, latency in named]
    values = [value for points in series for _, value, _ in points if value is not None]
    most = max(latency["count"] for _, latency in named)
    legend = _legend([name for name, _ in named]) if len(named) > 1 else ""
    x, y = charts.percentile_axis(most), charts.latency_axis(values)
    return legend + charts.lines("curve", x, y, series)


def _curve(latency: dict[str, Any]) -> list[charts.Point]:
    """Return the latencies by percentile, as far as at least one request lies above it."""
    if not latency["count"]:
        return []
    histogram = Histogram.from_list(latency["histogram"])
    percents = [100 * (1 - 10 ** -(step / 20)) for step in range(101)]
    percents = [p for p in percents if histogram.count * (1 - p / 100) >= 1] or [0.0]
    points: list[charts.Point] = [
        (1 / (1 - percent / 100), value / 1e9, f"p{percent:.5g}: {duration_text(value / 1e9)}")
        for percent, value in zip(percents, histogram.percentiles(percents), strict=True)
    ]
    most = histogram.high / 1e9
    return [*points, (float(histogram.count), most, f"max: {duration_text(most)}")]


def _distribution(result: dict[str, Any]) -> str:
    """Return the chart of how many requests took how long, in steps of 5% or more."""
    edges: list[tuple[float, int]] = []
    latency = result["latency"]
    if latency["count"]:
        for slot, count in Histogram.from_list(latency["histogram"]).slots():
            value = middle(slot) / 1e9
            if edges and value < edges[-1][0] * _NARROW:
                edges[-1] = (edges[-1][0], edges[-1][1] + count)
            else:
                edges.append((value, count))
    drawn = [
        (value, value * _NARROW, float(count), f"about {duration_text(value)}: {count}")
        for value, count in edges
    ]
    x = charts.latency_axis([value for value, _ in edges], "latency")
    return charts.bars("bars", x, charts.count_axis([count for _, count in edges]), drawn)
