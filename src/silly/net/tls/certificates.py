"""Certificate files: when a certificate expires, and whether files have changed."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from pathlib import Path

from silly.net.tls.x509 import Certificate

__all__ = ["expires_at", "first_certificate", "state_of_files"]

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def expires_at(path: str) -> float:
    """Return when the first certificate in the PEM file *path* expires, in seconds since the epoch.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no certificate.
    """
    return Certificate.parse(first_certificate(path)).not_after


def first_certificate(path: str) -> bytes:
    """Return the first certificate in the PEM file *path*, as DER bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no certificate.
    """
    found = _PEM.search(Path(path).read_bytes())
    if found is None:
        raise ValueError(f"{path} has no certificate in PEM format")
    return ssl.PEM_cert_to_DER_cert(found.group().decode("ascii"))


def state_of_files(paths: Iterable[str]) -> tuple[object, ...]:
    """Return a value that changes when one of the files, or a file that a link leads to, does."""
    return tuple(_state(path) for path in paths)


def _state(path: str) -> object:
    try:
        found = Path(path).stat()
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_size, found.st_mtime_ns
