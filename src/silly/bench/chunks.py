"""The chunked transfer coding, decoded without looking beyond its end (RFC 9112, section 7.1).

The parser of `silly.net.http.client_session` takes whole pieces, and does not tell where in a
piece a body has ended; who pipelines requests needs that.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Chunks"]

_MAX_LINE: Final = 4096  # bytes of the line with a size, and of a trailer
_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class Chunks:
    """One body: bytes in, pieces out."""

    __slots__ = ("_left", "_line", "_pieces", "_state", "_trailer", "is_complete")

    def __init__(self) -> None:
        self.is_complete = False
        """The last chunk and the trailer have come."""
        self._state = "size"
        self._left = 0  # bytes of the present chunk
        self._line = b""  # the beginning of an incomplete line
        self._trailer = 0  # bytes
        self._pieces: list[bytes] = []

    def feed(self, data: bytes, at: int = 0) -> int:
        """Take *data* from *at* on; return where it goes beyond the body's end, or its size.

        Raises:
            ValueError: it is not chunked.
        """
        size = len(data)
        while at < size and not self.is_complete:
            if self._state == "data":
                stop = min(size, at + self._left)
                self._pieces.append(data[at:stop])
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._state = "after data"
                continue
            end = data.find(b"\n", at)
            stop = size if end < 0 else end + 1
            self._line += data[at:stop]
            at = stop
            if len(self._line) > _MAX_LINE:
                raise ValueError("a line between two chunks is too long")
            if end >= 0:
                line, self._line = self._line, b""
                self._take(line)
        return at

    def take(self) -> list[bytes]:
        """Return the pieces of the body that have come since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _take(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise ValueError("a line between two chunks does not end with CR LF")
        line = line[:-2]
        if self._state == "after data":
            if line:
                raise ValueError("a chunk does not end where its size says")
            self._state = "size"
        elif self._state == "size":
            found = _SIZE.fullmatch(line)
            if found is None:
                raise ValueError("invalid size of a chunk")
            self._left = int(found[1], 16)
            self._state = "data" if self._left else "trailer"
        elif not line:
            self.is_complete = True
        else:
            self._trailer += len(line)
            if self._trailer > _MAX_LINE or _FIELD.fullmatch(line) is None:
                raise ValueError("invalid trailer")
