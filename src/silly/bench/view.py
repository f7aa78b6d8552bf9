"""What is shown while a run goes on: a live view on a terminal, else a line for each interval.

Needs rich (the extra ``silly-net[cli]``).
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Final, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from silly._units import duration_text, text_of_count
from silly.bench.plan import Plan
from silly.bench.recorder import AFTER, Interval

__all__ = ["Lines", "Quiet", "View"]

_BARS: Final = "▁▂▃▄▅▆▇█"
_KEPT: Final = 400  # intervals that a graph may show
_NARROW: Final = 60  # columns, below which the graphs stand alone


class Quiet:
    """Shows nothing."""

    period = 0.5

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def connecting(self) -> None:
        """Show nothing."""

    def started(self, plan: Plan) -> None:
        """Show nothing."""

    def interval(self, interval: Interval) -> None:
        """Show nothing."""

    def tick(self, seconds: float) -> None:
        """Show nothing."""


class Lines(Quiet):
    """Prints one line for each interval, for logs."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._plan: Plan | None = None

    def started(self, plan: Plan) -> None:
        """Remember what the intervals are of."""
        self._plan = plan

    def interval(self, interval: Interval) -> None:
        """Print the line of *interval*."""
        if self._plan is None or (interval.index in (-1, AFTER) and not interval.requests):
            return
        when = f"{(interval.index + 1) * self._plan.interval:g} s"
        if interval.index < 0:
            when = "warm-up"
        elif interval.index == AFTER:
            when = "after"
        found = interval.latency.percentiles((50, 99))
        p50, p99 = (value / 1e9 for value in found) if found else (None, None)
        errors = sum(interval.errors.values())
        print(
            f"{when:>8}  {text_of_count(_rate(interval)):>10} /s  "
            f"p50 {duration_text(p50):>8}  p99 {duration_text(p99):>8}  "
            f"max {duration_text(_seconds(interval.latency.maximum)):>8}  errors {errors}",
            file=self._file,
            flush=True,
        )


def _rate(interval: Interval) -> float:
    return interval.requests / interval.length if interval.length > 0 else 0.0


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


class View(Quiet):
    """A live view: progress and remaining time, figures of the last interval, and graphs."""

    period = 0.25

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._plan: Plan | None = None
        self._seconds = 0.0
        self._requests = self._errors = 0
        self._last: Interval | None = None
        self._rates: deque[float] = deque(maxlen=_KEPT)
        self._tails: deque[float] = deque(maxlen=_KEPT)
        self._live = Live(
            self, console=console, auto_refresh=False, transient=True, redirect_stderr=False,
            redirect_stdout=False,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def connecting(self) -> None:
        """Show that there are no connections yet."""
        self._live.refresh()

    def started(self, plan: Plan) -> None:
        """Begin to show progress."""
        self._plan = plan
        self._live.refresh()

    def interval(self, interval: Interval) -> None:
        """Show the figures of *interval*."""
        self._errors += sum(interval.errors.values())
        if interval.requests and self._plan is not None:
            self._last = interval
            if interval.index >= 0:
                self._requests += interval.requests
            if interval.index != AFTER:
                self._rates.append(_rate(interval))
                self._tails.append((interval.latency.percentile(99) or 0) / 1e9)

    def tick(self, seconds: float) -> None:
        """Show that time goes by."""
        self._seconds = seconds
        self._live.refresh()

    # ------------------------------------------------------------------ the picture

    def __rich__(self) -> RenderableType:
        width = self._console.width
        rows: list[RenderableType] = [_cut(Text(self._title, style="bold"))]
        if self._plan is None:
            return Group(*rows, Text("connecting …"))
        rows += [self._progress(self._plan, width), Text(""), self._figures(width), Text("")]
        graph = max(8, width - 26) if width >= _NARROW else max(8, width - 2)
        rate = text_of_count(self._rates[-1]) + " /s" if self._rates else "-"
        tail = duration_text(self._tails[-1]) if self._tails else "-"
        for name, now, values, style in (
            ("rate", rate, self._rates, "green"),
            ("p99", tail, self._tails, "yellow"),
        ):
            line = Text(f"{name:<6}{now:>14}  ")
            if width < _NARROW:
                rows.append(_cut(line))
                line = Text("  ")
            line.append(sparkline(list(values)[-graph:]), style=style)
            rows.append(_cut(line))
        return Group(*rows)

    def _progress(self, plan: Plan, width: int) -> RenderableType:
        measured, warmup = plan.measured_seconds, plan.warmup
        if self._seconds < warmup:
            share, told = self._seconds / warmup, f"warm-up, {_clock(warmup - self._seconds)} left"
        elif measured is not None:
            gone = min(measured, self._seconds - warmup)
            share = gone / measured
            told = f"{share:4.0%}  {_clock(measured - gone)} left"
        else:
            share = min(1.0, self._requests / (plan.requests or 1))
            left = (self._seconds - warmup) * (1 / share - 1) if share else None
            told = f"{share:4.0%}  " + (f"about {_clock(left)} left" if left is not None else "")
        grid = Table.grid(padding=(0, 1))
        bar = max(6, min(50, width - len(told) - 2))
        grid.add_row(ProgressBar(total=1, completed=share, width=bar), _cut(Text(told)))
        return grid

    def _figures(self, width: int) -> RenderableType:
        last = self._last
        found = last.latency.percentiles((50, 90, 99)) if last is not None else []
        p50, p90, p99 = (value / 1e9 for value in found) if found else (None, None, None)
        errors = Text(text_of_count(self._errors), style="bold red" if self._errors else "")
        cells: list[tuple[str, Text]] = [
            ("requests", Text(text_of_count(self._requests))),
            ("errors", errors),
            ("p50", Text(duration_text(p50))),
            ("p90", Text(duration_text(p90))),
            ("p99", Text(duration_text(p99))),
            ("max", Text(duration_text(_seconds(last.latency.maximum) if last else None))),
        ]
        shown = 6 if width >= _NARROW else 3
        grid = Table.grid(padding=(0, 2), pad_edge=False)
        for _ in range(min(shown, len(cells))):
            grid.add_column(justify="right", no_wrap=True)
        for at in range(0, len(cells), shown):
            part = cells[at : at + shown]
            grid.add_row(*(Text(name, style="dim") for name, _ in part))
            grid.add_row(*(value for _, value in part))
        return grid


def _cut(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def sparkline(values: list[float]) -> str:
    """Return one bar for each of *values*, from nothing to the highest of them."""
    most = max(values, default=0) or 1
    return "".join(_BARS[min(7, int(value / most * 7.999))] for value in values)
