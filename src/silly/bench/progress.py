"""The progress of a run as text: a line for each interval, or nothing."""

from __future__ import annotations

from typing import Self, TextIO

from silly._values.units import duration_text, text_of_count
from silly.bench.plan import Plan
from silly.bench.recorder import AFTER, Interval

__all__ = ["Lines", "Quiet", "in_seconds"]


class Quiet:
    """Shows nothing."""

    period = 0.5

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connecting(self) -> None:
        """Show nothing."""

    def started(self, plan: Plan) -> None:
        """Show nothing."""

    def interval(self, interval: Interval) -> None:
        """Show nothing."""

    def early(self, interval: Interval) -> None:
        """Show nothing."""

    def tick(self, seconds: float) -> None:
        """Show nothing."""


class Lines(Quiet):
    """Prints one line for each interval, for logs."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._plan: Plan | None = None

    def started(self, plan: Plan) -> None:
        """Store the plan, for the times of the intervals."""
        self._plan = plan

    def interval(self, interval: Interval) -> None:
        """Print a line for *interval*."""
        errors = sum(interval.errors.values())
        is_empty = not (interval.latency.count or errors)
        if self._plan is None or (interval.index in (-1, AFTER) and is_empty):
            return
        when = f"{round(interval.index * self._plan.interval + interval.length, 3):g} s"
        rate = text_of_count(interval.rate)
        if interval.index < 0:
            when = "warm-up"
        elif interval.index == AFTER:
            when, rate = "after", "-"
        found = interval.latency.percentiles((50, 99))
        p50, p99 = (value / 1e9 for value in found) if found else (None, None)
        print(
            f"{when:>8}  {rate:>10} /s  "
            f"p50 {duration_text(p50):>8}  p99 {duration_text(p99):>8}  "
            f"max {duration_text(in_seconds(interval.latency.maximum)):>8}  errors {errors}",
            file=self._file,
            flush=True,
        )


def in_seconds(nanoseconds: float | None) -> float | None:
    """Return *nanoseconds* in seconds."""
    return None if nanoseconds is None else nanoseconds / 1e9
