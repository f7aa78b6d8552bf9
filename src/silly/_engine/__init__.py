"""What moves the bytes: the engine in use, chosen once, at import.

``SILLY_ENGINE`` forces one by name; without it the best that works here serves:
the native engine where it was built, else the portable one.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Final, cast

from silly._engine import portable
from silly._engine.interface import Engine
from silly.text import printable

__all__ = ["engine", "native_is_absent"]

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


def native_is_absent() -> str | None:
    """Return why the native engine does not serve, and what to do; None if it does."""
    if engine.NAME == "native":
        return None
    if os.environ.get("SILLY_ENGINE") == portable.NAME:
        return "SILLY_ENGINE=portable says so"
    if not sys.platform.startswith("linux"):
        return f"it needs Linux, and this is {sys.platform}"
    try:
        importlib.import_module("silly._engine.native")
    except ModuleNotFoundError:
        return (
            f"it was not built when silly was installed{_build_error()}: that needs a C compiler "
            "and Python's headers (Debian: apt install gcc python3-dev). Then install again "
            "without pip's cache, which keeps what it built before: pip install "
            "--force-reinstall --no-cache-dir"
        )
    except ImportError as error:
        return f"it cannot be loaded: {error}"
    return None


def _build_error() -> str:
    """Return what setup.py kept of the compiler's words, in brackets; nothing if it kept none."""
    try:
        text = Path(__file__).with_name("native").joinpath("build_error.txt").read_text("utf-8")
    except (OSError, ValueError):
        return ""
    return f" ({printable(text.strip()[:400])})"


engine: Engine = _choose(os.environ.get("SILLY_ENGINE"))
