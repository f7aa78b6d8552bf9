"""What kept windows would save in compressed WebSocket messages, and what they would hold.

For each way to compress (RFC 7692), the messages of a feed are compressed as one connection sends
them, and the memory that zlib holds for an idle connection is measured: of the end that compresses,
and of the one that decompresses. Sizes are exact; processor time is not measured.

Usage: python experiments/websocket_deflate.py [SIZE ...]

Sizes: bytes of a message, before compressing; without any: 200, 1000, 10000.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

MESSAGES: Final = 200
CONNECTIONS: Final = 50
TEXT: Final = """
the of and a to in is you that it he was for on are as with his they at be this have from or one
had by word but not what all were we when your can said there use an each which she do how their
if will up other about out many then them these so some her would make like him into time has look
two more write go see number no way could people my than first water
"""


@dataclass(frozen=True)
class Way:
    """A way to compress."""

    name: str
    bits: int
    """The window has 2 ** bits bytes."""
    memory: int
    """zlib's memLevel."""
    keeps: bool
    """Whether a message may refer to earlier ones."""


WAYS: Final = (
    Way("anew, 4 KiB (silly)", 12, 5, keeps=False),
    Way("anew, 32 KiB", 15, 8, keeps=False),
    Way("kept, 512 bytes", 9, 1, keeps=True),
    Way("kept, 4 KiB", 12, 5, keeps=True),
    Way("kept, 32 KiB", 15, 8, keeps=True),
)


def feed(size: int) -> list[bytes]:
    """Return the messages of a feed: JSON with the same keys, and text that differs."""
    chance, words = random.Random(1), TEXT.split()
    messages = []
    for number in range(MESSAGES):
        text = ""
        while len(text) < size - 110:
            text += chance.choice(words) + " "
        message = {
            "type": "message",
            "id": number,
            "room": f"room-{chance.randrange(20)}",
            "from": f"user-{chance.randrange(500)}",
            "time": 1_764_000_000 + number * 7,
            "text": text,
        }
        messages.append(json.dumps(message).encode())
    return messages


class Connection:
    """Both ends of a connection."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._deflater: Any = None
        self._inflater: Any = None

    def pass_on(self, message: bytes) -> int:
        """Compress and decompress *message*; return how many bytes were sent."""
        way = self._way
        if self._deflater is None:
            self._deflater = zlib.compressobj(6, zlib.DEFLATED, -way.bits, way.memory)
        compressed = self._deflater.compress(message)
        compressed += self._deflater.flush(zlib.Z_SYNC_FLUSH)
        if self._inflater is None:
            self._inflater = zlib.decompressobj(-way.bits)
        assert self._inflater.decompress(compressed) == message
        if not way.keeps:
            self._deflater = self._inflater = None
        return len(compressed) - 4  # its end is left out


def ratio(way: Way, messages: list[bytes]) -> float:
    """Return what compressed messages take, as a share of what they would take."""
    one = Connection(way)
    return sum(map(one.pass_on, messages)) / sum(map(len, messages))


def memory(way: Way, messages: list[bytes]) -> float:
    """Return the bytes that an idle connection holds, after a few messages."""
    few = messages[:5]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        connections = [Connection(way) for _ in range(CONNECTIONS)]
        for one, message in itertools.product(connections, few):
            one.pass_on(message)
        return (tracemalloc.get_traced_memory()[0] - before) / CONNECTIONS
    finally:
        tracemalloc.stop()


def lines(sizes: list[int]) -> Iterator[str]:
    """Yield the table."""
    yield f"{'':<22}{'KiB, idle':>12}" + "".join(f"{size:>8} B" for size in sizes)
    feeds = [feed(size) for size in sizes]
    for way in WAYS:
        shares = "".join(f"{ratio(way, messages):>10.2f}" for messages in feeds)
        yield f"{way.name:<22}{memory(way, feeds[0]) / 1024:>12.1f}{shares}"


if __name__ == "__main__":
    for line in lines([int(text) for text in sys.argv[1:]] or [200, 1000, 10_000]):
        print(line)
