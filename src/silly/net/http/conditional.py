"""What a client has already: preconditions and ranges (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["Unsatisfiable", "conditions", "precondition", "requested_range"]

_NAMES: Final = {
    name.encode(): name
    for name in (
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
    )
}

_TAG: Final = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


class Unsatisfiable(Exception):  # noqa: N818
    """No byte of the range exists (416)."""


def conditions(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the preconditions and the range that are among the *fields* of a request."""
    found: dict[str, str] = {}
    for field, value in fields:
        name = _NAMES.get(field)
        if name is not None:
            text = value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def precondition(headers: Mapping[str, str], tag: str, modified: int) -> int | None:
    """Return the status that answers a GET or HEAD without its content: 304, 412 or None.

    Args:
        headers: of the request, or what `conditions` has returned.
        tag: the present entity tag, a strong one, with its quotes.
        modified: when the content has changed, in seconds since 1970.
    """
    if (tags := headers.get("if-match")) is not None:
        if not _matches(tags, tag, weakly=False):
            return 412
    elif (date := _date(headers.get("if-unmodified-since"))) is not None and modified > date:
        return 412
    if (tags := headers.get("if-none-match")) is not None:
        if _matches(tags, tag, weakly=True):
            return 304
    elif (date := _date(headers.get("if-modified-since"))) is not None and modified <= date:
        return 304
    return None


def requested_range(
    headers: Mapping[str, str], tag: str, modified: int, size: int
) -> tuple[int, int] | None:
    """Return the range that a GET asks for, as offset and number of bytes; None for all.

    A range of another content (``If-Range``), one that is malformed, and several at once
    are ignored, as section 14.2 allows: the answer is the whole content.

    Args:
        headers, tag, modified: as for `precondition`.
        size: of the content, in bytes.

    Raises:
        Unsatisfiable: the range begins behind the end.
    """
    text = headers.get("range")
    if text is None:
        return None
    found = _RANGE.fullmatch(text)
    if found is None or not _is_current(headers.get("if-range"), tag, modified):
        return None
    first, last = found.groups()
    if first:
        start, end = int(first), int(last) if last else size - 1
        if last and end < start:
            return None
    elif last:
        start, end = max(0, size - int(last)), size - 1
    else:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(end, size - 1) - start + 1


def _is_current(validator: str | None, tag: str, modified: int) -> bool:
    if validator is None:
        return True
    if _TAG.fullmatch(validator):
        return validator == tag
    # A second in which the content may still change does not identify it (section 8.8.2.2).
    return _date(validator) == modified and time.time() - modified > 1


def _matches(tags: str, tag: str, *, weakly: bool) -> bool:
    if tags.strip() == "*":
        return True
    return any(text == tag and (weakly or not weak) for weak, text in _TAG.findall(tags))


def _date(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
