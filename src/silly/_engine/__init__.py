"""The engine that moves the bytes, chosen once, at import.

``SILLY_ENGINE`` selects an engine by name. Without it, the native engine is used if it
was built and fits this Python (`assumptions`), else the portable one.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Final

from silly._engine import portable
from silly._engine.interface import Engine
from silly.text import printable

__all__ = ["engine", "why_not_native"]

_NAMES: Final = ("native", "portable")  # in order of preference


def _choose(name: str | None) -> Engine:
    if name and name not in _NAMES:
        raise ImportError(
            f"SILLY_ENGINE={name} is not an engine; the engines are {', '.join(_NAMES)}"
        )
    if name == portable.NAME:
        return portable
    try:
        from silly._engine import native  # noqa: PLC0415 - it may not be there
    except ModuleNotFoundError as error:
        if name:
            raise ImportError(
                "SILLY_ENGINE=native: the native engine is not installed "
                "(it needs Linux, and a C compiler when silly is installed): "
                f"{error}"
            ) from error
        return portable
    except ImportError as error:
        if name:
            raise ImportError(
                f"SILLY_ENGINE=native: the native engine cannot be loaded: {error}"
            ) from None
        return portable
    return native


def why_not_native() -> str | None:
    """Return why the native engine is not in use, and what to do about it; None if it is."""
    if engine.NAME == "native":
        return None
    if os.environ.get("SILLY_ENGINE") == portable.NAME:
        return "SILLY_ENGINE=portable is set"
    if not sys.platform.startswith("linux"):  # pragma: no cover
        return f"it needs Linux, and this system is {sys.platform}"
    try:
        importlib.import_module("silly._engine.native")
    except ModuleNotFoundError:
        return (
            f"it was not built when silly was installed{_build_error()}: building needs a C "
            "compiler and Python's headers (Debian: apt install gcc python3-dev). Install them, "
            "then reinstall silly without pip's cache, which keeps the old build: pip install "
            "--force-reinstall --no-cache-dir"
        )
    except ImportError as error:
        return f"it cannot be loaded: {error}"
    return None  # pragma: no cover - by now it can


def _build_error() -> str:
    """Return the error that setup.py recorded, in parentheses; an empty text if there is none."""
    try:
        text = Path(__file__).with_name("native").joinpath("build_error.txt").read_text("utf-8")
    except (OSError, ValueError):
        return ""
    return f" ({printable(text.strip()[:400])})"


engine: Engine = _choose(os.environ.get("SILLY_ENGINE"))
