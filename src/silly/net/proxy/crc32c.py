"""CRC-32C (Castagnoli), the checksum of version 2: RFC 9260, appendix A."""

from __future__ import annotations

from typing import Final

__all__ = ["crc32c"]

_POLYNOMIAL: Final = 0x82F63B78  # with its bits reversed


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE: Final = tuple(map(_entry, range(256)))


def crc32c(data: bytes) -> int:
    """Return the checksum of *data*."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
