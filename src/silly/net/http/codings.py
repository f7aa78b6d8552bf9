"""Content codings: how the body of a reply is compressed (RFC 9110, section 8.4.1).

gzip and deflate by the standard library; br if `brotli` (1.2 or newer) is installed, zstd from
Python 3.14 on or with `backports.zstd`. All decompress step by step: a small body that expands
to gigabytes is never in memory as a whole.
"""

from __future__ import annotations

import importlib
import zlib
from typing import Any, Final, Protocol

from silly.net.http.errors import ReplyError

__all__ = ["Decoder", "accepted", "decoder_of"]

STEP: Final = 256 * 1024  # bytes of output at a time


class _Stage(Protocol):
    """Decompresses one member of a compressed body."""

    def decompress(self, data: bytes) -> bytes:
        """Return at most `STEP` bytes of output."""

    @property
    def needs_input(self) -> bool: ...
    @property
    def is_finished(self) -> bool: ...
    @property
    def rest(self) -> bytes: ...


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._stage = zlib.decompressobj(wbits)
        self._is_full = False

    def decompress(self, data: bytes) -> bytes:
        output = self._stage.decompress(self._stage.unconsumed_tail + data, STEP)
        self._is_full = len(output) == STEP
        return output

    @property
    def needs_input(self) -> bool:
        return not self._is_full and not self._stage.unconsumed_tail

    @property
    def is_finished(self) -> bool:
        return self._stage.eof

    @property
    def rest(self) -> bytes:
        return self._stage.unused_data


def _gzip(_: bytes) -> _Stage:
    return _Zlib(31)


def _deflate(start: bytes) -> _Stage:
    # zlib's format (RFC 1950); some servers send the bare one (RFC 1951).
    is_zlib = start[0] & 0x0F == 8 and int.from_bytes(start[:2]) % 31 == 0
    return _Zlib(15 if is_zlib else -15)


class _Brotli:
    rest = b""

    def __init__(self, module: Any) -> None:
        self._stage = module.Decompressor()

    def decompress(self, data: bytes) -> bytes:
        output: bytes = self._stage.process(data, output_buffer_limit=STEP)
        return output

    @property
    def needs_input(self) -> bool:
        return bool(self._stage.can_accept_more_data())

    @property
    def is_finished(self) -> bool:
        return bool(self._stage.is_finished())


class _Zstd:
    def __init__(self, module: Any) -> None:
        self._stage = module.ZstdDecompressor()

    def decompress(self, data: bytes) -> bytes:
        output: bytes = self._stage.decompress(data, STEP)
        return output

    @property
    def needs_input(self) -> bool:
        return bool(self._stage.needs_input)

    @property
    def is_finished(self) -> bool:
        return bool(self._stage.eof)

    @property
    def rest(self) -> bytes:
        return bytes(self._stage.unused_data)


def _module(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_brotli: Final = _module("brotli")
_zstd: Final = _module("compression.zstd", "backports.zstd")

_CODINGS: Final[dict[str, Any]] = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate}
if hasattr(getattr(_brotli, "Decompressor", None), "can_accept_more_data"):
    _CODINGS["br"] = lambda _: _Brotli(_brotli)
if _zstd is not None:
    _CODINGS["zstd"] = lambda _: _Zstd(_zstd)

accepted: Final = ", ".join(name for name in _CODINGS if name != "x-gzip")
"""The value of ``accept-encoding``."""


def decoder_of(coding: str) -> Decoder | None:
    """Return what decodes a body with this ``content-encoding``; None if nothing does."""
    make = _CODINGS.get(coding.strip().lower())
    return None if make is None else Decoder(make)


class Decoder:
    """Decodes one body: `feed`, then `take` until it returns nothing."""

    __slots__ = ("_input", "_make", "_stage")

    def __init__(self, make: Any) -> None:
        self._make = make
        self._stage: _Stage | None = None
        self._input = b""

    def feed(self, data: bytes) -> None:
        """Take a piece of the compressed body."""
        self._input += data

    def take(self, *, is_last: bool = False) -> bytes:
        """Return a piece of the decoded body; empty if that needs more input.

        Args:
            is_last: no more input will come.

        Raises:
            ReplyError: the compressed data is invalid, or incomplete.
        """
        try:
            while True:
                data = b""
                if self._stage is None:
                    if len(self._input) < (1 if is_last else 2):
                        return b""
                    self._stage = self._make(self._input)
                if self._stage.needs_input:
                    data, self._input = self._input, b""
                output: bytes = self._stage.decompress(data)
                if self._stage.is_finished:  # another member may follow
                    self._input = (self._stage.rest + self._input).lstrip(b"\0")
                    self._stage = None
                if output:
                    return output
                if self._stage is not None and self._stage.needs_input and not self._input:
                    break
        except Exception as error:  # noqa: BLE001 - each library has its own
            raise ReplyError(f"the compressed body is invalid: {error}") from None
        if is_last:
            raise ReplyError("the compressed body is incomplete")
        return b""
