"""One end of a TLS connection: received bytes in, plaintext out, and back.

A `Session` is a filter (`silly._engine.interface.Filter`) over OpenSSL, which Python's `ssl`
module provides. It does no I/O.
"""

from __future__ import annotations

import _ssl
import contextlib
import ssl
import sys
from collections.abc import Callable
from typing import Any

from silly.net.tls.failures import explained
from silly.net.tls.info import TLSInfo

__all__ = ["HEADER", "RECORD", "Named", "Records", "Session"]

HEADER = 5  # bytes
RECORD = 16 * 1024  # bytes of plaintext in a record, at most (RFC 8446, section 5.1)


class Named(ssl.SSLObject):
    """The `ssl` module's object for a connection, with the name that the client asked for."""

    requested_name: str | None = None


class Records:
    """Counts the bytes of the record that has not arrived completely (RFC 8446, section 5.1)."""

    __slots__ = ("_header", "_missing", "partial")

    def __init__(self) -> None:
        self.partial = 0  # how many bytes of it have arrived
        self._header = b""  # those of its header, as long as that is incomplete
        self._missing = 0  # how many are missing, if its header is complete

    def feed(self, wire: bytes) -> None:
        """Count received bytes."""
        size = len(wire)
        if not self.partial and size >= HEADER and HEADER + _length(wire) == size:
            return  # exactly a record
        at = 0
        while at < size:
            if self._missing == 0:
                header = self._header + wire[at : at + HEADER - len(self._header)]
                at += len(header) - len(self._header)
                self.partial = len(header)
                self._header = header
                if len(header) < HEADER:
                    return
                self._header = b""
                self._missing = _length(header)
            taken = min(self._missing, size - at)
            at += taken
            self.partial += taken
            self._missing -= taken
            if self._missing == 0:
                self.partial = 0


def _length(header: bytes) -> int:
    return header[3] << 8 | header[4]


class Session:
    """A TLS connection without its socket.

    Args:
        server_name: for clients, the name that the server's certificate must have.
        resumed_from: for clients, an earlier session to continue.
        remember: for clients, called with the session that a later one may continue.
    """

    __slots__ = (
        "_incoming",
        "_info",
        "_is_server",
        "_object",
        "_outgoing",
        "_records",
        "_remember",
        "_server_name",
        "is_ended",
        "is_ready",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        is_server: bool,
        server_name: str | None = None,
        resumed_from: ssl.SSLSession | None = None,
        remember: Callable[[ssl.SSLSession], None] | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=is_server,
            server_hostname=server_name,
            session=resumed_from,
        )
        self._is_server = is_server
        self._server_name = server_name
        self._remember = remember
        self._records = Records()
        self._info: TLSInfo | None = None
        self.is_ready = False
        self.is_ended = False
        if not is_server:
            self._shake()

    # ----------------------------------------------------------------------- the filter

    def open(self, wire: bytes) -> bytes:
        """See `silly._engine.interface.Filter.open`."""
        self._records.feed(wire)
        self._incoming.write(wire)
        try:
            if not self.is_ready:
                self._shake()
                if not self.is_ready:
                    return b""
            plaintext = self._read()
        except ssl.SSLError as error:
            raise explained(error) from None
        if self._remember is not None and (plaintext or self.is_ended):
            self._offer_session()
        return plaintext

    def seal(self, plaintext: bytes) -> bytes:
        """See `silly._engine.interface.Filter.seal`."""
        try:
            sent = self._object.write(plaintext) if plaintext else 0
            if sent < len(plaintext):
                rest = memoryview(plaintext)[sent:]
                while rest:
                    rest = rest[self._object.write(rest) :]
        except ssl.SSLError as error:
            raise explained(error) from None
        return self._outgoing.read()

    def pending(self) -> bytes:
        """See `silly._engine.interface.Filter.pending`."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def finish(self) -> bytes:
        """Return the alert "close_notify" (RFC 8446, section 6.1)."""
        if self._remember is not None:
            self._offer_session()
        with contextlib.suppress(ssl.SSLError):  # the peer has not finished yet, and need not
            self._object.unwrap()
        return self._outgoing.read()

    @property
    def unopened(self) -> int:
        """See `silly._engine.interface.Filter.unopened`."""
        return self._records.partial

    @property
    def info(self) -> TLSInfo | None:
        """What was negotiated; None until the handshake is complete."""
        return self._info

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        """The certificates that the peer sent, its own first, as DER bytes."""
        inner: Any = self._object
        if sys.version_info < (3, 13):  # there is no public way
            inner = inner._sslobj
        chain = inner.get_unverified_chain() or ()
        return tuple(
            each if isinstance(each, bytes) else each.public_bytes(_ssl.ENCODING_DER)
            for each in chain
        )

    # ----------------------------------------------------------------------- internals

    @property
    def _requested_name(self) -> str | None:
        if self._is_server:
            return getattr(self._object, "requested_name", None)
        return self._server_name

    def _shake(self) -> None:
        """Continue the handshake with what has arrived."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.is_ready = True
        self._info = self._negotiated()  # OpenSSL forgets it if the connection fails

    def _negotiated(self) -> TLSInfo:
        cipher = self._object.cipher()
        version = self._object.version()
        assert cipher is not None
        assert version is not None
        return TLSInfo(
            version=version,
            cipher=cipher[0],
            alpn=self._object.selected_alpn_protocol(),
            server_name=self._requested_name,
            peer_certificate=self._object.getpeercert(binary_form=True),
            resumed=bool(self._object.session_reused),
        )

    def _read(self) -> bytes:
        """Return the plaintext of all records that are complete."""
        incoming, read = self._incoming, self._object.read
        pieces = []
        try:
            while incoming.pending or self._object.pending():
                piece = read(4 * RECORD)
                if not piece:
                    self.is_ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _offer_session(self) -> None:
        assert self._remember is not None
        session = self._object.session
        if session is not None:
            self._remember(session)
            self._remember = None
