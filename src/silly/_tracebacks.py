"""Tracebacks as the author of a program wants them: of their own code, and to the point."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import types
from collections.abc import Coroutine
from typing import Final

__all__ = ["AWAIT_IS_MISSING", "clarify", "place", "strip"]

AWAIT_IS_MISSING: Final = (
    "`await` is missing: a coroutine stands where its result is meant, "
    "as in `line = await conn.read(...)`"
)
_ASYNC_IS_MISSING: Final = "`async` is missing, as in `async for line in conn` or `async with conn`"

_OURS: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120
_ASYNCIO: Final = os.path.dirname(os.path.abspath(asyncio.__file__)) + os.sep  # noqa: PTH100, PTH120
_FRAMES: Final = 3
_MEMBERS: Final = 3
_CYTHON: Final = ("src/silly/", "silly/_engine/")  # how its frames name their files
_COROUTINE: Final = re.compile(
    r"(?<![\w.])(coroutine|silly\.[\w.]*\.(Read|Room|HasRoom)|Connecting)\b"
)
_CONN: Final = re.compile(
    r"'_Conn' object (is not iterable|is not an iterator|does not support the context manager)"
)


def clarify(error: BaseException, *, whole: bool = False) -> None:
    """Name the mistake in *error* if it is a known one, and show only the author's frames.

    All frames, if the traceback is to stay *whole*.
    """
    if not whole:
        strip(error)
    with contextlib.suppress(Exception):  # exceptions can be programs
        note = _mistake(error)
        if note is not None and note not in getattr(error, "__notes__", ()):
            error.add_note(note)


def _mistake(error: BaseException) -> str | None:
    if not isinstance(error, AttributeError | TypeError):
        return None
    text = str(error)
    if "`await` is missing" in text:  # it says so itself
        return None
    if isinstance(getattr(error, "obj", None), Coroutine) or _COROUTINE.search(text):
        return AWAIT_IS_MISSING
    return _ASYNC_IS_MISSING if _CONN.search(text) else None


def strip(error: BaseException) -> None:
    """Take the frames of this package, and of asyncio around it, out of a traceback.

    Of *error* and all that its traceback shows beside it. One that has no other
    frames keeps them: it is a defect of ours.
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
        users = [entry for entry in entries if not is_ours(entry.tb_frame.f_code.co_filename)]
        kept: types.TracebackType | None = None
        for entry in reversed(users):
            kept = types.TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
        if users:
            each.__traceback__ = kept
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def place(error: BaseException) -> str:
    """Return the type of *error* and where it was raised, which tell its traceback from others.

    That is up to `_FRAMES` of the author's frames, innermost first, and the same of up to
    `_MEMBERS` members of a group.
    """
    text = _place(error)
    if isinstance(error, BaseExceptionGroup):
        text += f" ({', '.join(map(_place, error.exceptions[:_MEMBERS]))})"
    return text


def _place(error: BaseException) -> str:
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not is_ours(code.co_filename):
            places.append(f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' < '.join(reversed(places[-_FRAMES:])) or '?'}"


def is_ours(filename: str) -> bool:
    """Tell whether a frame of *filename* is this package's, or asyncio's."""
    return filename.startswith((_OURS, _ASYNCIO, *_CYTHON))
