"""The same data to many connections: one buffer, and nobody is waited for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from silly._engine import engine
from silly._engine.stream_errors import Buffer
from silly._values.arguments import size
from silly.errors import WriteQueueFull
from silly.net.conn import Conn

__all__ = ["SLOW", "Slow", "broadcast", "checked_slow"]

SLOW: Final = 1024 * 1024  # unsent bytes

Slow = Literal["skip", "close"]


def broadcast(
    conns: Iterable[Conn], data: Buffer, slow: Slow = "skip", *, limit: int = SLOW
) -> int:
    """Write *data* to each of *conns*, without waiting for any; return to how many.

    It is one buffer for all: what the operating system does not accept at once is kept as a
    reference if it is long. Connections that are closed or lost are passed over.

    Args:
        data: bytes-like.
        slow: what to do with a connection that has more than *limit* bytes unsent, because its
            peer reads too slowly: ``"skip"`` leaves out this data, ``"close"`` closes it.
        limit: bytes.

    Raises:
        TypeError, ValueError: an argument is of another type or value.
    """
    closes = checked_slow(slow, limit)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data must be bytes-like, not {type(data).__name__}")
    data = bytes(data)
    receivers = list(conns)
    left = engine.write_each(receivers, data, limit)
    count = len(receivers) - len(left)
    for index in left:
        conn = receivers[index]
        if conn.unsent_bytes > limit:
            if closes:
                conn.close()
            continue
        try:
            conn.write(data)
        except (OSError, WriteQueueFull):
            continue  # it has ended
        count += 1
    return count


def checked_slow(slow: str, limit: int) -> bool:
    """Return whether slow connections are to be closed."""
    size(limit, "limit")
    if slow not in {"skip", "close"}:
        raise ValueError(f"slow must be 'skip' or 'close', not {slow!r}")
    return slow == "close"
