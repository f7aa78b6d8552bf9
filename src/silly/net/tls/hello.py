"""The message with which a client begins, the ClientHello (RFC 8446, section 4.1.2)."""

from __future__ import annotations

import ssl
from typing import Final

from silly._engine.interface import Stream
from silly.net.tls.session import HEADER, RECORD

__all__ = ["read_hello"]

MAX_HELLO: Final = 16 * 1024  # bytes; that of a browser has about 2,000

_HANDSHAKE: Final = 22  # the type of a record (RFC 8446, section 5.1)
_CLIENT_HELLO: Final = 1  # the type of a message
_SERVER_NAME: Final = b"\0\0"  # the type of an extension (RFC 6066, section 3)


async def read_hello(conn: Stream) -> bytes:
    """Read the records of a ClientHello; what is in it is checked by OpenSSL.

    Raises:
        ssl.SSLError: it is not one, or it asks for a name that cannot be one.
        EndOfStream: the client finished.
    """
    records, message = bytearray(), bytearray()
    while True:
        header = await conn.read(HEADER)
        length = int.from_bytes(header[3:])
        if header[0] != _HANDSHAKE or header[1] != 3 or not 0 < length <= RECORD:
            raise _not_tls(header)
        record = await conn.read(length)
        records += header + record
        message += record
        if message[0] != _CLIENT_HELLO:
            break
        size = 4 + int.from_bytes(message[1:4])
        if len(message) >= 4 and size > MAX_HELLO:
            raise _error("EXCESSIVE_MESSAGE_SIZE", f"the first message has {size:,} bytes")
        if len(message) >= 4 and len(message) >= size:
            break
    # The `ssl` module would print a traceback, for each.
    if not server_name(bytes(message)).isascii():
        raise _error("BAD_EXTENSION", "the client asked for a name that is not ASCII")
    return bytes(records)


def server_name(hello: bytes) -> bytes:
    """Return the host name that the client asks for (SNI); ``b""`` if there is none."""
    at = 4 + 2 + 32  # type and length of the message, version, random bytes
    for size in (1, 2, 1):  # the lengths of session, cipher suites, compression methods
        at += size + int.from_bytes(hello[at : at + size])
    at += 2  # the length of the extensions
    while at < len(hello):
        kind, length = hello[at : at + 2], int.from_bytes(hello[at + 2 : at + 4])
        at += 4
        if kind == _SERVER_NAME:
            return hello[at + 5 : at + length]  # length of the list, type and length of the name
        at += length
    return b""


def _not_tls(header: bytes) -> ssl.SSLError:
    if header[0] & 0x80 and header[2] == 1:
        return _error("UNSUPPORTED_PROTOCOL", "the client speaks SSL 2.0")
    if header.partition(b" ")[0] in _METHODS or header in _LONG_METHODS:
        return _error("HTTP_REQUEST", "the client speaks HTTP without TLS")
    return _error("WRONG_VERSION_NUMBER", f"the client does not speak TLS: it sent {header!r}")


def _error(reason: str, text: str) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, text)
    error.reason = reason
    return error


_METHODS: Final = (b"GET", b"PUT", b"POST", b"HEAD")
_LONG_METHODS: Final = (b"OPTIO", b"DELET", b"PATCH", b"CONNE", b"TRACE")
