"""What the faults of connections and of datagrams check and show alike."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["check_seed", "given"]


def check_seed(seed: object) -> None:
    """Raise TypeError unless *seed* is an int."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, not {type(seed).__name__} {seed!r}")


def given(faults: Any) -> str:
    """Return the call that makes these *faults*, without defaults."""
    arguments = (
        f"{item.name}={getattr(faults, item.name)!r}"
        for item in dataclasses.fields(faults)
        if getattr(faults, item.name) != item.default
    )
    return f"{type(faults).__name__}({', '.join(arguments)})"
