"""Argument checks that several modules share: seconds, rates and sizes.

Each returns the value in the form that the caller computes with, or raises
`TypeError` or `ValueError` naming the argument and what was expected.
"""

from __future__ import annotations

import math

__all__ = ["positive_seconds", "rate", "seconds", "seconds_or_none", "size"]


def seconds(value: float, name: str) -> float:
    """Check a duration: a real number of seconds, zero or more (infinity included)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {_described(value)}")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must be zero or more seconds, not {value!r}")
    return value


def seconds_or_none(value: float | None, name: str) -> float | None:
    """Check an optional duration; infinity is returned as None: no limit."""
    if value is None or seconds(value, name) == math.inf:
        return None
    return value


def positive_seconds(value: float | None, name: str) -> float | None:
    """Check an optional timeout that cannot be zero."""
    checked = seconds_or_none(value, name)
    if checked == 0:
        raise ValueError(f"{name} must be more than 0 seconds, or None for no timeout")
    return checked


def rate(value: float | None, name: str) -> float | None:
    """Check an optional rate: a finite number per second, above zero."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number per second, not {_described(value)}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0 per second, or None for no rate")
    return value


def size(value: int, name: str, *, least: int = 0) -> int:
    """Check a number of bytes (or of anything counted), at least *least*."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {_described(value)}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return value


def _described(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r}"
