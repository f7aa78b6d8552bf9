"""Certificates for tests, of authorities of their own, as files."""

from __future__ import annotations

import datetime as dt
import functools
import subprocess
import tempfile
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

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
def pair(
    *names: str, ca: str = "first", expired: bool = False, days: int | None = None
) -> tuple[str, str]:
    """The files of a certificate for *names* and of its key."""
    since = dt.datetime(2001, 1, 1, tzinfo=dt.UTC) if expired else dt.datetime.now(dt.UTC)
    lifetime = dt.timedelta(0 if expired else days or 0)
    issued = authority(ca).issue_cert(
        *(names or (NAME, "localhost", "127.0.0.1")),
        not_before=since - dt.timedelta(1),
        not_after=since + lifetime if expired or days else None,
    )
    name = f"{ca}-{'-'.join(names) or 'default'}-{since.year}-{days}".replace("*", "_")
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    return _files(name, chain, issued.private_key_pem.bytes())


def _files(name: str, cert: bytes, key: bytes) -> tuple[str, str]:
    paths = Path(_directory().name, f"{name}.crt"), Path(_directory().name, f"{name}.key")
    for path, content in zip(paths, (cert, key), strict=True):
        path.write_bytes(content)
    return str(paths[0]), str(paths[1])


@functools.cache
def encrypted_key() -> bytes:
    """The default key in PEM format, with the password "secret"."""
    key = load_pem_private_key(Path(pair()[1]).read_bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@functools.cache
def self_signed() -> tuple[str, str]:
    """The files of a certificate that no authority has signed."""
    key_file = Path(pair()[1])
    key = load_pem_private_key(key_file.read_bytes(), None)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())  # type: ignore[arg-type]
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(1))
        .not_valid_after(now + dt.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    return _files("self-signed", cert.public_bytes(Encoding.PEM), key_file.read_bytes())


def revocation_list(*certs: str, ca: str = "first") -> bytes:
    """A list of *ca* (PEM) that revokes the certificates in the files *certs*."""
    issuer = authority(ca)
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=x509.load_pem_x509_certificate(issuer.cert_pem.bytes()).subject,
        last_update=now - dt.timedelta(1),
        next_update=now + dt.timedelta(1),
    )
    for cert in certs:
        serial = x509.load_pem_x509_certificate(Path(cert).read_bytes()).serial_number
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        )
    key = load_pem_private_key(issuer.private_key_pem.bytes(), None)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


def ca_with_revoked(path: Path, *certs: str) -> str:
    """The file *path* with the first authority and its revocation list."""
    path.write_bytes(authority("first").cert_pem.bytes() + revocation_list(*certs))
    return str(path)


def ca_directory(directory: Path, *revoked: str) -> Path:
    """*directory* with the first authority and its list, named as ``openssl rehash`` does."""
    (directory / "ca.pem").write_bytes(authority("first").cert_pem.bytes())
    (directory / "list.pem").write_bytes(revocation_list(*revoked))
    subprocess.run(["openssl", "rehash", str(directory)], check=True)
    return directory


def server(**options: object) -> tls.Server:
    return tls.Server(*pair(), **options)  # type: ignore[arg-type]


def client(**options: object) -> tls.Client:
    return tls.Client(ca=ca_file(), **options)  # type: ignore[arg-type]
