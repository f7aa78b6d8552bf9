"""Graphs of bars, drawn with characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["graph", "sparkline"]

_BARS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None]) -> str:
    """Return a bar for each of *values*, scaled to the greatest; a gap for None."""
    return graph(values, 1)[0]


def graph(values: Sequence[float | None], rows: int) -> list[str]:
    """Return *rows* lines of text, top first, with a bar for each of *values*."""
    most = max((value for value in values if value is not None), default=0) or 1
    levels = [None if value is None else int(value / most * (8 * rows - 0.001)) for value in values]
    return [
        "".join(
            " " if level is None or (level < row * 8 and row) else _BARS[min(7, level - row * 8)]
            for level in levels
        )
        for row in reversed(range(rows))
    ]
