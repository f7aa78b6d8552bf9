"""The record of a connection through a relay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from silly.testing.faults.faults import Faults, FaultsOf

__all__ = ["Applied", "Flow", "Session", "new_session"]


class Applied(NamedTuple):
    """A fault that was applied: its name, the session's age in seconds, the forwarded bytes."""

    fault: str
    at: float
    after: int


@dataclass(slots=True)
class Flow:
    """The record of one direction of a session."""

    faults: Faults
    """The faults it was given."""
    received: int = 0
    """Bytes taken from the sender."""
    forwarded: int = 0
    """Bytes passed on to the receiver; the rest is held, discarded or dropped."""
    applied: list[Applied] = field(default_factory=list)
    """The stalls, half-closes, resets and drops that were applied, in order."""


@dataclass(slots=True)
class Session:
    """The record of one connection through a proxy."""

    index: int
    """Its number, from 0, in the order of arrival."""
    up: Flow
    """From the client to the server."""
    down: Flow
    """From the server to the client."""
    end: Literal["", "closed", "reset", "dropped", "unreachable", "stopped"] = ""
    """How it ended: both sides finished (``closed``); one was lost, or a fault reset it
    (``reset``); a fault dropped it; the server could not be reached; the proxy was closed
    (``stopped``). Empty while it lasts."""


def new_session(index: int, up: FaultsOf, down: FaultsOf) -> Session:
    """Return the empty record of connection number *index*."""
    first, second = (each if isinstance(each, Faults) else each(index) for each in (up, down))
    return Session(index, Flow(first), Flow(second))
