"""The fields of version 2: type, length, value (section 2.2 of the specification).

A registered type may occur once: a second one would leave open which of them counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from silly.net.proxy.endpoints import HeaderError

__all__ = [
    "ALPN",
    "AUTHORITY",
    "CRC32C",
    "HEAD",
    "NOOP",
    "TLS",
    "TLV",
    "UNIQUE_ID",
    "join",
    "spans",
    "text_of",
    "unique",
]

TLV = tuple[int, bytes]

HEAD: Final = 3  # bytes before the value

ALPN: Final = 0x01
AUTHORITY: Final = 0x02
CRC32C: Final = 0x03
NOOP: Final = 0x04
UNIQUE_ID: Final = 0x05
TLS: Final = 0x20


def spans(data: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield the type of each TLV in *data* from *start* on, and where its value begins and ends.

    Raises:
        HeaderError: the last one is incomplete.
    """
    while start < len(data):
        begin = start + HEAD
        start = begin + int.from_bytes(data[start + 1 : begin], "big")
        if begin > len(data) or start > len(data):
            raise HeaderError("a TLV is longer than what is left of the header")
        yield data[begin - HEAD], begin, start


def unique(tlvs: Iterable[TLV], registered: Mapping[int, str]) -> dict[int, bytes]:
    """Return the *tlvs* of *registered* types by type.

    Raises:
        HeaderError: there are two of one type.
    """
    found: dict[int, bytes] = {}
    for kind, value in tlvs:
        if kind in registered:
            if kind in found:
                raise HeaderError(f"it has two {registered[kind]} TLVs")
            found[kind] = value
    return found


def text_of(value: bytes | None, encoding: str, name: str) -> str | None:
    """Return *value* as text.

    Raises:
        HeaderError: it is not text in *encoding*.
    """
    try:
        return None if value is None else value.decode(encoding)
    except UnicodeDecodeError:
        raise HeaderError(f"its {name} is not {encoding.upper()} text") from None


def join(tlvs: Iterable[TLV]) -> bytes:
    """Return *tlvs* as bytes.

    Raises:
        ValueError: a value is longer than 65,535 bytes.
    """
    parts = []
    for kind, value in tlvs:
        if len(value) > 0xFFFF:
            raise ValueError(f"TLV {kind:#04x} has {len(value)} bytes; 65535 are the most")
        parts.append(bytes((kind,)) + len(value).to_bytes(2, "big") + value)
    return b"".join(parts)
