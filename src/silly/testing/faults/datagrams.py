"""What goes wrong with datagrams on their way: the faults, and their record."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final

from silly._values.arguments import seconds
from silly.testing.faults.arguments import check_seed, given

__all__ = ["NO_DATAGRAM_FAULTS", "DatagramFaults", "DatagramFlow", "Way"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DatagramFaults:
    """The faults of one way of datagrams; without arguments, none.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """

    loss: float = 0.0
    """The probability that a datagram is lost."""
    duplicate: float = 0.0
    """The probability that a datagram that is not lost arrives twice."""
    reorder: float = 0.0
    """The probability that a datagram is late, so that later ones overtake it."""
    reorder_by: float = 0.01
    """How late that is, in seconds."""
    corrupt: float = 0.0
    """The probability that one bit of a datagram is changed."""
    latency: float = 0.0
    """Seconds that each datagram takes."""
    jitter: float = 0.0
    """The largest random extra delay in seconds; it reorders datagrams, too."""
    seed: int = 0
    """The seed of all that is random: the same datagrams meet the same faults."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a probability, not {type(value).__name__}")
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability from 0 to 1, not {value}")
        for name in ("reorder_by", "latency", "jitter"):
            if seconds(getattr(self, name), name) == math.inf:
                raise ValueError(f"{name} must be finite; to lose all datagrams, use loss=1")
        check_seed(self.seed)

    def __repr__(self) -> str:
        return given(self)


NO_DATAGRAM_FAULTS: Final = DatagramFaults()


@dataclass(slots=True)
class DatagramFlow:
    """The record of one way: ``received == forwarded + lost + held - duplicated``."""

    faults: DatagramFaults
    """The faults it was given."""
    received: int = 0
    """Datagrams taken from the sender."""
    forwarded: int = 0
    """Datagrams passed on to the receiver, copies included."""
    lost: int = 0
    """Datagrams lost on purpose."""
    duplicated: int = 0
    """Copies made."""
    reordered: int = 0
    """Datagrams made late, copies included."""
    corrupted: int = 0
    """Datagrams with a changed bit."""
    held: int = 0
    """Datagrams that are on their way now, copies included."""


class Way:
    """Applies the faults of a flow to one datagram after the other."""

    def __init__(self, flow: DatagramFlow) -> None:
        self._flow = flow
        self._draw = random.Random(flow.faults.seed)  # noqa: S311 - repeatable

    def take(self, data: bytes) -> list[tuple[float, bytes]]:
        """Return what becomes of a datagram: the delay in seconds and the bytes of each copy.

        They are held until `pass_on` is called for each.
        """
        flow, faults, draw = self._flow, self._flow.faults, self._draw.random
        flow.received += 1
        if draw() < faults.loss:
            flow.lost += 1
            return []
        if data and draw() < faults.corrupt:
            flow.corrupted += 1
            data = self._corrupted(data)
        copies = 1
        if draw() < faults.duplicate:
            flow.duplicated += 1
            copies = 2
        arriving = []
        for _ in range(copies):
            delay = faults.latency
            if faults.jitter:
                delay += draw() * faults.jitter
            if draw() < faults.reorder:
                flow.reordered += 1
                delay += faults.reorder_by
            arriving.append((delay, data))
        flow.held += copies
        return arriving

    def _corrupted(self, data: bytes) -> bytes:
        bit = self._draw.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    def pass_on(self) -> None:
        """Count a held datagram as forwarded."""
        self._flow.held -= 1
        self._flow.forwarded += 1
