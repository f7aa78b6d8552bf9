"""What certificates say, beside what cryptography and openssl read in them."""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from silly.net.tls.x509 import Certificate, fingerprint
from tests.net.tls import certificates

pytestmark = pytest.mark.no_engine


def der_of(issued: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


def test_what_a_certificate_says() -> None:
    issued = certificates.authority("first").issue_cert(
        "*.b.example", "127.0.0.1", "::1", "me@b.example", "192.0.2.0/24",
        common_name="Jürgen, of b", organization_name="B",
        not_before=dt.datetime(1999, 12, 31, 23, 59, 58, tzinfo=dt.UTC),
        not_after=dt.datetime(2050, 1, 2, 3, 4, 5, tzinfo=dt.UTC),  # a GeneralizedTime
    )  # fmt: skip
    der = der_of(issued)
    found, other = Certificate.parse(der), x509.load_der_x509_certificate(der)
    assert found.subject == "O=B, OU=" + _unit(other.subject) + ", CN=Jürgen, of b"
    assert found.issuer == "O=the first authority of the tests, OU=" + _unit(other.issuer)
    assert found.names == ("*.b.example", "127.0.0.1", "::1", "me@b.example")
    assert found.not_before == other.not_valid_before_utc.timestamp()
    assert found.not_after == other.not_valid_after_utc.timestamp()


def _unit(name: x509.Name) -> str:
    [unit] = name.get_attributes_for_oid(x509.NameOID.ORGANIZATIONAL_UNIT_NAME)
    return str(unit.value)


def test_the_fingerprint_is_that_of_openssl() -> None:
    cert = certificates.pair()[0]
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", cert]
    shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    assert shown.partition("=")[2] == fingerprint(ssl.PEM_cert_to_DER_cert(Path(cert).read_text()))


GOOD = der_of(certificates.authority("first").issue_cert("a.example", "127.0.0.1"))


@given(st.data())
def test_anything_else_is_refused_in_one_way(data: st.DataObject) -> None:
    der = bytearray(GOOD)
    for at in data.draw(st.lists(st.integers(0, len(der) - 1), max_size=5)):
        der[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        Certificate.parse(bytes(der[: data.draw(st.integers(0, len(der)))]))
