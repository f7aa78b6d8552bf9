r"""The characters of RFC 864: lines of 72, each of which begins one character later.

The 95 printing characters of ASCII go round, so after 95 lines they repeat.
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
"""One whole turn of the pattern: what follows it is the same again."""


def datagram(length: int) -> bytes:
    """Return the first *length* bytes of the pattern, `DATAGRAM_MAX` at most."""
    return BLOCK[: min(length, DATAGRAM_MAX)]
