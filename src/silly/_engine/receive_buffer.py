"""Bytes that arrived and were not read yet.

The rules this buffer keeps:

- What a search or a take returns depends on the bytes alone, never on the
  pieces in which they were fed.
- A byte is looked at once by the search for one delimiter, however many pieces
  the line came in: a search that failed resumes ``len(delimiter) - 1`` bytes
  before the end of what it saw.
- A byte is copied a bounded number of times. A piece that arrives while
  nothing is unread is kept as it is, and lines are sliced from it; only when
  another piece arrives before it is used up are both gathered in a bytearray.
- An empty buffer owns no memory.
"""

from __future__ import annotations

__all__ = ["INCOMPLETE", "TOO_LONG", "ReceiveBuffer"]

INCOMPLETE = 0
TOO_LONG = -1

_COPY_TWICE_BELOW = 4096  # a slice of a slice is cheaper than a memoryview up to about here


class ReceiveBuffer:
    """Unread bytes, in the order in which they arrived."""

    __slots__ = ("_searched", "_sought", "_start", "data")

    def __init__(self) -> None:
        # bytes: one piece as it came; bytearray: gathered; empty if and only if nothing is unread
        self.data: bytes | bytearray = b""
        self._start = 0  # where the unread part of data begins (0 in a bytearray)
        self._sought = b""  # the delimiter of the last search ...
        self._searched = 0  # ... and how many unread bytes cannot begin it

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
            gathered = bytearray(memoryview(data)[self._start :])
            gathered += piece
            self.data = gathered
            self._start = 0

    def find(self, delimiter: bytes, limit: int) -> int:
        """Tell how many bytes a read up to and with *delimiter* would return.

        Returns:
            The number of bytes, at most *limit*; or `INCOMPLETE` while that
            cannot be told; or `TOO_LONG` as soon as it is certain that it
            would be more than *limit*.
        """
        if delimiter != self._sought:
            self._sought = delimiter
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
        if held >= limit or held - self._begun(delimiter) + size > limit:
            return TOO_LONG
        return INCOMPLETE

    def _begun(self, delimiter: bytes) -> int:
        """How many of the last unread bytes may be the beginning of *delimiter*."""
        held = len(self)
        for count in range(min(len(delimiter) - 1, held), 0, -1):
            if self.data.endswith(delimiter[:count]):
                return count
        return 0

    def take(self, count: int) -> bytes:
        """Remove and return the first *count* unread bytes; there must be as many."""
        data, start = self.data, self._start
        end = start + count
        self._searched = self._searched - count if self._searched > count else 0
        if end == len(data):
            self.data = b""
            self._start = 0
            if start == 0:
                return bytes(data)  # of bytes: the object itself
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
        """Forget all unread bytes and give their memory back."""
        self.data = b""
        self._start = self._searched = 0
