"""A small filter for tests: it hides bytes with a key, in records, after a handshake.

On the wire: a hello of each end, then records of a length (4 bytes) and that many bytes
combined with the key; a record of length 0 is the last.
"""

from __future__ import annotations

HELLO = b"XOR1"


class Xor:
    """The bytes of a record, each combined with *key*."""

    def __init__(self, key: int) -> None:
        self._table = bytes(byte ^ key for byte in range(256))
        self._wire = bytearray()
        self._pending = HELLO
        self.is_ready = False
        self.is_ended = False
        self.info = None
        self.error: OSError | None = None

    @property
    def unopened(self) -> int:
        return len(self._wire)

    def open(self, wire: bytes) -> bytes:
        self._wire += wire
        plaintext = []
        if not self.is_ready:
            if len(self._wire) < len(HELLO):
                return b""
            if self._wire[: len(HELLO)] != HELLO:
                self._pending += b"no hello"
                self.error = ConnectionAbortedError(103, "The peer did not say hello")
                return b""
            del self._wire[: len(HELLO)]
            self.is_ready = True
        while len(self._wire) >= 4 and not self.is_ended:
            size = int.from_bytes(self._wire[:4], "big")
            if len(self._wire) < 4 + size:
                break
            plaintext.append(self._wire[4 : 4 + size].translate(self._table))
            del self._wire[: 4 + size]
            self.is_ended = size == 0
        return b"".join(plaintext)

    def seal(self, plaintext: bytes) -> bytes:
        records = []
        for start in range(0, len(plaintext), 10_000):
            piece = plaintext[start : start + 10_000]
            records.append(len(piece).to_bytes(4, "big") + piece.translate(self._table))
        return b"".join(records)

    def pending(self) -> bytes:
        pending, self._pending = self._pending, b""
        return pending

    def finish(self) -> bytes:
        return bytes(4)
