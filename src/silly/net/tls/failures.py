"""Why a handshake, or an encrypted connection, failed: OpenSSL's errors in plain words."""

from __future__ import annotations

import re
import ssl
from typing import Final

__all__ = ["explained", "reason_of", "text_of"]

# Under which word a listener counts failed handshakes, by OpenSSL's reason.
_REASONS: Final = {
    "UNSUPPORTED_PROTOCOL": "tls_version",
    "VERSION_TOO_LOW": "tls_version",
    "NO_PROTOCOLS_AVAILABLE": "tls_version",
    "WRONG_SSL_VERSION": "tls_version",
    "UNKNOWN_PROTOCOL": "tls_version",
    "INAPPROPRIATE_FALLBACK": "tls_version",
    "NO_SHARED_CIPHER": "tls_cipher",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "tls_cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "tls_cipher",
    "NO_SUITABLE_KEY_SHARE": "tls_cipher",
    "NO_SUITABLE_GROUPS": "tls_cipher",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "tls_certificate",
    "CERTIFICATE_VERIFY_FAILED": "tls_certificate",
    "HTTP_REQUEST": "not_tls",
    "HTTPS_PROXY_REQUEST": "not_tls",
    "WRONG_VERSION_NUMBER": "not_tls",
}
_TEXTS: Final = {
    "UNSUPPORTED_PROTOCOL": "no version of TLS in common",
    "NO_SHARED_CIPHER": "no cipher suite in common",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client sent no certificate",
    "HTTP_REQUEST": "the peer speaks HTTP without TLS",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
}
_ALERT: Final = re.compile(r"(?:TLSV1|SSLV3|TLSV13)_ALERT_(\w+)")
_DECORATION: Final = re.compile(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$")


def reason_of(error: BaseException) -> str:
    """Return the word for a failed handshake: ``"tls_version"``, ``"tls_cipher"``, and so on."""
    reason = getattr(error, "reason", None) or ""
    if _ALERT.search(reason):
        return "tls_alert"
    return _REASONS.get(reason, "tls_protocol")


def text_of(error: OSError | EOFError) -> str:
    """Return what went wrong, without a number."""
    return getattr(error, "strerror", None) or str(error)


def explained(error: ssl.SSLError) -> ssl.SSLError:
    """Return *error*, of the same type and with the same attributes, with a text for people."""
    reason = error.reason or ""
    alert = _ALERT.search(reason)
    if alert:
        text = f"the peer refused: {alert.group(1).lower().replace('_', ' ')}"
    elif verify_message := getattr(error, "verify_message", ""):
        text = f"certificate verify failed: {verify_message}"
    else:
        text = _TEXTS.get(reason) or _DECORATION.sub("", text_of(error))
    plain = type(error)(error.errno, text)
    vars(plain).update(vars(error))
    return plain
