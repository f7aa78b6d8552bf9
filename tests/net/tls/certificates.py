"""Certificates for tests, of authorities of their own, as files."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import trustme

from silly.net import tls

NAME = "server.test"


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="silly-certificates-")


@functools.cache
def authority(name: str = "first") -> trustme.CA:
    """An authority that nobody but the tests trusts."""
    return trustme.CA(organization_name=f"the {name} authority of the tests")


@functools.cache
def ca_file(name: str = "first") -> str:
    path = Path(_directory().name, f"ca-{name}.pem")
    authority(name).cert_pem.write_to_path(str(path))
    return str(path)


@functools.cache
def pair(*names: str, ca: str = "first") -> tuple[str, str]:
    """The files of a certificate for *names* and of its key."""
    issued = authority(ca).issue_cert(*(names or (NAME, "localhost", "127.0.0.1")))
    stem = Path(_directory().name, f"{ca}-{'-'.join(names) or 'default'}".replace("*", "_"))
    cert, key = stem.with_suffix(".crt"), stem.with_suffix(".key")
    cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return str(cert), str(key)


def server(**options: object) -> tls.Server:
    return tls.Server(*pair(), **options)  # type: ignore[arg-type]


def client(**options: object) -> tls.Client:
    return tls.Client(ca=ca_file(), **options)  # type: ignore[arg-type]
