"""The kinds of values that options, variables and limits take: one syntax, one error text.

A kind's `parse` reads what its `text` writes, so a default is shown as it can be given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from silly._values import arguments, units

__all__ = [
    "BYTE_RATE",
    "COUNT",
    "DURATION",
    "FILE",
    "NUMBER",
    "PERIOD",
    "RATE",
    "SIZE",
    "Kind",
    "choice",
]


def _any(value: Any, _name: str) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: *metavar* is what help texts call it."""

    metavar: str
    read: Callable[[str], Any]
    text: Callable[[Any], str] = str
    """Returns a value as text that `parse` accepts."""
    expected: str = ""
    """What an error says was expected; if empty, *read*'s own error says it."""
    check: Callable[[Any, str], Any] = _any
    """Returns a value as stored; raises TypeError or ValueError with the name if it is invalid."""

    def parse(self, text: str) -> Any:
        """Return the value that *text* stands for.

        Raises:
            ValueError: *text* is invalid; the message says what was expected.
        """
        try:
            return self.check(self.read(text), self.metavar)
        except ValueError:
            if not self.expected:
                raise
            raise ValueError(f"{text!r} is not {self.expected}") from None


def _least_1(value: Any, name: str) -> int:
    return arguments.size(value, name, least=1)


def choice(metavar: str, *names: str) -> Kind:
    """Return the kind whose values are *names*, which may be written in capitals."""
    expected = f"one of {', '.join(map(repr, names))}"
    return Kind(metavar, lambda text: names[names.index(text.lower())], str, expected)


FILE: Final = Kind("FILE", str)
NUMBER: Final = Kind("N", units.count, units.exact_count)
COUNT: Final = Kind(
    "N", units.count, units.exact_count, "a number of 1 or more, such as 1000 or 10k", _least_1
)
SIZE: Final = Kind(
    "SIZE", units.size, units.exact_size, "a size such as 4096, 64k or 1M (bytes)", _least_1
)
DURATION: Final = Kind("DURATION", units.duration, units.exact_duration, check=arguments.seconds)
PERIOD: Final = Kind(
    "DURATION",
    units.duration,
    units.exact_duration,
    "a duration above 0 such as 500ms, 30s or 1m",
    arguments.positive_seconds,
)
RATE: Final = Kind(
    "RATE", units.rate, units.exact_count, "a rate such as 100 or 10k (per second)", arguments.rate
)
BYTE_RATE: Final = replace(
    RATE,
    read=units.byte_rate,
    text=units.exact_size,
    expected="a rate such as 64k or 500 (bytes per second)",
)
