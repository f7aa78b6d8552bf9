"""What a parser makes of bytes, in whatever pieces they come; frames as peers make them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from silly.net.websocket import frames as python
from silly.net.websocket.codes import FIN
from silly.net.websocket.deflate import Inflater

KEY = b"\x37\xfa\x21\x3d"


class Understood(NamedTuple):
    messages: list[str | bytes]
    controls: list[tuple[int, bytes]]
    failure: tuple[int, str, str | None] | None
    is_partial: bool


def understand(
    kind: Any,
    data: bytes,
    cuts: Iterable[int] = (),
    *,
    is_masked: bool = False,
    max_message: int = 1000,
    max_fragments: int = 100,
    is_deflated: bool = False,
    keeps_window: bool = False,
) -> Understood:
    """Feed *data* to a parser, cut in pieces at *cuts*."""
    inflater = Inflater(keeps_window) if is_deflated else None
    parser = kind.Parser(is_masked, max_message, max_fragments, inflater)
    messages: list[str | bytes] = []
    start = 0
    for end in (*cuts, len(data)):
        messages += parser.receive(data[start:end])
        start = end
    failure = parser.failure
    return Understood(
        messages,
        parser.controls or [],
        None if failure is None else (failure.code, failure.reason, failure.limit),
        parser.is_partial,
    )


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a frame that is not masked."""
    return python.frame((FIN if fin else 0) | rsv | opcode, payload)


def from_client(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a frame that is masked."""
    return python.frame((FIN if fin else 0) | rsv | opcode, payload, KEY)
