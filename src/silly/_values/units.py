"""Parses and formats durations, sizes and counts: ``30s``, ``1m``, ``64k``.

Parsers raise a `ValueError` that says what was expected; the caller adds the option's
name.
"""

from __future__ import annotations

import math
import re

__all__ = [
    "byte_rate",
    "count",
    "counted",
    "duration",
    "duration_text",
    "exact_count",
    "exact_duration",
    "exact_share",
    "exact_size",
    "in_seconds",
    "number",
    "rate",
    "size",
    "size_text",
    "text_of_count",
]

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_COUNTS = {"": 1, "k": 1000, "m": 1_000_000}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ]*)", re.IGNORECASE)


def _parts(text: str, units: dict[str, float] | dict[str, int], expected: str) -> tuple[float, str]:
    found = _NUMBER.fullmatch(text.strip())
    if found is None or (found[2] and found[2].lower() not in units):
        raise ValueError(f"{text!r} is not {expected}")
    return float(found[1]), found[2].lower()


def duration(text: str) -> float:
    """Return *text* in seconds: ``"30s"``, ``"1m"``, ``"250ms"``, ``"5us"``; ``"2"`` is 2 s."""
    value, unit = _parts(text, _SECONDS, "a duration such as 500ms, 30s, 1m or 2h")
    return value * _SECONDS[unit or "s"]


def size(text: str) -> int:
    """Return *text* in bytes: ``"64"``, ``"64k"`` (of 1024), ``"1M"``, ``"1MiB"``."""
    short = re.sub(r"(?<=[kmg])(i?b)$", "", text.strip(), flags=re.IGNORECASE)
    value, unit = _parts(short, _BYTES, "a size such as 64, 64k or 1M (bytes)")
    return _whole(value * _BYTES[unit], text, " of bytes")


def count(text: str) -> int:
    """Return *text* as a whole number: ``"1000"``, ``"10k"`` (of 1000), ``"1.5M"``."""
    value, unit = _parts(text, _COUNTS, "a number such as 1000, 10k or 1M")
    return _whole(value * _COUNTS[unit], text)


def rate(text: str) -> float:
    """Return *text* as a number per second: ``"1000"``, ``"10k"``, ``"10k/s"``."""
    value, unit = _parts(
        text.strip().removesuffix("/s"), _COUNTS, "a rate such as 1000 or 10k (per second)"
    )
    return value * _COUNTS[unit]


def byte_rate(text: str) -> float:
    """Return *text* in bytes per second: ``"500"``, ``"4k"`` (of 1024), ``"1M/s"``."""
    return float(size(text.strip().removesuffix("/s")))


def number(text: str) -> float:
    """Return *text* as a number; ``"5%"`` is 0.05."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value / 100 if text.strip().endswith("%") else value


def _whole(value: float, text: str, of_what: str = "") -> int:
    if not math.isfinite(value) or value != int(value):
        raise ValueError(f"{text!r} is not a whole number{of_what}")
    return int(value)


def _exact(value: float, units: dict[str, float] | dict[str, int], base: str) -> str:
    """Return *value* in the largest unit that it is a whole number of, otherwise in *base*."""
    for unit, by in sorted(units.items(), key=lambda each: -each[1]):
        if value >= by and (value / by).is_integer():
            return f"{value / by:.0f}{unit}"
    return f"{value:.15g}{base}"


def exact_duration(seconds: float) -> str:
    """Return *seconds* as `duration` reads them: ``"1h"``, ``"500ms"``."""
    return "inf" if math.isinf(seconds) else _exact(seconds, _SECONDS, "s")


def exact_size(size: float) -> str:
    """Return a number of bytes as `size` reads it: ``"64k"``, ``"1M"``."""
    return _exact(size, _BYTES, "").upper().replace("K", "k")


def exact_count(value: float) -> str:
    """Return a number as `count` and `rate` read it: ``"100"``, ``"10k"``, ``"1M"``."""
    return _exact(value, _COUNTS, "").replace("m", "M")


def exact_share(value: float) -> str:
    """Return a share as `number` reads it: ``"5%"``."""
    return f"{100 * value:.15g}%"


def duration_text(seconds: float | None) -> str:
    """Return seconds with three digits and a unit: ``"1.25 ms"``; ``"-"`` for None."""
    if seconds is None:
        return "-"
    for least, unit, by in ((1.0, "s", 1.0), (1e-3, "ms", 1e3), (1e-6, "µs", 1e6)):
        if abs(seconds) >= least * 0.9995:
            return f"{_three_digits(seconds * by)} {unit}"
    return "0 s" if seconds == 0 else f"{_three_digits(seconds * 1e9)} ns"


def in_seconds(seconds: float | None) -> str:
    """Return a time limit as a program gave it: ``"1 second"``, ``"0.5 seconds"``.

    None, no limit, is accepted for the sake of callers whose limit has passed.
    """
    return f"{seconds or 0:g} second{'' if seconds == 1 else 's'}"


def size_text(size: float) -> str:
    """Return bytes as text: ``"64 B"``, ``"1.25 MiB"``."""
    for least, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(size) >= least:
            return f"{_three_digits(size / least)} {unit}"
    return f"{_three_digits(size)} B"


def text_of_count(value: float) -> str:
    """Return a number with grouped thousands, ``"71 234"``, or, below 100, with three digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return _three_digits(value)


def counted(number: int, noun: str) -> str:
    """Return how many there are of *noun*: ``"1 line"``, ``"2 lines"``."""
    return f"{text_of_count(number)} {noun}{'' if number == 1 else 's'}"


def _three_digits(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, 3 - whole)}f}"
