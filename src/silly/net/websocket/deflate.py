"""Compressed messages: permessage-deflate (RFC 7692), negotiated and done with bounded memory.

Memory is bounded by keeping none. An end that compresses may begin anew with each message
whenever it wants (section 7.2.1), and a server may require the same of its clients (section
7.1.1.2); both is done here. So an idle connection holds no state of zlib, one that compresses
holds it for as long as a call takes, and what is sent to many is compressed only once
(broadcast.py). Only a client whose server does not promise to begin anew keeps a window.

`experiments/websocket_deflate.py` measures the price: what kept windows would save.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from silly.net.websocket.codes import Failure

__all__ = ["LEAST", "OFFER", "Deflate", "Inflater", "accept", "agreed", "shared"]

NAME: Final = "permessage-deflate"
OFFER: Final = f"{NAME}; client_max_window_bits"  # what a client asks for

LEAST: Final = 128  # bytes: a shorter message hardly gets any shorter

_WINDOW: Final = 12  # bits: 4 KiB, for compressing; with _MEMORY, it takes 32 KiB
_MEMORY: Final = 5
_LEVEL: Final = 6
_ANY_WINDOW: Final = 15  # bits, for decompressing
_STATE: Final = 40 * 1024  # bytes that it takes (zlib.h: the window, and 7 KiB)
_PIECE: Final = 65536  # bytes that are decompressed in one call

_END: Final = b"\x00\x00\xff\xff"  # what is left out at the end of a message (section 7.2.1)
_BITS: Final = re.compile(r"[89]|1[0-5]")
_SWITCHES: Final = ("server_no_context_takeover", "client_no_context_takeover")


@dataclass(frozen=True, slots=True, eq=False)
class Deflate:
    """What the two ends agreed on, for one of them; `shared` makes one for all that agree on it."""

    bits: int = _WINDOW
    """The size of the window that this end compresses with."""
    keeps_window: bool = False
    """Whether the peer's messages may refer to earlier ones."""

    def compress(self, data: bytes) -> bytes:
        """Return the payload of a message."""
        # With a window of 512 bytes, zlib refers to no more than 250 bytes before: it can take
        # the place of one of 256 bytes, which zlib does not know.
        compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -max(self.bits, 9), _MEMORY)
        compressed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return compressed[:-4]

    def inflater(self) -> Inflater:
        """Return what decompresses the messages of the peer."""
        return Inflater(self.keeps_window)


shared: Final = functools.cache(Deflate)


class Inflater:
    """Decompresses messages; see `silly.net.websocket.frames.Inflating`."""

    __slots__ = ("_keeps_window", "_zlib")

    @property
    def held(self) -> int:
        """Bytes of memory that it takes now."""
        return 0 if self._zlib is None else _STATE

    def __init__(self, keeps_window: bool) -> None:
        self._keeps_window = keeps_window
        self._zlib: Any = None

    def feed(self, data: bytes, most: int) -> bytes:
        """Return what *data* continues; more than *most* bytes, but not much more, if it is."""
        inflated = bytearray()
        try:
            while data:
                if self._zlib is None:
                    self._zlib = zlib.decompressobj(-_ANY_WINDOW)
                inflated += self._zlib.decompress(data, min(_PIECE, most + 1 - len(inflated)))
                if len(inflated) > most:
                    break
                data = self._zlib.unconsumed_tail
                if self._zlib.eof:  # a last block (section 7.2.3.4); another may follow
                    data = self._zlib.unused_data
                    self._zlib = None
        except zlib.error:
            raise Failure(1007, "invalid compressed data") from None
        return bytes(inflated)

    def finish(self, most: int) -> bytes:
        """Return the end of the message, likewise."""
        inflated = self.feed(_END, most)
        if not self._keeps_window:
            self._zlib = None
        return inflated


# ------------------------------------------------------------------------ negotiation


def accept(offers: Iterable[str]) -> tuple[Deflate, str] | None:
    """Return what a server makes of *offers*, and what it answers; None: it declines.

    Args:
        offers: the values of ``Sec-WebSocket-Extensions``.
    """
    for name, parameters in _parsed(offers):
        if name != NAME or parameters is None or not _is_offer(parameters):
            continue
        bits = min(int(parameters.get("server_max_window_bits") or _WINDOW), _WINDOW)
        answer = f"{NAME}; {_SWITCHES[0]}; {_SWITCHES[1]}"
        if "server_max_window_bits" in parameters:
            answer += f"; server_max_window_bits={bits}"
        return shared(bits, False), answer
    return None


def agreed(answers: Iterable[str]) -> Deflate | None:
    """Return what a client makes of a server's *answers* to `OFFER`; None: nothing was agreed.

    Raises:
        ValueError: it is no possible answer.
    """
    found = _parsed(answers)
    if not found:
        return None
    (name, parameters), *others = found
    if name != NAME or others:
        raise ValueError("an extension that was not asked for")
    if parameters is None or not _is_known(parameters) or None in _windows(parameters):
        raise ValueError(f"invalid parameters of {NAME}")
    bits = min(int(parameters.get("client_max_window_bits") or _WINDOW), _WINDOW)
    return shared(bits, _SWITCHES[0] not in parameters)


def _is_offer(parameters: dict[str, str | None]) -> bool:
    return _is_known(parameters) and parameters.get("server_max_window_bits", "") is not None


def _windows(parameters: dict[str, str | None]) -> list[str | None]:
    """Return the sizes of windows; only a client may name one without a size."""
    return [value for name, value in parameters.items() if name not in _SWITCHES]


def _is_known(parameters: dict[str, str | None]) -> bool:
    """Return whether the names and the values of *parameters* are those of section 7.1."""
    for name, value in parameters.items():
        if name in _SWITCHES:
            if value is not None:
                return False
        elif name in {"server_max_window_bits", "client_max_window_bits"}:
            if value is not None and _BITS.fullmatch(value) is None:
                return False
        else:
            return False
    return True


def _parsed(values: Iterable[str]) -> list[tuple[str, dict[str, str | None] | None]]:
    """Return the extensions in *values*, with their parameters; None if one is there twice."""
    found: list[tuple[str, dict[str, str | None] | None]] = []
    for each in ",".join(values).split(","):
        name, *rest = (part.strip() for part in each.split(";"))
        if not name:
            continue
        parameters: dict[str, str | None] = {}
        for part in rest:
            key, equals, value = part.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"') if equals else None
        found.append((name.lower(), parameters if len(parameters) == len(rest) else None))
    return found
