"""The numbers in frames (RFC 6455, section 5.2), and what is wrong with a frame."""

from __future__ import annotations

from typing import Final

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "FIN",
    "PING",
    "PONG",
    "RSV1",
    "TEXT",
    "Failure",
]

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

FIN: Final = 0x80  # it is the last frame of its message
RSV1: Final = 0x40  # the message is compressed (RFC 7692)


class Failure(Exception):  # noqa: N818 - of the peer, which is told
    """What a peer sent is invalid, or beyond a limit.

    Args:
        code: of the close frame that tells the peer.
        reason: likewise.
        limit: the field of `Limits` that was exceeded.
    """

    def __init__(self, code: int, reason: str, limit: str | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.limit = limit
