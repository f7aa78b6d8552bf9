"""Counts of a bus."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

__all__ = ["FAILURES", "BusStats", "Counts"]

FAILURES: Final = ("timeout", "disconnected", "refused", "full", "closed")
"""The reasons for which `publish` fails."""


@dataclass(frozen=True, slots=True)
class BusStats:
    """Counts of a bus since it was connected."""

    published: int
    """Messages that the broker has confirmed."""
    publish_errors: Mapping[str, int]
    """Messages that it has not, by reason: ``timeout``, ``disconnected``, ``refused`` (by the
    broker), ``full`` (too many were unconfirmed) or ``closed`` (the bus was)."""
    unconfirmed: int
    """Messages that it has not confirmed yet."""
    received: int
    """Messages that were queued for subscriptions; one counts for each subscription."""
    dropped: int
    """Those of them that were dropped because the subscription's queue was full."""
    ignored: int
    """Messages of other programs whose subjects are not valid here."""
    outages: int
    """How often the connection to the broker was lost."""
    subscriptions: int
    """Subscriptions that are open now."""
    queued: int
    """Messages in their queues now."""
    queued_bytes: int
    """Bytes of data in these messages."""
    is_connected: bool
    """Whether the bus is connected to its broker."""


@dataclass(slots=True)
class Counts:
    """Counts that only grow."""

    published: int = 0
    publish_errors: Counter[str] = field(default_factory=Counter)
    received: int = 0
    dropped: int = 0
    ignored: int = 0
    outages: int = 0

    def values(self) -> dict[str, Any]:
        """Return the counts by name; those by reason cannot be changed."""
        errors = {reason: self.publish_errors[reason] for reason in FAILURES}
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)} | {
            "publish_errors": MappingProxyType(errors)
        }

    def add(self, other: Counts) -> None:
        """Add the counts of *other*."""
        for each in dataclasses.fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
