"""Escaping of text that a peer chose.

Names, lines and addresses from outside go through `printable` before they are written
to a log, a terminal or a page: they may contain escape sequences that a terminal obeys,
a line end that forges a second log record, or characters that reverse the direction of
writing.
"""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]


def printable(text: str, keep: str = "") -> str:
    r"""Return *text* on one line, without characters that control a terminal.

    Control characters (C0, C1, DEL), line ends, format characters (such as those that
    reverse the direction of writing), surrogates, and private or unassigned code points
    are escaped as ``\x1b``, ``\u202e`` or ``\U000e0001``. Characters in *keep* are not.
    Backslashes are not doubled, so printable text is returned unchanged.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_shown(char) or char in keep else _escape(char) for char in text)


def _is_shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
