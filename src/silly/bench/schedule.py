"""Load over time: when each request is due, or how many connections there should be.

A ramp starts at a level and goes through stages, each in a straight line to the
stage's level; it stays at the last one. The level is requests per second (`Schedule`
says when each of them is due) or connections (`Ramp.level`).

Times are seconds from the start. An open loop keeps to the schedule even when the
server stalls: that makes the stall visible (coordinated omission).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from silly._values import units

__all__ = ["Ramp", "Schedule", "Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """For *seconds*, the level goes in a straight line to *target*."""

    seconds: float
    target: float

    @classmethod
    def parse(cls, text: str) -> Stage:
        """Parse a stage such as ``"30s:100"``. Raises ValueError."""
        time, colon, target = text.partition(":")
        try:
            if not colon:
                raise ValueError(text)
            stage = cls(units.duration(time), units.rate(target))
        except ValueError:
            raise ValueError(
                f"{text!r} is not a stage such as 30s:100 (within 30 s, up or down to 100)"
            ) from None
        if stage.seconds == 0:
            raise ValueError(f"stage {text!r} has no duration")
        return stage


class Ramp:
    """A level over time: *start*, then through *stages*."""

    def __init__(self, start: float, stages: Sequence[Stage] = ()) -> None:
        self.start = start
        self.stages = tuple(stages)
        self.seconds = sum(stage.seconds for stage in stages)

    def level(self, time: float) -> float:
        """Return the level at *time*."""
        level = self.start
        for stage in self.stages:
            if time < stage.seconds:
                return level + (stage.target - level) * max(0.0, time) / stage.seconds
            time -= stage.seconds
            level = stage.target
        return level

    @property
    def highest(self) -> float:
        """The highest level."""
        return max((self.start, *(stage.target for stage in self.stages)))


class Schedule:
    """When requests are due: the first at the start, the next as the rate adds up to one more.

    If *parts* workers share the load, worker *part* has every *parts*-th request.
    """

    def __init__(self, ramp: Ramp, part: int = 0, parts: int = 1) -> None:
        self.ramp = ramp
        self._part = part
        self._parts = parts
        self._pieces: list[tuple[float, float, float, float, float]] = []
        time = area = 0.0
        level = ramp.start
        for stage in ramp.stages:
            slope = (stage.target - level) / stage.seconds
            grown = area + (level + stage.target) / 2 * stage.seconds
            self._pieces.append((time, area, grown, level, slope))
            time, area, level = time + stage.seconds, grown, stage.target
        self._pieces.append((time, area, math.inf, level, 0.0))

    def due(self, number: int) -> float:
        """Return when request *number* (0, 1, …) is due; infinity for never."""
        wanted = float(number * self._parts + self._part)
        for time, area, grown, level, slope in self._pieces:
            if wanted < grown or grown == math.inf:
                return time + _time_to(wanted - area, level, slope)
        return math.inf  # pragma: no cover - the last piece has no end

    def count(self, time: float) -> int:
        """Return how many requests are due before *time*."""
        low, high = 0, 1
        while self.due(high - 1) < time:
            low, high = high, high * 2
        while low < high:
            number = (low + high) // 2
            if self.due(number) < time:
                low = number + 1
            else:
                high = number
        return low


def _time_to(area: float, level: float, slope: float) -> float:
    """Return after how many seconds *level*, growing by *slope*, adds up to *area*."""
    if area <= 0:
        return 0.0
    if slope == 0:
        return area / level if level > 0 else math.inf
    # level*t + slope/2*t² = area, solved without cancellation
    return 2 * area / (level + math.sqrt(max(0.0, level * level + 2 * slope * area)))
