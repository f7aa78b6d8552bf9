"""What a header says about the client's TLS (section 2.2.6 of the specification)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

from silly.net.proxy import tlvs
from silly.net.proxy.endpoints import HeaderError
from silly.net.proxy.tlvs import TLV

__all__ = ["ProxyTLS"]

_HEAD: Final = 5  # bytes: flags, and the result of the verification
_USED_TLS: Final = 0x01
_SENT_CERTIFICATE: Final = 0x02 | 0x04  # on this connection, or on one before in the same session

_FIELDS: Final = {  # by type
    0x21: ("version", "ascii"),
    0x22: ("common_name", "utf-8"),
    0x23: ("cipher", "ascii"),
    0x24: ("signature_algorithm", "ascii"),
    0x25: ("key_algorithm", "ascii"),
    0x26: ("group", "ascii"),
    0x27: ("signature_scheme", "ascii"),
    0x28: ("client_certificate", None),
}
_NAMES: Final = {kind: name for kind, (name, _) in _FIELDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTLS:
    """The TLS of the client's connection to the load balancer. What it does not say is None."""

    is_used: bool = True
    """Whether the client used TLS at all."""
    has_certificate: bool = False
    """Whether the client presented a certificate, now or earlier in the same TLS session."""
    is_verified: bool = False
    """Whether it presented a certificate and the load balancer found it valid."""
    version: str | None = None
    """Such as ``"TLSv1.3"``."""
    cipher: str | None = None
    """Such as ``"TLS_AES_256_GCM_SHA384"``."""
    common_name: str | None = None
    """The common name in the client's certificate. Only worth something if `is_verified`."""
    client_certificate: bytes | None = None
    """The client's certificate, DER."""
    key_algorithm: str | None = None
    """The key of the load balancer's certificate, such as ``"RSA2048"``."""
    signature_algorithm: str | None = None
    """How its certificate is signed, such as ``"RSA-SHA256"``."""
    group: str | None = None
    """The key exchange, such as ``"secp256r1"``."""
    signature_scheme: str | None = None
    """How the load balancer signed the handshake, such as ``"rsa_pss_rsae_sha256"``."""
    tlvs: tuple[TLV, ...] = ()
    """Further TLVs within this one: pairs of type and value."""

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Return what the TLV's *value* says.

        Raises:
            HeaderError: it is malformed.
        """
        if len(value) < _HEAD:
            raise HeaderError(f"its SSL TLV has {len(value)} bytes; {_HEAD} are the least")
        has_certificate = bool(value[0] & _SENT_CERTIFICATE)
        fields = [(kind, value[begin:end]) for kind, begin, end in tlvs.spans(value, _HEAD)]
        found: dict[str, Any] = {}
        for kind, content in tlvs.unique(fields, _NAMES).items():
            name, encoding = _FIELDS[kind]
            found[name] = content if encoding is None else tlvs.text_of(content, encoding, name)
        return cls(
            is_used=bool(value[0] & _USED_TLS),
            has_certificate=has_certificate,
            # Without a certificate, the result has no meaning; some senders say 0, "valid".
            is_verified=has_certificate and not any(value[1:_HEAD]),
            tlvs=tuple(each for each in fields if each[0] not in _FIELDS),
            **found,
        )

    def encode(self) -> bytes:
        """Return the TLV's value."""
        flags = _USED_TLS * self.is_used | _SENT_CERTIFICATE * self.has_certificate
        result = int(not (self.has_certificate and self.is_verified))
        fields: list[TLV] = []
        for kind, (name, encoding) in _FIELDS.items():
            content = getattr(self, name)
            if content is not None:
                fields.append((kind, content if encoding is None else content.encode(encoding)))
        return bytes((flags,)) + result.to_bytes(4, "big") + tlvs.join((*fields, *self.tlvs))
