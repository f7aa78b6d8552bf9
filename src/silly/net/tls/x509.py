"""What an X.509 certificate says, for people: subject, issuer, names, validity (RFC 5280)."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["Certificate", "distinguished_name", "fingerprint"]


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a certificate as ``openssl x509 -fingerprint -sha256`` shows it."""
    return hashlib.sha256(der).digest().hex(":").upper()


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says. Nothing is verified; escape the texts before you show them."""

    subject: str
    """Such as ``"CN=example.org, O=Example"``."""
    issuer: str
    names: tuple[str, ...]
    """The host names, addresses and so on for which it is valid."""
    not_before: float
    """In seconds since the epoch."""
    not_after: float
    fingerprint: str

    @classmethod
    def parse(cls, der: bytes) -> Certificate:
        """Return what the certificate *der* says.

        Raises:
            ValueError: it is not a certificate.
        """
        try:
            issuer, validity, subject, fields = _main_fields(der)
            begin, end = (_seconds(tag, value) for tag, value in _elements(validity))
            return cls(
                subject=_text_of_name(subject),
                issuer=_text_of_name(issuer),
                names=tuple(_alternative_names(fields)),
                not_before=begin,
                not_after=end,
                fingerprint=fingerprint(der),
            )
        except (IndexError, UnicodeDecodeError) as error:
            raise ValueError("the certificate is not valid DER") from error


def distinguished_name(der: bytes) -> str:
    """Return the subject of a certificate as text (RFC 4514), such as ``"CN=app,O=Example"``.

    Raises:
        ValueError: it is not a certificate.
    """
    try:
        _, _, subject, _ = _main_fields(der)
        parts = ["+".join(map(_escaped, together)) for together in _attributes(subject)]
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("the certificate is not valid DER") from error
    return ",".join(reversed(parts))


def _escaped(attribute: tuple[str, str]) -> str:
    name, value = attribute
    text = re.sub(r'(^[ #]|[ ]$|[,+"\\<>;])', r"\\\1", value).replace("\0", "\\00")
    return f"{name}={text}"


# ------------------------------------------------------------------------------- DER

_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_UTC_TIME: Final = 0x17
_BMP_STRING: Final = 0x1E


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element of *der* (X.690, section 8.1), and the rest."""
    tag, length, start = der[0], der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start])
    if start + length > len(der):
        raise IndexError
    return tag, der[start : start + length], der[start + length :]


def _main_fields(der: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return issuer, validity and subject of the certificate *der*, and the fields after them."""
    _, certificate, _ = _element(der)
    _, fields, _ = _element(certificate)
    if fields[0] == _VERSION:
        _, _, fields = _element(fields)
    _, _, fields = _element(fields)  # the serial number
    _, _, fields = _element(fields)  # the signature algorithm
    _, issuer, fields = _element(fields)
    _, validity, fields = _element(fields)
    _, subject, fields = _element(fields)
    return issuer, validity, subject, fields


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    while der:
        tag, value, der = _element(der)
        yield tag, value


# ---------------------------------------------------------------------------- validity

_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip


def _seconds(tag: int, value: bytes) -> float:
    text = value.decode("ascii")
    if tag == _UTC_TIME:  # with two digits for the year (RFC 5280, section 4.1.2.5.1)
        text = ("20" if text < "50" else "19") + text
    return float(
        ssl.cert_time_to_seconds(
            f"{_MONTHS[int(text[4:6]) - 1]} {text[6:8]} "
            f"{text[8:10]}:{text[10:12]}:{text[12:14]} {text[:4]} GMT"
        )
    )


# ------------------------------------------------------------------------------- names

_ATTRIBUTES: Final = {
    bytes.fromhex("550403"): "CN",
    bytes.fromhex("550406"): "C",
    bytes.fromhex("550407"): "L",
    bytes.fromhex("550408"): "ST",
    bytes.fromhex("55040a"): "O",
    bytes.fromhex("55040b"): "OU",
    bytes.fromhex("2a864886f70d010901"): "emailAddress",
    bytes.fromhex("0992268993f22c640119"): "DC",
}
_SUBJECT_ALT_NAME: Final = bytes.fromhex("551d11")
_ADDRESS: Final = 0x87
_OF_TEXT: Final = (0x81, 0x82, 0x86)  # mail addresses, host names, URIs


def _attributes(name: bytes) -> Iterator[list[tuple[str, str]]]:
    """Yield the names and values of *name*, those together that belong together."""
    for _, together in _elements(name):
        pairs = []
        for _, attribute in _elements(together):
            (_, kind), (tag, value) = _elements(attribute)
            text = value.decode("utf-16-be" if tag == _BMP_STRING else "utf-8", "replace")
            pairs.append((_ATTRIBUTES.get(kind) or kind.hex(), text))
        yield pairs


def _text_of_name(name: bytes) -> str:
    return ", ".join(f"{kind}={text}" for pairs in _attributes(name) for kind, text in pairs)


def _alternative_names(fields: bytes) -> Iterator[str]:
    for tag, value in _elements(fields):
        if tag != _EXTENSIONS:
            continue
        _, extensions, _ = _element(value)
        for _, extension in _elements(extensions):
            (_, kind), *_, (_, content) = _elements(extension)
            if kind == _SUBJECT_ALT_NAME:
                _, names, _ = _element(content)
                for of, name in _elements(names):
                    if of in _OF_TEXT:
                        yield name.decode("utf-8", "replace")
                    elif of == _ADDRESS and len(name) in (4, 16):
                        yield str(ipaddress.ip_address(name))
