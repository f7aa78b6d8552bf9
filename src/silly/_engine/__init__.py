"""What moves the bytes: the engine in use, chosen once, at import.

``SILLY_ENGINE`` forces one by name; without it the best that works here serves:
the native engine where it was built, else the portable one.
"""

from __future__ import annotations

import importlib
import os
from typing import Final, cast

from silly._engine import portable
from silly._engine.interface import Engine

__all__ = ["engine"]

_NAMES: Final = ("native", "portable")  # the better first


def _choose(name: str | None) -> Engine:
    if name and name not in _NAMES:
        raise ImportError(f"SILLY_ENGINE={name} is not an engine; there are: {', '.join(_NAMES)}")
    if name == portable.NAME:
        return cast(Engine, portable)
    try:
        return cast(Engine, importlib.import_module("silly._engine.native"))
    except ImportError as error:
        if name:
            raise ImportError(
                "SILLY_ENGINE=native: the native engine is not in this installation "
                "(it needs Linux, and a C compiler when silly is installed): "
                f"{error}"
            ) from error
        return cast(Engine, portable)


engine: Engine = _choose(os.environ.get("SILLY_ENGINE"))
