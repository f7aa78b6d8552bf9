"""The trace that a request belongs to (W3C Trace Context, level 1).

Read strictly: of a ``traceparent`` that is invalid, or there twice, nothing is believed, and
nothing of the ``tracestate`` beside it. What a client sends is a claim: it may choose any trace.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

__all__ = ["TraceContext"]

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY: Final = r"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER: Final = re.compile(rf"({_KEY})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[!-+\--<>-~])")
_MAX_MEMBERS: Final = 32


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where a request belongs in a trace."""

    trace_id: str
    """32 hexadecimal digits."""
    parent_id: str
    """The caller's span: 16 hexadecimal digits."""
    is_sampled: bool
    """Whether the caller may have recorded it."""
    state: str = ""
    """What tracing systems have added (``tracestate``)."""

    @classmethod
    def parse(cls, parents: list[str], states: list[str]) -> Self | None:
        """Return what the values of ``traceparent`` and ``tracestate`` say; None: nothing valid.

        A version later than 00 is understood as far as it is like 00 (section 4.3).
        """
        if len(parents) != 1:
            return None
        found = _PARENT.fullmatch(parents[0].strip(" \t"))
        if found is None:
            return None
        version, trace_id, parent_id, flags, rest = found.groups()
        if version == "ff" or (version == "00" and rest is not None):
            return None
        if not trace_id.strip("0") or not parent_id.strip("0"):
            return None
        return cls(trace_id, parent_id, bool(int(flags, 16) & 1), _checked_state(states))

    def headers(self) -> dict[str, str]:
        """Return the header fields with which a request of ours continues the trace.

        The caller's span becomes its parent: this is for programs that make no spans of their own.
        Others send that of theirs (`silly.otel.headers`).
        """
        flags = "01" if self.is_sampled else "00"
        fields = {"traceparent": f"00-{self.trace_id}-{self.parent_id}-{flags}"}
        if self.state:
            fields["tracestate"] = self.state
        return fields


def _checked_state(values: list[str]) -> str:
    """Return the members of the list *values*; nothing if one is invalid (section 3.3.1)."""
    parts = [part.strip(" \t") for value in values for part in value.split(",")]
    members = [part for part in parts if part]  # empty ones are allowed
    keys = set()
    for member in members:
        found = _MEMBER.fullmatch(member)
        if found is None:
            return ""
        keys.add(found[1])
    if len(keys) != len(members) or len(members) > _MAX_MEMBERS:
        return ""
    return ",".join(members)
