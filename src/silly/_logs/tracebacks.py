"""Tracebacks that show the program's own code and name common mistakes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import types
from collections.abc import Coroutine
from pathlib import Path
from typing import Final

__all__ = ["AWAIT_IS_MISSING", "PACKAGE", "clarify", "place", "strip"]

AWAIT_IS_MISSING: Final = (
    "`await` is missing, as in `line = await conn.read(...)`: this is a coroutine, not its result"
)
_ASYNC_IS_MISSING: Final = "`async` is missing, as in `async for line in conn` or `async with conn`"

PACKAGE: Final = f"{Path(__file__).absolute().parents[1]}{os.sep}"
"""How the file names of this package begin."""

_ASYNCIO: Final = os.path.dirname(os.path.abspath(asyncio.__file__)) + os.sep  # noqa: PTH100, PTH120
_IMPORTING: Final = ("<frozen importlib", importlib.__file__)
_CYTHON: Final = ("src/silly/", "silly/_engine/")  # file names in Cython's frames
_MAX_FRAMES: Final = 3
_MAX_MEMBERS: Final = 3
_COROUTINE: Final = re.compile(
    r"(?<![\w.])(coroutine|silly\.[\w.]*\.(Read|Drain|Drained)|Connecting)\b"
)
_CONN: Final = re.compile(
    r"'Conn' object (is not iterable|is not an iterator|does not support the context manager)"
)


def clarify(error: BaseException, *, whole: bool = False) -> None:
    """Add a note to *error* if it is a known mistake, and keep only the program's frames.

    With *whole*, all frames are kept.
    """
    if not whole:
        strip(error)
    with contextlib.suppress(Exception):  # exceptions may have code of their own
        note = _mistake(error)
        if note is not None and note not in getattr(error, "__notes__", ()):
            error.add_note(note)


def _mistake(error: BaseException) -> str | None:
    if not isinstance(error, AttributeError | TypeError):
        return None
    text = str(error)
    if "`await` is missing" in text:  # the message says so already
        return None
    if isinstance(getattr(error, "obj", None), Coroutine) or _COROUTINE.search(text):
        return AWAIT_IS_MISSING
    return _ASYNC_IS_MISSING if _CONN.search(text) else None


def strip(error: BaseException) -> None:
    """Remove the frames of this package, of asyncio and of imports from the traceback of *error*.

    This includes its causes, contexts and group members. An exception without other
    frames keeps them: it is a bug in this package.
    """
    left: list[BaseException | None] = [error]
    seen = set[int]()
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        entries = []
        trace = each.__traceback__
        while trace is not None:
            entries.append(trace)
            trace = trace.tb_next
        users = [entry for entry in entries if not is_internal(entry.tb_frame.f_code.co_filename)]
        kept: types.TracebackType | None = None
        for entry in reversed(users):
            kept = types.TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
        if users:
            each.__traceback__ = kept
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def place(error: BaseException) -> str:
    """Return the type of *error* and where it was raised; equal for equal tracebacks.

    The place is up to `_MAX_FRAMES` of the program's frames, innermost first; for a group,
    also those of up to `_MAX_MEMBERS` members.
    """
    text = _place(error)
    if isinstance(error, BaseExceptionGroup):
        text += f" ({', '.join(map(_place, error.exceptions[:_MAX_MEMBERS]))})"
    return text


def _place(error: BaseException) -> str:
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not is_internal(code.co_filename):
            places.append(f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' < '.join(reversed(places[-_MAX_FRAMES:])) or '?'}"


def is_internal(filename: str) -> bool:
    """Return whether *filename* belongs to this package, to asyncio or to the import system."""
    return filename.startswith((PACKAGE, _ASYNCIO, *_IMPORTING, *_CYTHON))
