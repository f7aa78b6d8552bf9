"""Received bytes that were not read yet, and the search for delimiters in them.

Invariants:

- The results depend only on the bytes, never on the pieces in which they arrived.
- A repeated search for the same delimiter does not scan bytes again, however many pieces
  a line arrives in: it resumes ``len(delimiter) - 1`` bytes before the end of what was
  searched.
- A byte is copied a bounded number of times. A piece that arrives while nothing is unread
  is kept as it is, and lines are sliced from it; only if another piece arrives before it
  is used up are both joined in a bytearray.
- An empty buffer owns no memory.
"""

from __future__ import annotations

__all__ = ["INCOMPLETE", "TOO_LONG", "ReceiveBuffer"]

INCOMPLETE = 0
TOO_LONG = -1

_COPY_TWICE_BELOW = 4096  # bytes; below this, slicing twice is cheaper than a memoryview


class ReceiveBuffer:
    """Unread bytes, in order of arrival."""

    __slots__ = ("_last_delimiter", "_searched", "_start", "data")

    def __init__(self, piece: bytes = b"") -> None:
        # bytes: one piece as it arrived; bytearray: joined pieces; empty if nothing is unread
        self.data: bytes | bytearray = piece
        self._start = 0  # where the unread part of data begins (0 in a bytearray)
        self._last_delimiter = b""  # the delimiter of the last search ...
        self._searched = 0  # ... and how many unread bytes are known not to start it

    def __len__(self) -> int:
        return len(self.data) - self._start

    def feed(self, piece: bytes) -> None:
        """Append *piece* to the unread bytes."""
        data = self.data
        if self._start == len(data):
            self.data = piece
            self._start = 0
        elif isinstance(data, bytearray):
            data += piece
        else:
            joined = bytearray(memoryview(data)[self._start :])
            joined += piece
            self.data = joined
            self._start = 0

    def find(self, delimiter: bytes, limit: int) -> int:
        """Return how many bytes a read up to and including *delimiter* would return.

        Returns:
            The number of bytes, at most *limit*; `INCOMPLETE` if the delimiter has not
            arrived; or `TOO_LONG` as soon as it is certain that the result would be
            longer than *limit*.
        """
        if delimiter != self._last_delimiter:
            self._last_delimiter = delimiter
            self._searched = 0
        data, start = self.data, self._start
        size = len(delimiter)
        at = data.find(delimiter, start + self._searched, start + limit)
        if at >= 0:
            self._searched = at - start
            return at - start + size
        held = len(data) - start
        if held + size <= limit:
            self._searched = max(held - size + 1, 0)
            return INCOMPLETE
        self._searched = max(min(held, limit) - size + 1, 0)
        if held >= limit or held - self._partial_delimiter_length(delimiter) + size > limit:
            return TOO_LONG
        return INCOMPLETE

    def _partial_delimiter_length(self, delimiter: bytes) -> int:
        """Return how many of the last unread bytes may be the start of *delimiter*."""
        held = len(self)
        for count in range(min(len(delimiter) - 1, held), 0, -1):
            if self.data.endswith(delimiter[:count]):
                return count
        return 0

    def take(self, count: int) -> bytes:
        """Remove and return the first *count* unread bytes; there must be that many."""
        data, start = self.data, self._start
        end = start + count
        self._searched = self._searched - count if self._searched > count else 0
        if end == len(data):
            self.data = b""
            self._start = 0
            if start == 0:
                return bytes(data)  # no copy if it is bytes
            return bytes(data[start:])
        if isinstance(data, bytes):
            self._start = end
            return data[start:end]
        if count < _COPY_TWICE_BELOW:
            taken = bytes(data[:count])
        else:
            with memoryview(data) as view:
                taken = bytes(view[:count])
        del data[:count]
        return taken

    def peek(self) -> bytes:
        """Return a copy of all unread bytes."""
        return bytes(memoryview(self.data)[self._start :])

    def clear(self) -> None:
        """Discard all unread bytes and free their memory."""
        self.data = b""
        self._start = self._searched = 0
