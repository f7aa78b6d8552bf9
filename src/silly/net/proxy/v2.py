"""Version 2: a binary header (section 2.2 of the specification).

::

    signature (12)   version and command   family and protocol   length (2)
    addresses        TLVs …

The length is what follows it. The specification lets it be up to 65,535; here at most
`MAX_LENGTH`, because no header needs more: the addresses take 216 bytes at most, a server name
255, a client's certificate 1 or 2 KiB, and everything else some dozens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from silly.net.proxy import tlvs
from silly.net.proxy.crc32c import crc32c
from silly.net.proxy.endpoints import Endpoints, HeaderError, inet, inet6, is_inet6, packed
from silly.net.proxy.tlvs import CRC32C, NOOP, TLV

__all__ = [
    "HEAD",
    "LOCAL",
    "MAX_LENGTH",
    "PROXY",
    "SIGNATURE",
    "Message",
    "encode",
    "length",
    "parse",
]

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
HEAD: Final = 16  # bytes up to the length, and with it
MAX_LENGTH: Final = 4096

LOCAL: Final = "LOCAL"
PROXY: Final = "PROXY"

_COMMANDS: Final = {0x20: LOCAL, 0x21: PROXY}
_VERSION: Final = 2

_UNSPECIFIED: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_UNIX: Final = 0x31
_DATAGRAMS: Final = (0x12, 0x22, 0x32)
_PATH: Final = 108  # bytes of a Unix socket's address
_ADDRESSES: Final = {_UNSPECIFIED: 0, _TCP4: 12, _TCP6: 36, _UNIX: 2 * _PATH}  # bytes

_CHECKSUM: Final = 4  # bytes


@dataclass(frozen=True, slots=True)
class Message:
    """What a header says."""

    command: str
    """`PROXY`, or `LOCAL`: the load balancer connected for itself, such as for a health check."""
    endpoints: Endpoints | None
    tlvs: tuple[TLV, ...] = ()
    """Those with content: neither padding nor the checksum."""
    has_checksum: bool = False


def length(head: bytes) -> int:
    """Return how many bytes follow *head*, the first 16.

    Raises:
        HeaderError: it is certain already that the header is invalid.
    """
    if not head.startswith(SIGNATURE):
        raise HeaderError("it does not begin with the signature")
    version_and_command, family = head[12], head[13]
    if version_and_command >> 4 != _VERSION:
        raise HeaderError(f"version {version_and_command >> 4} is not 2")
    command = _COMMANDS.get(version_and_command)
    if command is None:
        raise HeaderError(f"command {version_and_command & 15} is neither LOCAL nor PROXY")
    size = int.from_bytes(head[14:HEAD], "big")
    if size > MAX_LENGTH:
        raise HeaderError(f"its length is {size}; {MAX_LENGTH} bytes are the most")
    if command == PROXY:
        if family in _DATAGRAMS:
            raise HeaderError("it is about datagrams, on a stream")
        if family not in _ADDRESSES:
            raise HeaderError(f"family and protocol {family:#04x} are not defined")
        if size < _ADDRESSES[family]:
            raise HeaderError("it is too short for its addresses")
    return size


def parse(header: bytes) -> Message:
    """Return what *header*, which is complete, says.

    Of a LOCAL header only the checksum is checked, if it has one; its content is ignored.

    Raises:
        HeaderError: it is invalid.
    """
    if len(header) < HEAD or len(header) != HEAD + length(header):
        raise HeaderError("it is incomplete")
    is_local = _COMMANDS[header[12]] == LOCAL
    family = header[13]
    fields: list[TLV] = []
    checksum_at = None
    try:
        for kind, begin, end in tlvs.spans(header, HEAD + _ADDRESSES.get(family, 0)):
            if kind == CRC32C:
                if end - begin != _CHECKSUM:
                    raise HeaderError(f"its checksum has {end - begin} bytes instead of 4")
                if checksum_at is not None:
                    raise HeaderError("it has two checksums")
                checksum_at = begin
            elif kind != NOOP:
                fields.append((kind, header[begin:end]))
    except HeaderError:
        if not is_local:
            raise
        return Message(LOCAL, None)
    if checksum_at is not None:
        end = checksum_at + _CHECKSUM
        content = header[:checksum_at] + bytes(_CHECKSUM) + header[end:]
        if crc32c(content) != int.from_bytes(header[checksum_at:end], "big"):
            raise HeaderError("its checksum is wrong")
    has_checksum = checksum_at is not None
    if is_local:
        return Message(LOCAL, None, has_checksum=has_checksum)
    return Message(PROXY, _endpoints(header, family), tuple(fields), has_checksum)


def _endpoints(header: bytes, family: int) -> Endpoints | None:
    block = header[HEAD : HEAD + _ADDRESSES[family]]
    if family == _UNIX:
        return _path(block[:_PATH]), _path(block[_PATH:])
    if family == _UNSPECIFIED:
        return None
    make, size = (inet, 4) if family == _TCP4 else (inet6, 16)
    ports = int.from_bytes(block[-4:-2], "big"), int.from_bytes(block[-2:], "big")
    return make(block[:size], ports[0]), make(block[size : 2 * size], ports[1])


def _path(block: bytes) -> str | bytes:
    """Return the Unix address in *block*; abstract ones begin with NUL (unix(7))."""
    if block.startswith(b"\0"):
        return block.rstrip(b"\0") or ""
    return os.fsdecode(block.partition(b"\0")[0])


def encode(message: Message) -> bytes:
    """Return *message* as bytes.

    Raises:
        ValueError: it is longer than a header can be.
    """
    endpoints = message.endpoints
    family, addresses = (_UNSPECIFIED, b"") if endpoints is None else _block(*endpoints)
    content = addresses + tlvs.join(message.tlvs)
    checksum_at = HEAD + len(content) + tlvs.HEAD
    if message.has_checksum:
        content += tlvs.join([(CRC32C, bytes(_CHECKSUM))])
    if len(content) > 0xFFFF:
        raise ValueError(f"the header would have {len(content)} bytes; 65535 are the most")
    command = next(code for code, name in _COMMANDS.items() if name == message.command)
    header = SIGNATURE + bytes((command, family)) + len(content).to_bytes(2, "big") + content
    if message.has_checksum:
        header = header[:checksum_at] + crc32c(header).to_bytes(_CHECKSUM, "big")
    return header


def _block(source: Any, destination: Any) -> tuple[int, bytes]:
    if not isinstance(source, tuple):
        return _UNIX, b"".join(
            os.fsencode(each).ljust(_PATH, b"\0") for each in (source, destination)
        )
    in_6 = is_inet6(source) or is_inet6(destination)
    hosts = packed(source, as_inet6=in_6) + packed(destination, as_inet6=in_6)
    ports = source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
    return _TCP6 if in_6 else _TCP4, hosts + ports
