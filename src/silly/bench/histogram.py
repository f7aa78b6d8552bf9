"""A log-linear histogram of latencies in nanoseconds (like HdrHistogram).

Values of 256 ns and more keep their eight leading bits, so a slot is never wider than
1/128 of its values; below that, each nanosecond has its own slot. A percentile is the
middle of its slot, within `ERROR` of a recorded value. Merging adds counts, and loses
nothing.

The package hdrhistogram is not used because recording a value is many times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final, Self

__all__ = ["ERROR", "Histogram"]

_BITS: Final = 8
_HALF: Final = _BITS - 1
_EXACT: Final = (1 << _BITS) - 1
_LONGEST: Final = (1 << 43) - 1  # nanoseconds: 2.4 hours; longer ones count as this
_SLOTS: Final = ((43 - _BITS) << _HALF) + (1 << _BITS)

ERROR: Final = 1 / 256
"""How far a percentile may be from a recorded value, as a share of it."""


class Histogram:
    """Counts of values by magnitude, with the exact minimum, maximum and sum."""

    __slots__ = ("counts", "count", "high", "low", "total")  # noqa: RUF023 - as documented

    def __init__(self) -> None:
        self.counts = [0] * _SLOTS
        self.count = 0
        self.total = 0
        self.low = _LONGEST
        self.high = 0

    def record(self, value: int, count: int = 1) -> None:
        """Count *value*, in nanoseconds, *count* times; less than 0 counts as 0."""
        # Called for each reply: min() and max() would take twice the time.
        if value > _EXACT:
            if value > _LONGEST:  # noqa: PLR1730
                value = _LONGEST
            shift = value.bit_length() - 8
            self.counts[(shift << 7) + (value >> shift)] += count
        else:
            if value < 0:  # noqa: PLR1730
                value = 0
            self.counts[value] += count
        self.count += count
        self.total += value * count
        if value > self.high:  # noqa: PLR1730
            self.high = value
        if value < self.low:  # noqa: PLR1730
            self.low = value

    def merge(self, other: Histogram) -> None:
        """Add the counts of *other*."""
        for slot, count in other.slots():
            self.counts[slot] += count
        self.count += other.count
        self.total += other.total
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Self:
        """Return the sum of *parts*, as a new histogram."""
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole

    @property
    def minimum(self) -> int | None:
        """The least value, exactly; None if there is none."""
        return self.low if self.count else None

    @property
    def maximum(self) -> int | None:
        """The greatest value, exactly; None if there is none."""
        return self.high if self.count else None

    @property
    def mean(self) -> float | None:
        """The mean of the values, exactly; None if there is none."""
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """Return the least value that *percent* of all values do not exceed; None if empty."""
        found = self.percentiles((percent,))
        return found[0] if found else None

    def percentiles(self, percents: Iterable[float]) -> list[float]:
        """Return the percentiles for ascending *percents*, in one pass; [] if empty."""
        if not self.count:
            return []
        found: list[float] = []
        slots = self.slots()
        slot, seen = next(slots)
        for percent in percents:
            rank = max(1, math.ceil(percent / 100 * self.count - 1e-9))
            while seen < rank:
                slot, count = next(slots)
                seen += count
            found.append(self.high if rank >= self.count else self._within(middle(slot)))
        return found

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def slots(self) -> Iterator[tuple[int, int]]:
        """Yield the slots that are not empty, in ascending order, with their counts."""
        if not self.count:
            return iter(())
        first, last = _slot(self.low), _slot(self.high) + 1
        counts = enumerate(self.counts[first:last], first)
        return ((slot, count) for slot, count in counts if count)

    # ---------------------------------------------------------------- as plain data

    def to_list(self) -> list[int]:
        """Return the histogram as a flat list of ints, for `from_list`."""
        flat = [self.low if self.count else 0, self.high, self.total]
        for slot, count in self.slots():
            flat += (slot, count)
        return flat

    @classmethod
    def from_list(cls, flat: list[int]) -> Self:
        """Return the histogram that `to_list` has written. Raises ValueError for other lists."""
        if len(flat) < 3 or len(flat) % 2 == 0:
            raise ValueError("not a histogram")
        made = cls()
        low, made.high, made.total = flat[:3]
        for slot, count in zip(flat[3::2], flat[4::2], strict=True):
            if not 0 <= slot < _SLOTS or count < 0:
                raise ValueError("not a histogram")
            made.counts[slot] += count
            made.count += count
        if made.count:
            made.low = low
            if [_slot(low), _slot(made.high)] != [flat[3], flat[-2]]:
                raise ValueError("not a histogram")
        return made


def _slot(value: int) -> int:
    """Return the slot of *value*; `Histogram.record` has this inlined."""
    shift = max(0, value.bit_length() - _BITS)
    return (shift << _HALF) + (value >> shift)


def middle(slot: int) -> float:
    """Return the middle of *slot*, in nanoseconds."""
    shift = (slot >> _HALF) - 1
    if shift <= 0:
        return float(slot)
    least = (slot - (shift << _HALF)) << shift
    return least + ((1 << shift) - 1) / 2
