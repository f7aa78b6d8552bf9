r"""Requests and their expected replies, by number.

Each connection has its own messages, which contain the numbers of the request and the
connection if there is room, so that one reply cannot be mistaken for another. The
layout of a generated payload of *size* bytes, without the newline of a line::

    0000000123 000004 abcdefghij…      request, connection, filler

Short payloads contain only the last digits of the request's number. In templates and
pairs, ``{seq}`` and ``{conn}`` stand for the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Protocol

from silly.bench.sizes import Sizes

__all__ = [
    "FRAMINGS",
    "Messages",
    "filled",
    "has_places",
    "listed",
    "mixed",
    "numbered",
    "unescape",
    "with_places",
]

FRAMINGS: Final = ("line", "fixed", "length-prefix", "raw")  # and "text": one of WebSocket
_LOW: Final = [b"%03d" % number for number in range(1000)]
_NUMBER, _HEADER = 10, 18  # digits of the number; bytes of number, connection and spaces
_VARIETY: Final = 4096  # random sizes to draw; they are used in turn


class Messages(Protocol):
    """The requests of one connection, and their expected replies."""

    reply_size: int | None
    """The size of every reply, in bytes; None if they differ."""

    def batch(self, first: int, count: int) -> tuple[bytes, bytes]:
        """Return requests *first*, *first* + 1, …, joined, and their replies, joined."""

    def reply(self, number: int) -> bytes:
        """Return the expected reply to request *number*."""

    def addressee(self, received: bytes) -> int | None:
        """Return the number of the connection that a reply names; None if it names none."""


# ---------------------------------------------------------------------- generated


class _Numbered:
    """Payloads of one size that contain their numbers; the reply equals the request (an echo)."""

    __slots__ = ("_block", "_high", "_low", "_lead", "_pre", "_post", "_sep", "reply_size")  # noqa: RUF023

    def __init__(self, framing: str, size: int, conn: int) -> None:
        body = size - 1 if framing == "line" else size
        self._lead = size.to_bytes(4, "big") if framing == "length-prefix" else b""
        self._high = max(0, min(body, _NUMBER) - 3)  # leading digits of the number
        self._low = _LOW if body >= 3 else [low[3 - body :] for low in _LOW]
        self._post = _rest(framing, body, conn)
        self._block = -1
        self._pre = self._sep = b""
        self.reply_size: int | None = len(self._lead) + size

    def _enter(self, block: int) -> None:
        """Prepare for the requests block * 1000 to block * 1000 + 999."""
        self._block = block
        digits = b"%07d" % (block % 10_000_000)
        self._pre = self._lead + digits[7 - self._high :]
        self._sep = self._post + self._pre

    def batch(self, first: int, count: int) -> tuple[bytes, bytes]:
        block, low = divmod(first, 1000)
        if block != self._block:
            self._enter(block)
        if count == 1:
            message = self._pre + self._low[low] + self._post
        elif low + count <= 1000:
            message = self._pre + self._sep.join(self._low[low : low + count]) + self._post
        else:
            here = 1000 - low
            message = self.batch(first, here)[0] + self.batch(first + here, count - here)[0]
        return message, message

    def reply(self, number: int) -> bytes:
        return self.batch(number, 1)[0]

    def addressee(self, received: bytes) -> int | None:
        header = received[len(self._lead) : len(self._lead) + _HEADER]
        found = re.fullmatch(rb"\d{10} (\d{6}) ", header)
        return int(found[1]) if found else None


@lru_cache(maxsize=64)
def _filler(framing: str, size: int) -> bytes:
    # A line must not contain a newline, a text is UTF-8; other payloads contain every byte.
    is_text = framing in {"line", "text"}
    alphabet = b"abcdefghijklmnopqrstuvwxyz" if is_text else bytes(range(256))
    return (alphabet * (size // len(alphabet) + 1))[:size]


def _rest(framing: str, body: int, conn: int) -> bytes:
    """Return what follows the number: connection, filler, newline."""
    rest = b" %06d " % (conn % 1_000_000) + _filler(framing, max(0, body - _HEADER))
    return rest[: max(0, body - _NUMBER)] + (b"\n" if framing == "line" else b"")


class _Mixed:
    """Payloads of several sizes, in a random order that then repeats."""

    reply_size: int | None = None

    def __init__(self, framing: str, sizes: Sequence[int], conn: int) -> None:
        self._sizes = sizes
        self._framing = framing
        self._conn = conn
        self._makers: dict[int, _Numbered] = {}

    def reply(self, number: int) -> bytes:
        size = self._sizes[number % len(self._sizes)]
        maker = self._makers.get(size)
        if maker is None:
            if len(self._makers) >= 64:  # bounds the memory for a wide range of sizes
                self._makers.clear()
            maker = self._makers[size] = _Numbered(self._framing, size, self._conn)
        return maker.reply(number)

    def batch(self, first: int, count: int) -> tuple[bytes, bytes]:
        message = b"".join([self.reply(number) for number in range(first, first + count)])
        return message, message

    def addressee(self, received: bytes) -> int | None:
        return next(iter(self._makers.values())).addressee(received)


Factory = Callable[[int], Messages]
"""Makes the messages for a connection, given its number."""


def numbered(framing: str, size: int) -> Factory:
    """Return a factory of payloads of *size* bytes."""
    return lambda conn: _Numbered(framing, size, conn)


def mixed(framing: str, sizes: Sizes, seed: int) -> Factory:
    """Return a factory of payloads of *sizes*, in an order that depends on *seed*."""
    drawn = sizes.draw(_VARIETY, seed)
    return lambda conn: _Mixed(framing, drawn, conn)


# ----------------------------------------------------------------- given by the user

_PLACES: Final = re.compile(rb"\{(seq|conn)\}")


def has_places(template: bytes) -> bool:
    """Return whether *template* contains ``{seq}`` or ``{conn}``."""
    return _PLACES.search(template) is not None


def with_places(url: str) -> str:
    """Undo what quoting has made of ``{seq}`` and ``{conn}``."""
    return re.sub("%7B(seq|conn)%7D", r"{\1}", url)


def filled(template: bytes, number: int, conn: int) -> bytes:
    """Return *template* with the numbers of the request and the connection."""
    return _PLACES.sub(lambda found: b"%d" % (number if found[1] == b"seq" else conn), template)


class _Listed:
    """The user's requests and replies, in turn, with ``{seq}`` and ``{conn}`` filled in."""

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]], conn: int) -> None:
        self._pairs = pairs
        self._conn = conn
        self._constant = not any(has_places(part) for pair in pairs for part in pair)
        sizes = {len(reply) for _, reply in pairs}
        self.reply_size = sizes.pop() if self._constant and len(sizes) == 1 else None

    def _fill(self, template: bytes, number: int) -> bytes:
        return template if self._constant else filled(template, number, self._conn)

    def reply(self, number: int) -> bytes:
        return self._fill(self._pairs[number % len(self._pairs)][1], number)

    def batch(self, first: int, count: int) -> tuple[bytes, bytes]:
        if self._constant and len(self._pairs) == 1:
            request, reply = self._pairs[0]
            return request * count, reply * count
        numbers = range(first, first + count)
        pairs = self._pairs
        requests = [self._fill(pairs[number % len(pairs)][0], number) for number in numbers]
        return b"".join(requests), b"".join([self.reply(number) for number in numbers])

    def addressee(self, received: bytes) -> int | None:  # noqa: ARG002 - not known
        return None


def listed(pairs: Sequence[tuple[bytes, bytes]]) -> Factory:
    """Return a factory of messages that takes *pairs* of request and reply in turn."""
    return lambda conn: _Listed(pairs, conn)


_ESCAPES: Final = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def unescape(text: str) -> bytes:
    r"""Return *text* as bytes, with ``\r \n \t \0 \\ \xNN`` replaced. Raises ValueError."""

    def stands_for(found: re.Match[bytes]) -> bytes:
        escape = found[1]
        if len(escape) == 3:
            return bytes.fromhex(escape[1:].decode())
        if escape not in _ESCAPES:
            raise ValueError(
                f"{text!r} has an unknown backslash escape: "
                r"known are \r, \n, \t, \0, \\ and \xNN"
            )
        return _ESCAPES[escape]

    data = text.encode("utf-8", "surrogateescape")
    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.|\Z)", stands_for, data, flags=re.DOTALL)


def framed(framing: str, payload: bytes) -> bytes:
    """Return *payload* with the newline or length that the framing needs."""
    if framing == "line":
        return payload if payload.endswith(b"\n") else payload + b"\n"
    return len(payload).to_bytes(4, "big") + payload if framing == "length-prefix" else payload
