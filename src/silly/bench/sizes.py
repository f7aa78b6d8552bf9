"""Payload sizes: one size, a range, or shares: ``64``, ``64-1024``, ``64:90%,4096:10%``."""

from __future__ import annotations

import random
from dataclasses import dataclass

from silly._values import units

__all__ = ["Sizes"]

FORMS = "64, 64-1024 or 64:90%,4096:10%"
_ALL = 1e-6  # rounding error allowed in the sum of shares


@dataclass(frozen=True, slots=True)
class Sizes:
    """A distribution of sizes in bytes: pieces of (share, least, most)."""

    pieces: tuple[tuple[float, int, int], ...]

    @classmethod
    def parse(cls, text: str) -> Sizes:
        """Parse *text*. Raises ValueError, which says what is wrong with it."""
        pieces = []
        parts = text.split(",")
        for part in parts:
            sizes, colon, share = part.partition(":")
            least, dash, most = sizes.partition("-")
            try:
                low = units.size(least)
                high = units.size(most) if dash else low
                weight = units.number(share) if colon else 1.0
            except ValueError as error:
                raise ValueError(f"{text!r} is not a size: {error}; expected {FORMS}") from None
            if colon and not share.strip().endswith("%"):
                raise ValueError(f"{text!r} is not a size: {share!r} has no %; expected {FORMS}")
            if len(parts) > 1 and not colon:
                raise ValueError(
                    f"{text!r} is not a size: {sizes!r} has no share; expected {FORMS}"
                )
            if high < low:
                raise ValueError(f"{text!r} is not a size: {high} is less than {low}")
            if weight <= 0:
                raise ValueError(f"{text!r} is not a size: a share must be more than 0%")
            pieces.append((weight, low, high))
        total = sum(weight for weight, _, _ in pieces)
        if abs(total - 1) > _ALL:
            raise ValueError(
                f"{text!r} is not a size: the shares add up to {100 * total:.4g}%, not 100%"
            )
        return cls(tuple(pieces))

    @property
    def least(self) -> int:
        """The smallest size."""
        return min(low for _, low, _ in self.pieces)

    @property
    def most(self) -> int:
        """The largest size."""
        return max(high for _, _, high in self.pieces)

    @property
    def one(self) -> int | None:
        """The size, if there is only one."""
        return self.least if self.least == self.most else None

    def draw(self, count: int, seed: int) -> list[int]:
        """Return *count* sizes, the same for the same *seed*."""
        rng = random.Random(seed)  # noqa: S311 - not a secret
        weights = [weight for weight, _, _ in self.pieces]
        chosen = rng.choices(self.pieces, weights, k=count)
        return [rng.randint(low, high) for _, low, high in chosen]
