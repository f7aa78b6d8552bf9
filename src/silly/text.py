"""What a peer chose, made fit to be shown.

A name, a line or an address that comes from outside goes through `printable` on
its way into a log, a terminal or a page: it may hold the escape sequences that a
terminal obeys, a line end that forges a second log record, or marks that turn the
direction of writing round.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["printable"]

_PLAIN: Final = re.compile(r"[ -~]*")


def printable(text: str, keep: str = "") -> str:
    r"""Return *text* on one line, with nothing in it that a terminal obeys.

    Control characters (C0, C1, DEL), line ends, format characters (such as those
    that reverse the direction of writing), surrogates, and code points that are
    private or unassigned become ``\x1b``, ``\u202e``, ``\U000e0001``. Characters
    in *keep* stay as they are. A backslash stays one: what is printable already
    is returned unchanged.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(char if _is_shown(char) or char in keep else _escape(char) for char in text)


def _is_shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
