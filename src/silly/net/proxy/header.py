"""The values: `ProxyHeader` to send, and `ProxyInfo`, what a received one said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from silly.net.addr import format_sockaddr
from silly.net.proxy import tlvs, v1, v2
from silly.net.proxy.endpoints import Endpoints, HeaderError, parse_endpoint
from silly.net.proxy.tls import ProxyTLS
from silly.net.proxy.tlvs import ALPN, AUTHORITY, CRC32C, NOOP, TLS, TLV, UNIQUE_ID
from silly.net.proxy.v2 import LOCAL, PROXY, Message

__all__ = ["ProxyHeader", "ProxyInfo", "check_version", "parse"]

_REGISTERED: Final = {ALPN: "ALPN", AUTHORITY: "AUTHORITY", UNIQUE_ID: "UNIQUE_ID", TLS: "SSL"}
_OWN: Final = {*_REGISTERED, CRC32C, NOOP}  # not for `ProxyHeader.tlvs`
_MAX_UNIQUE_ID: Final = 128  # bytes
_KINDS: Final = {"authority": str, "alpn": str, "unique_id": bytes, "tls": ProxyTLS}


@dataclass(frozen=True, slots=True)
class _Content:
    """What a header can say, of either direction."""

    source: str | None = None
    """The client's address, such as ``"192.0.2.1:56324"``; None if it is not known."""
    destination: str | None = None
    """The address that the client connected to, likewise."""
    command: str = field(default=PROXY, kw_only=True)
    """``"PROXY"``; or ``"LOCAL"``, a connection of the load balancer itself (a health check)."""
    authority: str | None = field(default=None, kw_only=True)
    """The host name that the client asked for, such as the server name of its TLS (SNI)."""
    alpn: str | None = field(default=None, kw_only=True)
    """The protocol that was negotiated, such as ``"h2"``. It is bytes; here, as Latin-1."""
    unique_id: bytes | None = field(default=None, kw_only=True)
    """What the load balancer calls the connection; 128 bytes at most."""
    tls: ProxyTLS | None = field(default=None, kw_only=True)
    """The client's TLS; None if nothing is said about it."""
    tlvs: tuple[TLV, ...] = field(default=(), kw_only=True)
    """Further TLVs, such as those of cloud providers: pairs of type (a number) and value."""


@dataclass(frozen=True, slots=True)
class ProxyInfo(_Content):
    """What the header of a connection said: `Conn.proxy`.

    If it named no addresses (``"LOCAL"``, or they are unknown), `source` and `destination` are
    None, and the connection keeps its real addresses.
    """

    version: int = field(default=2, kw_only=True)
    """1 or 2: the version of the header."""
    via: str = field(default="", kw_only=True)
    """The address of the load balancer, which sent the header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader(_Content):
    """A header to send: ``tcp.connect(addr, proxy_header=ProxyHeader("192.0.2.1:56324"))``.

    Version 1 has room for the addresses only, and only for those of IP.

    Args:
        source: the client's address, with an IP address or of a Unix socket; None if it is
            not known.
        destination: the address that the client connected to, of the same kind; if it is left
            out, it is that of the peer that gets the header.

    Raises:
        TypeError, ValueError: a value is of the wrong type, or cannot be expressed.
    """

    has_checksum: bool = field(default=False, kw_only=True)
    """Whether to add a checksum (CRC-32C), which makes the header 7 bytes longer."""

    def __post_init__(self) -> None:
        if self.command not in {PROXY, LOCAL}:
            raise ValueError(f"command must be 'PROXY' or 'LOCAL', not {self.command!r}")
        for name in ("source", "destination"):
            if (text := getattr(self, name)) is not None:
                parse_endpoint(text, name)
        if self.destination is not None and self.source is None:
            raise ValueError("destination needs a source")
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                what = type(value).__name__
                raise TypeError(f"{name} must be {kind.__name__} or None, not {what}")
        if self.unique_id is not None and len(self.unique_id) > _MAX_UNIQUE_ID:
            raise ValueError(f"unique_id is longer than {_MAX_UNIQUE_ID} bytes")
        for number, _ in self.tlvs:
            if not 0 <= number <= 0xFF or number in _OWN:
                raise ValueError(f"tlvs: {number} is not a type of 0 to 255 without its own field")
        tlvs.join(self._fields())

    def encode(self, version: int = 2, peer: Any = None) -> bytes:
        """Return the header as bytes.

        Args:
            version: 1 or 2.
            peer: the socket address to use if there is no `destination`; if this is None, too,
                the addresses are unknown.

        Raises:
            ValueError: *version* is neither 1 nor 2, the addresses are of different kinds, or
                it does not fit in a header.
        """
        check_version(version)
        endpoints = None if self.command == LOCAL else self._endpoints(peer)
        if version == 1:
            return v1.encode(endpoints)
        return v2.encode(Message(self.command, endpoints, self._fields(), self.has_checksum))

    def _endpoints(self, peer: Any) -> Endpoints | None:
        if self.source is None:
            return None
        source, destination = parse_endpoint(self.source, "source"), peer
        if self.destination is not None:
            destination = parse_endpoint(self.destination, "destination")
        elif peer is None:
            return None
        if isinstance(source, tuple) != isinstance(destination, tuple):
            other = "the peer" if self.destination is None else repr(self.destination)
            raise ValueError(f"source {self.source!r} and destination {other} are of two kinds")
        return source, destination

    def _fields(self) -> tuple[TLV, ...]:
        fields = {
            ALPN: None if self.alpn is None else self.alpn.encode("latin-1"),
            AUTHORITY: None if self.authority is None else self.authority.encode(),
            UNIQUE_ID: self.unique_id,
            TLS: None if self.tls is None else self.tls.encode(),
        }
        own = [(kind, value) for kind, value in fields.items() if value is not None]
        return *own, *self.tlvs


def check_version(version: object) -> None:
    """Raise ValueError unless *version* is 1 or 2."""
    if version not in {1, 2}:
        raise ValueError(f"proxy_version must be 1 or 2, not {version!r}")


def parse(header: bytes, via: str = "") -> tuple[ProxyInfo, Endpoints | None]:
    """Return what *header* says, which is complete and came from *via*; and its addresses.

    Raises:
        HeaderError: it is invalid.
    """
    if header.startswith(v1.PREFIX):
        endpoints = v1.parse(header)
        return ProxyInfo(*_texts(endpoints), version=1, via=via), endpoints
    message = v2.parse(header)
    found = tlvs.unique(message.tlvs, _REGISTERED)
    unique_id = found.get(UNIQUE_ID)
    if unique_id is not None and len(unique_id) > _MAX_UNIQUE_ID:
        raise HeaderError(f"its unique ID is longer than {_MAX_UNIQUE_ID} bytes")
    info = ProxyInfo(
        *_texts(message.endpoints),
        command=message.command,
        authority=tlvs.text_of(found.get(AUTHORITY), "utf-8", "authority"),
        alpn=tlvs.text_of(found.get(ALPN), "latin-1", "ALPN"),
        unique_id=unique_id,
        tls=ProxyTLS.parse(found[TLS]) if TLS in found else None,
        tlvs=tuple(each for each in message.tlvs if each[0] not in _REGISTERED),
        via=via,
    )
    return info, message.endpoints


def _texts(endpoints: Endpoints | None) -> tuple[str | None, str | None]:
    if endpoints is None:
        return None, None
    source, destination = endpoints
    return format_sockaddr(source), format_sockaddr(destination)
