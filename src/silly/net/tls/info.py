"""What `Conn.tls` tells about an encrypted connection."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TLSInfo"]


class TLSInfo(NamedTuple):
    """What the two ends of a TLS connection have agreed on."""

    version: str
    """The version of the protocol, as the `ssl` module names it: ``"TLSv1.3"``, ``"TLSv1.2"``."""
    cipher: str
    """The cipher suite, as OpenSSL names it, such as ``"TLS_AES_256_GCM_SHA384"``."""
    alpn: str | None
    """The application protocol that was negotiated (ALPN, RFC 7301); None if none was."""
    server_name: str | None
    """The host name that the client asked for (SNI, RFC 6066, section 3).

    None if it asked for none.
    """
    peer_certificate: bytes | None
    """The certificate of the peer, as DER bytes; None if it sent none.

    It was verified, except by a client with ``verify=False``.
    """
    resumed: bool
    """Whether an earlier session was continued, without certificates (RFC 8446, section 2.2)."""

    @property
    def counted_as(self) -> str:
        """As what a listener counts the handshake, such as ``"TLSv1.3 resumed"``."""
        return f"{self.version} resumed" if self.resumed else self.version
