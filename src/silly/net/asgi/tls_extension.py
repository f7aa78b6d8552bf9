"""What TLS has negotiated, for applications (ASGI TLS extension 0.2)."""

from __future__ import annotations

import ssl
from typing import Any, Final
from weakref import WeakKeyDictionary

from silly.net.tls.x509 import distinguished_name

__all__ = ["tls_scope"]

_VERSIONS: Final = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

_known: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()  # by connection


def tls_scope(conn: Any) -> dict[str, Any]:
    """Return the extension for a connection whose ``tls`` is not None."""
    found = _known.get(conn)
    if found is None:
        found = _known[conn] = _made(conn)
    return found.copy()


def _made(conn: Any) -> dict[str, Any]:
    info = conn.tls
    der = info.peer_certificate
    return {
        "server_cert": None,
        "client_cert_chain": [] if der is None else [ssl.DER_cert_to_PEM_cert(der)],
        "client_cert_name": None if der is None else distinguished_name(der),
        "client_cert_error": None,  # without a valid one, there is no connection
        "tls_version": _VERSIONS.get(info.version),
        "cipher_suite": _CIPHERS.get(info.cipher),
    }


def _cipher_numbers() -> dict[str, int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    # OpenSSL's number has the protocol in its upper half.
    return {each["name"]: each["id"] & 0xFFFF for each in context.get_ciphers()}


_CIPHERS: Final = _cipher_numbers()
