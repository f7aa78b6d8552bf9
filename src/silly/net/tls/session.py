"""One end of a TLS connection: received bytes in, plaintext out, and back.

A `Session` is a filter (`silly._engine.interface.Filter`) over OpenSSL, which Python's `ssl`
module provides. It does no I/O.
"""

from __future__ import annotations

import _ssl
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

from silly.net.tls.failures import explained
from silly.net.tls.info import TLSInfo

__all__ = ["HEADER", "RECORD", "Records", "Session", "chain_of", "connection_of", "negotiated"]

HEADER = 5  # bytes
RECORD = 16 * 1024  # bytes of plaintext in a record, at most (RFC 8446, section 5.1)


def connection_of(
    context: ssl.SSLContext,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
    *,
    is_server: bool,
    server_name: str | None,
    resumed_from: ssl.SSLSession | None,
    is_plain: bool,
) -> tuple[Any, ssl.SSLObject | None]:
    """Return the `ssl` module's inner object for a new connection, and the one around it.

    The latter must live as long: the callbacks of *context* get it. For the arguments see
    `Session`.
    """
    if is_plain:
        made: Any = context
        return made._wrap_bio(incoming, outgoing, is_server), None
    owner: Any = context.wrap_bio(
        incoming,
        outgoing,
        server_side=is_server,
        server_hostname=None if is_server else server_name,
        session=resumed_from,
    )
    return owner._sslobj, owner


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


def negotiated(connection: Any, server_name: str | None) -> TLSInfo:
    """Return what was negotiated on a *connection* of the `ssl` module (its inner object)."""
    cipher, version = connection.cipher(), connection.version()
    return TLSInfo(
        version=version or "",
        cipher=cipher[0] if cipher else "",
        alpn=connection.selected_alpn_protocol(),
        server_name=server_name,
        peer_certificate=connection.getpeercert(True),
        resumed=bool(connection.session_reused),
    )


def chain_of(connection: Any) -> tuple[bytes, ...]:
    """Return the certificates that the peer sent, its own first, as DER bytes."""
    chain = connection.get_unverified_chain() or ()
    return tuple(each.public_bytes(_ssl.ENCODING_DER) for each in chain)


class Session:
    """A TLS connection without its socket.

    Args:
        server_name: for clients, the name that the server's certificate must have; for servers,
            the name that the client asks for.
        resumed_from: for clients, an earlier session to continue.
        remember: for clients, called with the session that a later one may continue.
        is_plain: for servers, whether the callbacks of the context need no `ssl.SSLObject`:
            it is not made.
    """

    __slots__ = (
        "_incoming",
        "_object",
        "_outgoing",
        "_owner",
        "_records",
        "_remember",
        "_server_name",
        "error",
        "info",
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
        is_plain: bool = False,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object, self._owner = connection_of(
            context,
            self._incoming,
            self._outgoing,
            is_server=is_server,
            server_name=server_name,
            resumed_from=resumed_from,
            is_plain=is_plain,
        )
        self._server_name = server_name
        self._remember = remember
        self._records = Records()
        self.info: TLSInfo | None = None  # what was negotiated, once the handshake is complete
        self.is_ready = False
        self.is_ended = False
        self.error: OSError | None = None
        if not is_server:
            self._shake()

    # ----------------------------------------------------------------------- the filter

    def open(self, wire: bytes) -> bytes:
        """See `silly._engine.interface.Filter.open`."""
        self._records.feed(wire)
        self._incoming.write(wire)
        pieces: list[bytes] = []
        try:
            if not self.is_ready:
                self._shake()
            if self.is_ready:
                self._read(pieces)
        except ssl.SSLError as error:
            self.error = explained(error)
        if pieces or self.is_ended:
            self._offer_session()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

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
        self._offer_session()
        with contextlib.suppress(ssl.SSLError):  # the peer has not finished yet, and need not
            self._object.shutdown()
        return self._outgoing.read()

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        """See `chain_of`."""
        return chain_of(self._object)

    @property
    def unopened(self) -> int:
        """See `silly._engine.interface.Filter.unopened`."""
        return self._records.partial

    # ----------------------------------------------------------------------- internals

    def _shake(self) -> None:
        """Continue the handshake with what has arrived."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.is_ready = True
        # Now: OpenSSL forgets it if the connection fails.
        self.info = negotiated(self._object, self._server_name)

    def _offer_session(self) -> None:
        """Let a later connection continue the session, once the server has sent a ticket."""
        if self._remember is not None and (session := self._object.session) is not None:
            remember, self._remember = self._remember, None
            remember(session)

    def _read(self, pieces: list[bytes]) -> None:
        """Append the plaintext of all records that are complete to *pieces*."""
        incoming, read = self._incoming, self._object.read
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
