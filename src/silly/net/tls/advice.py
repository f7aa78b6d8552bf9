"""What to do about a handshake that failed, in terms of the options of the command."""

from __future__ import annotations

import ssl
from typing import Final

__all__ = ["advice"]

# By OpenSSL's number for why a certificate is not valid (x509_vfy.h).
_OF_CERTIFICATES: Final = {
    9: "the clock of this machine may be wrong, or --insecure",
    10: "the server needs a new one; to connect nevertheless: --insecure",
    18: "it is self-signed: trust it with --ca FILE, or --insecure",
    19: "trust its authority with --ca FILE, or --insecure",
    20: "trust its authority with --ca FILE, or --insecure",
    21: "the server does not send the certificates between: trust its authority with --ca FILE, "
        "or --insecure",
    23: "it was revoked: do not trust this server",
    62: "connect to a name that it has, give that with --server-name, or --insecure",
    64: "connect to a name that it has, give that with --server-name, or --insecure",
}  # fmt: skip
_OF_HANDSHAKES: Final = {
    "WRONG_VERSION_NUMBER": "try without --tls",
    "HTTP_REQUEST": "try without --tls",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a client's certificate: --cert FILE --key FILE",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "no cipher suite in common, or it wants a client's "
        "certificate: --cert FILE --key FILE",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of --cert",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept --cert",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "it speaks none of --alpn",
    "TLSV1_UNRECOGNIZED_NAME": "it does not know that --server-name",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks only versions older than TLS 1.2",
    "UNSUPPORTED_PROTOCOL": "it speaks only versions older than TLS 1.2",
}  # fmt: skip


def advice(error: BaseException) -> str:
    """Return what to do about *error*, such as `` (try without --tls)``; empty if unknown."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = _OF_CERTIFICATES.get(error.verify_code, "")
    elif isinstance(error, ssl.SSLError):
        text = _OF_HANDSHAKES.get(error.reason or "", "")
    else:
        text = ""
    return f" ({text})" if text else ""
