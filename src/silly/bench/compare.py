"""Comparison of two results: ratios, with confidence intervals.

The intervals of each run are grouped into at most `_BLOCKS` blocks of neighbours
(neighbouring intervals are correlated, and count as one observation). The blocks are
resampled with replacement (a block bootstrap, Efron & Tibshirani 1993, chapter 8).
The middle 95% of the resulting ratios are the confidence interval. If it includes 1,
the difference is noise, as far as these runs can tell.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from silly._values.units import counted, duration_text, text_of_count
from silly.bench.histogram import ERROR, Histogram, middle

__all__ = ["Comparison", "compare", "differences", "lines"]

LEAST: Final = 5  # blocks in each run that a verdict needs
_BLOCKS: Final = 20
_DRAWS: Final = 1000
_PERCENTS: Final = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure, compared between two runs."""

    name: str
    first: float
    second: float
    ratio: float
    low: float | None
    """The 95% confidence interval of the ratio; None if there were too few intervals."""
    high: float | None
    verdict: str
    """``"better"``, ``"worse"`` (of the second run), ``"noise"`` or ``"too short to tell"``."""


class _Blocks:
    """The intervals of a run in blocks: for each, seconds, requests and counts by slot."""

    def __init__(self, intervals: Sequence[dict[str, Any]]) -> None:
        measured = [part for part in intervals if part.get("phase") in (None, "measured")]
        longest = max((part["length"] for part in measured), default=0)
        whole = [part for part in measured if part["length"] > longest / 2]
        size = -(-len(whole) // _BLOCKS) or 1
        groups = [whole[at : at + size] for at in range(0, len(whole), size)]
        self.seconds = [sum(part["length"] for part in group) for group in groups]
        self.requests = [sum(part["requests"] for part in group) for group in groups]
        histograms = [
            Histogram.merged(
                Histogram.from_list(part["histogram"]) for part in group if part["histogram"]
            )
            for group in groups
        ]
        self.slots = sorted({slot for h in histograms for slot, _ in h.slots()})
        places = {slot: place for place, slot in enumerate(self.slots)}
        self.counts = [[(places[s], n) for s, n in h.slots()] for h in histograms]

    def __len__(self) -> int:
        return len(self.seconds)

    def figures(self, drawn: Sequence[int]) -> list[float]:
        """Return the rate and the percentiles of the blocks *drawn*."""
        seconds = sum(self.seconds[block] for block in drawn)
        requests = sum(self.requests[block] for block in drawn)
        if not requests or not self.slots:
            return [0.0] * (1 + len(_PERCENTS))
        sums = [0] * len(self.slots)
        for block in drawn:
            for place, count in self.counts[block]:
                sums[place] += count
        found = [requests / seconds]
        running = list(itertools.accumulate(sums))
        place = 0
        for percent in _PERCENTS:
            while running[place] < percent / 100 * running[-1]:
                place += 1
            found.append(middle(self.slots[place]) / 1e9)
        return found


def compare(
    first: dict[str, Any], second: dict[str, Any], *, draws: int = _DRAWS, seed: int = 1
) -> list[Comparison]:
    """Compare two results, figure by figure: rate, p50, p90, p99, p99.9.

    Args:
        first: a published result; ratios are *second* to *first*.
        second: the other result.
        draws: the number of bootstrap samples.
        seed: for the random numbers: the same results and seed give the same answer.
    """
    blocks = (_Blocks(first["intervals"]), _Blocks(second["intervals"]))
    names = ["rate", *(f"p{percent:g}" for percent in _PERCENTS)]
    whole = [_published(result, names) for result in (first, second)]
    ratios: list[list[float]] = [[] for _ in names]
    if min(len(part) for part in blocks) >= LEAST:
        rng = random.Random(seed)  # noqa: S311 - not a secret
        for _ in range(draws):
            one, two = (part.figures(rng.choices(range(len(part)), k=len(part))) for part in blocks)
            for place, (a, b) in enumerate(zip(one, two, strict=True)):
                if a:
                    ratios[place].append(b / a)
    return [
        _judge(name, a, b, sorted(found))
        for name, a, b, found in zip(names, *whole, ratios, strict=True)
        if a is not None and b is not None
    ]


def _published(result: dict[str, Any], names: Sequence[str]) -> list[float | None]:
    percentiles = result["latency"]["percentiles"]
    return [result["rate"], *(percentiles.get(name[1:]) for name in names[1:])]


def _judge(name: str, first: float, second: float, ratios: Sequence[float]) -> Comparison:
    ratio = second / first if first else float("inf")
    if not ratios:
        return Comparison(name, first, second, ratio, None, None, "too short to tell")
    low = ratios[int(0.025 * len(ratios))]
    high = ratios[min(len(ratios) - 1, int(0.975 * len(ratios)))]
    resolution = 0.0 if name == "rate" else 2 * ERROR
    if low <= 1 <= high or abs(ratio - 1) <= resolution:
        verdict = "noise"
    else:
        verdict = "better" if (low > 1) == (name == "rate") else "worse"
    return Comparison(name, first, second, ratio, low, high, verdict)


_INCOMPARABLE: Final = (
    "connections", "depth", "rate", "mode", "framing", "sizes", "data", "template",
    "pairs", "stages", "workers", "busy_poll",
)  # fmt: skip


def differences(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Yield the differences between the two runs' settings, which make the ratios doubtful."""
    for name in _INCOMPARABLE:
        one, two = first["plan"].get(name), second["plan"].get(name)
        if one != two:
            yield f"{name} was {one} and {two}"
    for result, which in ((first, "first"), (second, "second")):
        if result["errors"]["total"]:
            yield f"the {which} run had {counted(result['errors']['total'], 'error')}"
        if result["client"].get("is_limit"):
            yield f"the client may have been the limit of the {which} run"


def lines(first: dict[str, Any], second: dict[str, Any], *, draws: int = _DRAWS) -> Iterator[str]:
    """Yield the lines of a printed comparison; the arguments are those of `compare`."""
    yield f"{'':<8}{'A':>12}{'B':>12}{'B/A':>9}   95% interval"
    for each in compare(first, second, draws=draws):
        text = text_of_count if each.name == "rate" else duration_text
        interval = "" if each.low is None else f"{each.low:.3f} to {each.high:.3f}"
        yield (
            f"{each.name:<8}{text(each.first):>12}{text(each.second):>12}{each.ratio:>9.3f}   "
            f"{interval:<16}  {each.verdict}"
        )
    for difference in differences(first, second):
        yield f"warning: {difference}"
