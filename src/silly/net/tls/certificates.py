"""Certificate files: when a certificate expires, and whether files have changed."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from pathlib import Path

__all__ = ["expires_at", "state_of_files"]

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION = 0xA0
_UTC_TIME = 0x17


def expires_at(path: str) -> float:
    """Return when the first certificate in the PEM file *path* expires, in seconds since the epoch.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no certificate.
    """
    found = _PEM.search(Path(path).read_bytes())
    if found is None:
        raise ValueError(f"{path} has no certificate in PEM format")
    return _not_after(ssl.PEM_cert_to_DER_cert(found.group().decode("ascii")))


def _not_after(der: bytes) -> float:
    """Return the end of the validity of an X.509 certificate (RFC 5280, section 4.1)."""
    try:
        _, certificate, _ = _element(der)
        _, fields, _ = _element(certificate)
        tag, _, rest = _element(fields)
        if tag == _VERSION:
            _, _, rest = _element(rest)  # the serial number
        _, _, rest = _element(rest)  # the signature algorithm
        _, _, rest = _element(rest)  # the issuer
        _, validity, _ = _element(rest)
        _, _, rest = _element(validity)  # not before
        tag, value, _ = _element(rest)
        text = value.decode("ascii")
        if tag == _UTC_TIME:  # with two digits for the year (RFC 5280, section 4.1.2.5.1)
            text = ("20" if text < "50" else "19") + text
        return float(
            ssl.cert_time_to_seconds(
                f"{_MONTHS[int(text[4:6]) - 1]} {text[6:8]} "
                f"{text[8:10]}:{text[10:12]}:{text[12:14]} {text[:4]} GMT"
            )
        )
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("the certificate is not valid DER") from error


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element of *der* (X.690, section 8.1), and the rest."""
    tag, length, start = der[0], der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if start + length > len(der):
        raise IndexError
    return tag, der[start : start + length], der[start + length :]


def state_of_files(paths: Iterable[str]) -> tuple[object, ...]:
    """Return a value that changes when one of the files, or a file that a link leads to, does."""
    return tuple(_state(path) for path in paths)


def _state(path: str) -> object:
    try:
        found = Path(path).stat()
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_size, found.st_mtime_ns
