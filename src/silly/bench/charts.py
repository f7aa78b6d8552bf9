"""Charts as inline SVG, without scripts or libraries.

Colours and the size of text come from the page's style sheet: classes ``c0`` to
``c4`` for series, ``grid`` and ``tick`` for axes. If there are not too many marks,
each has a title, which browsers show under the mouse pointer.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from silly._values.units import duration_text, text_of_count

__all__ = ["Axis", "bars", "count_axis", "latency_axis", "lines", "percentile_axis", "time_axis"]

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 30, 10, 42
_TITLED = 400  # marks with titles, at most: titles make the page large

Point = tuple[float, float | None, str]
"""x, y (None: a gap) and title."""
Bar = tuple[float, float, float, str]
"""Left x, right x, y and title."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from *low* to *high*, with labels at *ticks*."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    name: str = ""
    is_log: bool = False

    def share(self, value: float) -> float:
        """Return the position of *value* on the axis, 0 to 1; values outside are clipped."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def count_axis(values: Sequence[float], name: str = "") -> Axis:
    """Return an axis from 0 to the greatest of *values*."""
    return _linear(0.0, max((1.0, *values)), name, whole=True)


def time_axis(start: float, end: float) -> Axis:
    """Return an axis for the time from *start* to *end*, in seconds."""
    return _linear(start, end if end > start else start + 1, "seconds", whole=False)


def _linear(low: float, high: float, name: str, *, whole: bool) -> Axis:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * by for by in (1, 2, 5, 10) if power * by >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [
        (at * step, f"{at * step:.{digits}f}" if digits else text_of_count(at * step))
        for at in range(first, last + 1)
    ]
    return Axis(low, high, ticks, name)


def latency_axis(values: Sequence[float], name: str = "") -> Axis:
    """Return a logarithmic axis for latencies in seconds, which begins and ends at powers of 10."""
    seen = [value for value in values if value > 0] or [1e-3]
    low, high = math.floor(math.log10(min(seen))), math.ceil(math.log10(max(seen)))
    high = max(high, low + 1)
    between = (1, 2, 5) if high - low < 3 else (1,)
    values = [10.0**power * by for power in range(low, high) for by in between] + [10.0**high]
    return Axis(10.0**low, 10.0**high, [(each, duration_text(each)) for each in values], name, True)


def percentile_axis(count: int) -> Axis:
    """Return an axis for percentiles of *count* values: 0, 90, 99, 99.9, … at equal distances."""
    high = float(max(10, count))
    ticks = [(1.0, "0"), (2.0, "50"), (10.0, "90")]
    ticks += [
        (10.0**nines, f"99.{'9' * (nines - 2)}".rstrip("."))
        for nines in range(2, math.floor(math.log10(high) + 1e-9) + 1)
    ]
    return Axis(1.0, high, ticks, "percent", is_log=True)


def lines(ident: str, x: Axis, y: Axis, series: Sequence[Sequence[Point]]) -> str:
    """Return a line chart with a line for each of *series*."""
    to_x, to_y = _scales(x, y)
    marks = []
    for number, points in enumerate(series):
        path, is_down = [], False
        for at, value, _ in points:
            if value is None:
                is_down = False
                continue
            # The tiny stroke makes a single point between gaps visible.
            place = f"{to_x(at):.1f} {to_y(value):.1f}"
            path.append(f"L{place}" if is_down else f"M{place}h.01")
            is_down = True
        marks.append(f'<path class="line c{number}" d="{"".join(path)}"/>')
        if len(points) * len(series) <= _TITLED:
            marks += [
                f'<circle class="dot" cx="{to_x(at):.1f}" cy="{to_y(value):.1f}" r="5">'
                f"<title>{html.escape(title)}</title></circle>"
                for at, value, title in points
                if value is not None
            ]
    return _chart(ident, x, y, marks)


def bars(ident: str, x: Axis, y: Axis, drawn: Sequence[Bar], style: str = "c0") -> str:
    """Return a bar chart of *drawn*."""
    to_x, to_y = _scales(x, y)
    marks = []
    for begin, end, value, title in drawn:
        left, top = to_x(begin), to_y(value)
        width, height = max(0.5, to_x(end) - left - 0.5), _HEIGHT - _BOTTOM - top
        tooltip = f"<title>{html.escape(title)}</title>" if len(drawn) <= _TITLED else ""
        if height > 0:
            marks.append(
                f'<rect class="bar {style}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}">{tooltip}</rect>'
            )
    return _chart(ident, x, y, marks)


def _scales(x: Axis, y: Axis) -> tuple[Callable[[float], float], Callable[[float], float]]:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return (lambda v: _LEFT + x.share(v) * width), (lambda v: _TOP + (1 - y.share(v)) * height)


def _chart(ident: str, x: Axis, y: Axis, marks: Sequence[str]) -> str:
    return "\n".join(
        (
            f'<div class="plot" id="{ident}"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
            *_axes(x, y),
            *marks,
            "</svg></div>",
        )
    )


def _axes(x: Axis, y: Axis) -> Iterator[str]:
    to_x, to_y = _scales(x, y)
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value, label in y.ticks:
        at = to_y(value)
        yield f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>'
        yield (
            f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for value, label in x.ticks:
        at = to_x(value)
        yield f'<path class="grid" d="M{at:.1f} {_TOP}V{bottom}"/>'
        yield (
            f'<text class="tick" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>'
        )
    yield (
        f'<text class="tick" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" '
        f'text-anchor="middle">{html.escape(x.name)}</text>'
    )
