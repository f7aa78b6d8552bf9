r"""The pattern of RFC 864: lines of 72 characters, each starting one character later.

It rotates through the 95 printing characters of ASCII, so it repeats after 95 lines.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BLOCK", "DATAGRAM_MAX", "LINE", "datagram", "line"]

LINE: Final = 72  # characters, without CR LF
DATAGRAM_MAX: Final = 512  # characters
_RING: Final = bytes(range(0x20, 0x7F))


def line(number: int) -> bytes:
    r"""Return line *number* of the pattern, counted from 0, with its ``\r\n``."""
    at = number % len(_RING)
    return (_RING * 2)[at : at + LINE] + b"\r\n"


BLOCK: Final = b"".join(line(number) for number in range(len(_RING)))
"""The whole pattern, which then repeats."""


def datagram(length: int) -> bytes:
    """Return the first *length* bytes of the pattern, `DATAGRAM_MAX` at most."""
    return BLOCK[: min(length, DATAGRAM_MAX)]
