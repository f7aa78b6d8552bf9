"""Reads a published result; anything else in the file raises one `ValueError`.

Only the fields that `silly.bench.compare` uses are checked, so results of other versions
with the same schema can be read.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from silly.bench.histogram import Histogram
from silly.bench.result import SCHEMA

__all__ = ["load"]

_GREATEST: Final = 1e30  # numbers below it can be multiplied and divided without overflow
_DEPTH: Final = 16
_NUMBER: Final = (int, float)

# A type, or a tuple of types, stands for a value of that type (numbers: 0 or more); a list
# of one shape for a list of such items; a dict for an object that has these members.
_SHAPE: Final[dict[str, Any]] = {
    "rate": _NUMBER,
    "latency": {"percentiles": dict},
    "intervals": [{"length": _NUMBER, "requests": int, "histogram": [int]}],
    "plan": dict,
    "errors": {"total": int},
    "client": dict,
}


def load(path: str) -> dict[str, Any]:
    """Return the result in the file *path*.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a result of ``silly bench --json``.
    """
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - "-" and pipes too
        try:
            result = json.load(file, parse_constant=_refuse)
            _check(result)
        except (ValueError, RecursionError):
            raise ValueError(f"{path!r} is not a result of silly bench --json ({SCHEMA})") from None
    return dict(result)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check(result: Any) -> None:
    """Raise ValueError if `compare` cannot work with *result*."""
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise ValueError("another schema")
    left = [(result, 0)]
    while left:
        value, depth = left.pop()
        if isinstance(value, dict | list):
            if depth == _DEPTH:
                raise ValueError("nested too deeply")
            parts = value.values() if isinstance(value, dict) else value
            left += [(part, depth + 1) for part in parts]
        elif isinstance(value, _NUMBER) and value and not 1 / _GREATEST < abs(value) < _GREATEST:
            raise ValueError("a number out of range")
    if not (
        _has_shape(result, _SHAPE)
        and all(_has_shape(each, _NUMBER) for each in result["latency"]["percentiles"].values())
    ):
        raise ValueError("another shape")
    for part in result["intervals"]:
        if part["histogram"]:
            Histogram.from_list(part["histogram"])


def _has_shape(value: Any, shape: Any) -> bool:
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(
            name in value and _has_shape(value[name], part) for name, part in shape.items()
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(_has_shape(each, shape[0]) for each in value)
    if shape is dict:
        return isinstance(value, dict)
    return isinstance(value, shape) and not isinstance(value, bool) and value >= 0
