"""One message to many WebSockets: encoded once, and nobody is waited for."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from silly._engine import engine
from silly.errors import WriteQueueFull
from silly.net.broadcasting import SLOW, Slow, checked_slow
from silly.net.websocket.connection import WebSocket
from silly.net.websocket.session import PLAIN, Encoder

__all__ = ["broadcast"]


def broadcast(
    sockets: Iterable[WebSocket],
    message: str | bytes | bytearray | memoryview,
    slow: Slow = "skip",
    *,
    limit: int = SLOW,
) -> int:
    """Send *message* to each of *sockets*, without waiting for any; return to how many.

    It is encoded once, and compressed at most once. WebSockets that are closed, or being
    closed, are passed over.

    Args:
        message: a `str` is sent as text, bytes as binary.
        slow: what to do with a WebSocket that has more than *limit* bytes unsent, because its
            peer reads too slowly: ``"skip"`` leaves out this message, ``"close"`` closes it
            with 1008.
        limit: bytes.

    Raises:
        TypeError, ValueError: an argument is of another type or value.
    """
    closes = checked_slow(slow, limit)
    encoder = Encoder(message)
    left = list(sockets)
    count = len(left)
    left = _write(left, PLAIN, encoder, limit)
    for encoding in {each._session.encoding for each in left} - {PLAIN, None}:
        left = _write(left, encoding, encoder, limit)
    count -= len(left)
    for websocket in left:
        # Not by `is_open` and `send`: their calls cost more than what they do.
        session, conn = websocket._session, websocket._conn
        if session.is_closing or session.is_over or not conn.is_alive:
            continue
        if conn.unsent_bytes > limit:
            if closes:
                websocket._begin_close(1008, "too slow")
            continue
        try:
            conn.write(session.encoded(encoder))
        except (OSError, WriteQueueFull):
            continue  # it has ended
        count += 1
    return count


def _write(
    websockets: list[WebSocket], encoding: Hashable, encoder: Encoder, limit: int
) -> list[WebSocket]:
    """Write to those with this *encoding* that have nothing unsent; return the others."""
    conns = [each._conn if each._session.encoding is encoding else None for each in websockets]
    left = engine.write_each(conns, encoder.frame(encoding), limit)
    return [websockets[index] for index in left]
