r"""Conversions of bytes to send or to show: CR LF, safe text, hexdumps, timestamps.

Each class takes a stream in pieces (`feed`) and returns what is complete so far;
`finish` returns the rest. The output does not depend on how the stream is cut up.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Final, Protocol

from silly.text import printable

__all__ = ["CRLF", "HexDump", "Plain", "SafeText", "Shape", "Stamped", "bytes_per_row", "safe"]


class Shape(Protocol):
    """What happens to received bytes before they are shown."""

    def feed(self, data: bytes) -> bytes:
        """Take *data*; return what can be shown now."""

    def finish(self) -> bytes:
        """Return the rest, at the end of the stream."""


class Plain:
    """Shows bytes unchanged."""

    def feed(self, data: bytes) -> bytes:
        """Return *data*."""
        return data

    def finish(self) -> bytes:
        """Return nothing."""
        return b""


class CRLF:
    r"""Inserts ``\r`` before each ``\n`` that has none (like ``nc -C``)."""

    def __init__(self) -> None:
        self._after_cr = False

    def feed(self, data: bytes) -> bytes:
        """Return *data* with CR LF line ends."""
        if not data:
            return b""
        first = data[:1] if self._after_cr and data[:1] == b"\n" else b""
        self._after_cr = data[-1:] == b"\r"
        return first + re.sub(rb"(?<!\r)\n", b"\r\n", data[len(first) :])


# ----------------------------------------------------------------------- safe text


_CARETS: Final = {code: "^" + chr(code ^ 0x40) for code in (*range(0x20), 0x7F)}
for _kept in "\n\t":
    del _CARETS[ord(_kept)]


def safe(text: str) -> str:
    r"""Return *text* without anything that a terminal would obey, except ``\n`` and ``\t``.

    ASCII control characters become ``^X``, as terminals echo them; others are escaped
    (`printable`).
    """
    return printable(text.translate(_CARETS), keep="\n\t")


class SafeText:
    r"""UTF-8 text that is safe for a terminal; bytes that are not UTF-8 become ``\xff``.

    ``\r\n`` is a line end; any other ``\r`` is shown as ``^M``.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held_cr = False

    def text(self, data: bytes, *, final: bool = False) -> str:
        """Return the text that *data* completes."""
        text = ("\r" if self._held_cr else "") + self._decoder.decode(data, final)
        self._held_cr = not final and text.endswith("\r")
        if self._held_cr:
            text = text[:-1]
        return safe(text.replace("\r\n", "\n"))

    def feed(self, data: bytes) -> bytes:
        """Return the text that *data* completes, as UTF-8."""
        return self.text(data).encode()

    def finish(self) -> bytes:
        """Return an unfinished character, escaped."""
        return self.text(b"", final=True).encode()


# ------------------------------------------------------------------------ hexdumps


def bytes_per_row(columns: int) -> int:
    """Return how many bytes fit in a row of a hexdump *columns* wide: 16, 8 or 4."""
    return next((count for count in (16, 8) if len(_row(0, bytes(count), count)) <= columns), 4)


def _row(offset: int, data: bytes, width: int) -> str:
    pairs = [f"{byte:02x}" for byte in data]
    half = max(4, width // 2)
    hexes = " ".join(pairs[:half])
    if width > half:
        hexes += "  " + " ".join(pairs[half:])
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
    room = 3 * width - 1 + (1 if width > half else 0)
    return f"{offset:08x}  {hexes.rstrip():<{room}}  |{shown}|"


class HexDump:
    """Rows like those of ``hexdump -C``: the offset, the bytes, the characters.

    With *at_once*, each piece is shown when it arrives, even in a short row; otherwise
    every row but the last is full.
    """

    def __init__(self, width: int = 16, *, at_once: bool = False) -> None:
        self._width = width
        self._at_once = at_once
        self._offset = 0
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return the rows that *data* completes."""
        self._held += data
        whole = len(self._held) if self._at_once else len(self._held) // self._width * self._width
        return self._rows(whole)

    def finish(self) -> bytes:
        """Return the last row, if it is not full."""
        return self._rows(len(self._held))

    def _rows(self, count: int) -> bytes:
        data, self._held = self._held[:count], self._held[count:]
        rows = [
            _row(self._offset + at, data[at : at + self._width], self._width) + "\n"
            for at in range(0, count, self._width)
        ]
        self._offset += count
        return "".join(rows).encode()


# ---------------------------------------------------------------------- timestamps


class Stamped:
    """Puts the time before each line that another shape returns."""

    def __init__(self, shape: Shape, clock: Callable[[], str]) -> None:
        self._shape = shape
        self._clock = clock
        self._at_start = True

    def feed(self, data: bytes) -> bytes:
        """Return what *data* completes, each new line with the time."""
        return self._stamp(self._shape.feed(data))

    def finish(self) -> bytes:
        """Return the rest of the other shape."""
        return self._stamp(self._shape.finish())

    def _stamp(self, data: bytes) -> bytes:
        if not data:
            return b""
        stamp = self._clock().encode() + b" "
        lines = data.split(b"\n")
        ended = lines.pop() == b""
        parts = [line + b"\n" for line in lines] + ([] if ended else [data.rpartition(b"\n")[2]])
        stamped = [stamp + part for part in parts]
        if not self._at_start:
            stamped[0] = parts[0]
        self._at_start = ended
        return b"".join(stamped)
