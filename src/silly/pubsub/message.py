"""A message, as a subscription delivers it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Message"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a subscription."""

    subject: str
    """What it was published under."""
    data: bytes
    """What was published."""
    gap: int = 0
    """0: no message is missing between the one before (or the start of the subscription) and
    this one. Otherwise some may be: the number of messages that this process dropped because
    it read them too slowly, plus 1 for each time that the connection to the broker was lost
    (nobody knows how many messages were missed then, perhaps none)."""
