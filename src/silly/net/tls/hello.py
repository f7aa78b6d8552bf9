"""The message with which a client begins, the ClientHello (RFC 8446, section 4.1.2).

This file is compiled a second time for the native engine.
"""

from __future__ import annotations

import ssl
from typing import Final

from silly.net.tls.session import HEADER, RECORD

__all__ = ["Hello"]

MAX_HELLO: Final = 16 * 1024  # bytes; that of a browser has about 2,000

_HANDSHAKE: Final = 22  # the type of a record (RFC 8446, section 5.1)
_CLIENT_HELLO: Final = 1  # the type of a message
_SERVER_NAME: Final = 0  # the type of an extension (RFC 6066, section 3)
_RANDOM_END: Final = 4 + 2 + 32  # type and length of the message, version, random bytes


class Hello:
    """A ClientHello that arrives in pieces; what is in it is checked by OpenSSL."""

    __slots__ = ("_at", "_message", "name", "received")

    def __init__(self) -> None:
        self.received: bytes | bytearray = b""
        self._at = 0  # where the next record begins
        self._message = b""  # what the records before it have
        self.name: str | None = None  # the host name that the client asks for (SNI), once complete

    def feed(self, piece: bytes) -> bool:
        """Add *piece*; return whether the message is complete.

        Raises:
            ssl.SSLError: it is none, or it asks for a name that cannot be one.
        """
        received = self.received
        if not received:
            self.received = received = piece
        else:
            if isinstance(received, bytes):
                self.received = received = bytearray(received)
            received += piece
        is_complete = False
        while not is_complete:
            at = self._at
            begin = at + HEADER
            if len(received) < begin:
                return False
            length = received[at + 3] << 8 | received[at + 4]
            if received[at] != _HANDSHAKE or received[at + 1] != 3 or not 0 < length <= RECORD:
                raise _not_tls(bytes(received[at:begin]))
            end = begin + length
            if len(received) < end:
                return False
            self._message += received[begin:end]
            self._at = end
            is_complete = _is_complete(self._message)
        name = server_name(self._message)
        if not name.isascii():  # the `ssl` module would print a traceback, for each
            raise _error("BAD_EXTENSION", "the client asked for a name that is not ASCII")
        self.name = name.decode() or None
        return True


def _is_complete(message: bytes) -> bool:
    if message[0] != _CLIENT_HELLO:
        return True  # which OpenSSL refuses
    if len(message) < 4:
        return False
    size = 4 + (message[1] << 16) + _number(message, 2)
    if size > MAX_HELLO:
        raise _error("EXCESSIVE_MESSAGE_SIZE", f"the first message has {size:,} bytes")
    return len(message) >= size


def server_name(hello: bytes) -> bytes:
    """Return the host name that the client asks for (SNI); ``b""`` if there is none."""
    end = len(hello)
    at = _RANDOM_END
    for width in (1, 2, 1):  # of the lengths of the session, cipher suites and compressions
        at += width
        if at > end:
            return b""
        at += hello[at - 1] if width == 1 else _number(hello, at - 2)
    at += 2  # the length of the extensions
    while at + 4 <= end:
        kind = _number(hello, at)
        length = _number(hello, at + 2)
        at += 4
        if kind == _SERVER_NAME:
            return hello[at + 5 : at + length]  # length of the list, type and length of the name
        at += length
    return b""


def _number(data: bytes, at: int) -> int:
    """Return the two bytes at *at*, which must be there, as a number."""
    return data[at] << 8 | data[at + 1]


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
