"""The parser and the frames that connections use: native ones, where there are any."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from silly._engine import engine
from silly.net.websocket import frames

if TYPE_CHECKING:
    from silly.net.websocket.frames import Parser, frame, framed, masked, new_key
else:
    name = "silly.net.websocket.frames_native"
    _kind: Any = importlib.import_module(name) if engine.NAME == "native" else frames
    Parser, frame, framed = _kind.Parser, _kind.frame, _kind.framed
    masked, new_key = _kind.masked, _kind.new_key

__all__ = ["Parser", "available", "frame", "framed", "masked", "new_key"]


def available() -> dict[str, Any]:
    """Return the kinds that work here, by name."""
    kinds: dict[str, Any] = {"python": frames}
    if engine.NAME == "native":
        kinds["native"] = importlib.import_module("silly.net.websocket.frames_native")
    return kinds
