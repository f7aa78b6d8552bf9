"""What goes wrong in one direction of a connection."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from silly._values.arguments import seconds, size
from silly.testing.faults.arguments import check_seed, given

__all__ = ["NO_FAULTS", "Faults", "FaultsOf"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Faults:
    """The faults of one direction of a connection; without arguments, none.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """

    latency: float = 0.0
    """Seconds for which each piece is held."""
    jitter: float = 0.0
    """The largest random extra delay of a piece in seconds; pieces stay in order."""
    bandwidth: float = math.inf
    """Bytes per second."""
    slice: int | tuple[int, int] | None = None
    """Cut the stream into slices of this many bytes, or of random sizes in this range."""
    gap: float = 0.0
    """Seconds between two slices; even with 0, a peer in this loop reads each one separately."""
    stall_after: int | None = None
    """Forward this many bytes, then nothing for `stall_for`."""
    stall_at: float | None = None
    """Forward nothing for `stall_for` when the session is this many seconds old."""
    stall_for: float = math.inf
    """How long a stall lasts, in seconds; by default, forever."""
    half_close_after: int | None = None
    """Forward this many bytes, then a FIN, and discard the rest."""
    half_close_at: float | None = None
    """Likewise, when the session is this many seconds old."""
    reset_after: int | None = None
    """Forward this many bytes, then reset both sides."""
    reset_at: float | None = None
    """Likewise, when the session is this many seconds old."""
    drop_after: int | None = None
    """Forward this many bytes, then close both sides without delivering what is held."""
    drop_at: float | None = None
    """Likewise, when the session is this many seconds old."""
    seed: int = 0
    """The seed for jitter and random slices."""

    def __post_init__(self) -> None:
        for name in ("latency", "jitter", "gap", "stall_for"):
            if seconds(getattr(self, name), name) == math.inf and name != "stall_for":
                raise ValueError(f"{name} must be finite; to forward nothing, use stall_after=0")
        for kind in ("stall", "half_close", "reset", "drop"):
            if (after := getattr(self, f"{kind}_after")) is not None:
                size(after, f"{kind}_after")
            if (at := getattr(self, f"{kind}_at")) is not None:
                seconds(at, f"{kind}_at")
        if isinstance(self.bandwidth, bool) or not isinstance(self.bandwidth, (int, float)):
            raise TypeError(
                f"bandwidth must be a number of bytes per second, "
                f"not {type(self.bandwidth).__name__} {self.bandwidth!r}"
            )
        if not self.bandwidth > 0:
            raise ValueError(
                f"bandwidth must be more than 0 bytes per second, not {self.bandwidth}"
            )
        if isinstance(self.slice, tuple):
            if len(self.slice) != 2:
                raise ValueError(f"slice must be a size or a pair of sizes, not {self.slice!r}")
            smallest, largest = self.slice
            size(largest, "slice[1]", least=size(smallest, "slice[0]", least=1))
        elif self.slice is not None:
            size(self.slice, "slice", least=1)
        check_seed(self.seed)

    def __repr__(self) -> str:
        return given(self)

    @property
    def is_lossless(self) -> bool:
        """True if every byte arrives eventually: nothing is reset, dropped or discarded."""
        stalls = self.stall_after is not None or self.stall_at is not None
        ends = (
            self.half_close_after,
            self.half_close_at,
            self.reset_after,
            self.reset_at,
            self.drop_after,
            self.drop_at,
        )
        return all(end is None for end in ends) and not (stalls and self.stall_for == math.inf)

    @classmethod
    def random(cls, seed: int, *, lossless: bool = False) -> Faults:
        """Return a random choice of faults, of every kind and size.

        Args:
            seed: any number; the same seed always gives the same faults.
            lossless: choose only faults that lose no byte (see `is_lossless`).
        """
        draw = random.Random(seed)  # noqa: S311 - repeatable, not a secret
        chosen: dict[str, Any] = {"seed": seed}
        if draw.random() < 0.4:
            chosen["latency"] = round(draw.uniform(0.001, 0.2), 3)
        if draw.random() < 0.3:
            chosen["jitter"] = round(draw.uniform(0.001, 0.1), 3)
        if draw.random() < 0.3:
            chosen["bandwidth"] = draw.choice((1_000, 10_000, 100_000, 1_000_000))
        if draw.random() < 0.5:
            smallest = draw.choice((1, 1, 2, 10, 100, 1000))
            chosen["slice"] = draw.choice((smallest, (smallest, smallest * draw.randint(2, 20))))
        if "slice" in chosen and draw.random() < 0.3:
            chosen["gap"] = round(draw.uniform(0.001, 0.01), 3)
        kinds = ["stall"] if lossless else ["stall", "half_close", "reset", "drop"]
        if draw.random() < (0.3 if lossless else 0.6):
            kind = draw.choice(kinds)
            if draw.random() < 0.7:
                chosen[f"{kind}_after"] = draw.choice((0, 1, draw.randint(2, 10_000)))
            else:
                chosen[f"{kind}_at"] = round(draw.uniform(0, 1), 3)
            if kind == "stall" and (lossless or draw.random() < 0.7):
                chosen["stall_for"] = round(draw.uniform(0.01, 2), 3)
        return cls(**chosen)


FaultsOf = Faults | Callable[[int], Faults]

NO_FAULTS: Final = Faults()
"""For each connection the same faults, or a function that returns them for its number."""
