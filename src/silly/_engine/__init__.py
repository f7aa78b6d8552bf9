"""What moves the bytes: the engine in use, chosen once, at import.

``SILLY_ENGINE`` forces one by name; without it the best that works here serves.
"""

from __future__ import annotations

import os
from typing import cast

from silly._engine import portable
from silly._engine.interface import Engine

__all__ = ["engine"]

_ENGINES: dict[str, Engine] = {portable.NAME: cast(Engine, portable)}


def _choose(name: str | None) -> Engine:
    if not name:
        return _ENGINES[portable.NAME]
    try:
        return _ENGINES[name]
    except KeyError:
        raise ImportError(
            f"SILLY_ENGINE={name} is not an engine of this installation; "
            f"there is: {', '.join(_ENGINES)}"
        ) from None


engine: Engine = _choose(os.environ.get("SILLY_ENGINE"))
