"""The progress of a run as a live view on a terminal.

Needs rich (the extra ``silly-net[cli]``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from silly._terminal.graph import graph
from silly._terminal.live_view import LiveView, cut
from silly._values.units import duration_text, text_of_count
from silly.bench.plan import Plan
from silly.bench.progress import Quiet, in_seconds
from silly.bench.recorder import AFTER, Interval

__all__ = ["View"]

_KEPT: Final = 400  # intervals that a graph may show
_TALL: Final = 30  # rows of the terminal, from which graphs have more than one row
_NARROW: Final = 60  # columns, below which a graph has its own line


class View(LiveView, Quiet):
    """A live view: progress, totals, figures of the last interval, and graphs."""

    period = 0.25

    def __init__(self, console: Console, title: str) -> None:
        super().__init__(console, redirects=False)
        self._title = title
        self._plan: Plan | None = None
        self._seconds = 0.0
        self._requests = self._errors = self._late = 0
        self._last: Interval | None = None
        self._silent = 0.0  # seconds without a reply
        self._rates: deque[float | None] = deque(maxlen=_KEPT)
        self._tails: deque[float | None] = deque(maxlen=_KEPT)

    def connecting(self) -> None:
        """Show that the workers are connecting."""
        self.refresh()

    def started(self, plan: Plan) -> None:
        """Start to show progress."""
        self._plan = plan
        self.refresh()

    def interval(self, interval: Interval) -> None:
        """Show the figures of *interval*."""
        self._errors += sum(interval.errors.values())
        if interval.index >= 0:
            self._requests += interval.requests
            self._late += interval.late
        if interval.index != AFTER:
            self._last = interval
            self._silent = 0.0 if interval.requests else self._silent + interval.length
            self._rates.append(interval.rate)
            self._tails.append(in_seconds(interval.latency.percentile(99)))

    def early(self, interval: Interval) -> None:
        """Show the first figures, until the first interval is complete."""
        if not self._rates:
            self._last = interval

    def tick(self, seconds: float) -> None:
        """Show the time that has passed."""
        self._seconds = seconds
        self.refresh()

    # ------------------------------------------------------------------ the picture

    def __rich__(self) -> RenderableType:
        width, height = self._console.size
        rows: list[RenderableType] = [cut(Text(self._title, style="bold"))]
        if self._plan is None:
            return Group(*rows, Text("connecting …"))
        rows += [self._progress(self._plan, width), Text("")]
        rows += self._figures(self._plan, width)
        if self._silent:
            rows.append(cut(Text(f"no reply for {duration_text(self._silent)}", style="bold red")))
        rows.append(Text(""))
        columns = max(8, width - 26) if width >= _NARROW else max(8, width - 2)
        tall = 1 if height < _TALL else min(8, (height - _TALL) // 4 + 2)
        last = self._last
        rate = text_of_count(last.rate) + " /s" if last else "-"
        tail = duration_text(in_seconds(last.latency.percentile(99))) if last else "-"
        for name, now, values, style in (
            ("rate", rate, self._rates, "green"),
            ("p99", tail, self._tails, "yellow"),
        ):
            bars = graph(self._stretched(self._plan, list(values), columns), tall)
            label = f"{name:<6}{now:>14}  "
            if width < _NARROW:
                rows.append(cut(Text(label)))
                label = "  "
            for bar in bars:
                is_last = bar is bars[-1]
                line = Text(label if is_last else " " * len(label))
                rows.append(cut(line.append(bar, style=style)))
        return Group(*rows)

    def _stretched(self, plan: Plan, values: list[float | None], width: int) -> list[float | None]:
        """Repeat each of *values* so that the run fills the graph; return the last *width*."""
        seconds = plan.measured_seconds
        count = len(values)
        if seconds is not None:
            count = max(count, round((plan.warmup + seconds) / plan.interval))
        times = max(1, width // max(1, count))
        return [value for value in values for _ in range(times)][-width:]

    def _progress(self, plan: Plan, width: int) -> RenderableType:
        measured, warmup = plan.measured_seconds, plan.warmup
        if self._seconds < warmup:
            share, text = self._seconds / warmup, f"warm-up, {_clock(warmup - self._seconds)} left"
        elif measured is not None:
            gone = min(measured, self._seconds - warmup)
            share = gone / measured
            text = f"{share:4.0%}  {_clock(measured - gone)} left"
        else:
            share = min(1.0, self._requests / (plan.requests or 1))
            left = (self._seconds - warmup) * (1 / share - 1) if share else None
            text = f"{share:4.0%}  " + (f"about {_clock(left)} left" if left is not None else "")
        grid = Table.grid(padding=(0, 1))
        bar = max(6, min(50, width - len(text) - 2))
        grid.add_row(ProgressBar(total=1, completed=share, width=bar), cut(Text(text)))
        return grid

    def _figures(self, plan: Plan, width: int) -> Iterator[RenderableType]:
        last = self._last
        found = last.latency.percentiles((50, 90, 99)) if last is not None else []
        p50, p90, p99 = (value / 1e9 for value in found) if found else (None, None, None)
        totals: list[tuple[str, Text]] = [
            ("requests", Text(text_of_count(self._requests))),
            ("errors", Text(text_of_count(self._errors), "bold red" if self._errors else "")),
            ("connections", Text(text_of_count(last.connections) if last else "-")),
        ]
        latest: list[tuple[str, Text]] = [
            ("p50", Text(duration_text(p50))),
            ("p90", Text(duration_text(p90))),
            ("p99", Text(duration_text(p99))),
            ("max", Text(duration_text(in_seconds(last.latency.maximum) if last else None))),
        ]
        if plan.open_ramp is not None:
            target = plan.open_ramp.level(self._seconds - plan.warmup * bool(plan.stages))
            totals.append(("sent late", Text(text_of_count(self._late))))
            latest.insert(0, ("target", Text(f"{text_of_count(target)} /s")))
            latest.append(("behind", Text(duration_text(last.max_lag / 1e9 if last else None))))
        length = last.length if last is not None else plan.interval
        yield from _labelled("total", totals, width)
        yield from _labelled(f"last {duration_text(length)}", latest, width)


def _labelled(label: str, cells: list[tuple[str, Text]], width: int) -> Iterator[RenderableType]:
    """Yield *cells* after *label*, names above values; on a narrow terminal, in parts."""
    shown = len(cells) if width >= _NARROW else 3
    if width < _NARROW:
        yield cut(Text(label, style="dim"))
    for at in range(0, len(cells), shown):
        grid = Table.grid(padding=(0, 2), pad_edge=False)
        part = cells[at : at + shown]
        if width >= _NARROW:
            grid.add_column(width=12, no_wrap=True)
            part = [("", Text(label, style="dim")), *part]
        for _ in range(len(part) - len(grid.columns)):
            grid.add_column(justify="right", no_wrap=True)
        grid.add_row(*(Text(name, style="dim") for name, _ in part))
        grid.add_row(*(value for _, value in part))
        yield grid


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
