"""The PROXY protocol's headers, point by point of HAProxy's ``doc/proxy-protocol.txt``."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net.proxy import ProxyHeader, ProxyTLS
from silly.net.proxy.crc32c import crc32c
from silly.net.proxy.endpoints import HeaderError
from silly.net.proxy.header import parse

pytestmark = pytest.mark.no_engine

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TCP4 = (
    bytes([192, 0, 2, 1, 198, 51, 100, 9]) + (56324).to_bytes(2, "big") + (443).to_bytes(2, "big")
)
TCP6 = (
    bytes.fromhex("20010db800000000000000000000000120010db8000000000000000000000002")
    + (56324).to_bytes(2, "big")
    + (443).to_bytes(2, "big")
)
UNIX = b"/run/client.sock".ljust(108, b"\0") + b"/run/server.sock".ljust(108, b"\0")


def binary(command: int = 0x21, family: int = 0x11, content: bytes = TCP4) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(content).to_bytes(2, "big") + content


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def with_checksum(*before: bytes, after: bytes = b"", spoil: int = 0, **header: Any) -> bytes:
    """A header with a checksum between other TLVs, wrong by *spoil*."""
    content = header.pop("content", TCP4) + b"".join(before)
    at = 16 + len(content) + 3
    whole = binary(content=content + tlv(3, bytes(4)) + after, **header)
    return whole[:at] + (crc32c(whole) ^ spoil).to_bytes(4, "big") + whole[at + 4 :]


ENDS4 = ("192.0.2.1:56324", "198.51.100.9:443")
ENDS6 = ("[2001:db8::1]:56324", "[2001:db8::2]:443")
NO_ENDS = (None, None)

ACCEPTED: dict[str, tuple[bytes, tuple[str | None, str | None]]] = {
    # ------------------------------------------------------------- 2.1, version 1
    "the example": (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        ("192.168.0.1:56324", "192.168.0.11:443"),
    ),
    "the longest of TCP4": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ("255.255.255.255:65535",) * 2,
    ),
    "the longest of TCP6": (
        b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
        ("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",) * 2,
    ),
    "zeros": (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0:0", "0.0.0.0:0")),
    "upper case": (b"PROXY TCP6 2001:DB8::A ::1 1 2\r\n", ("[2001:db8::a]:1", "[::1]:2")),
    "sets of 4 digits": (
        b"PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:000a 0:0:0:0:0:0:0:0 1 2\r\n",
        ("[2001:db8::a]:1", "[::]:2"),
    ),
    "IPv4 in IPv6": (  # as HAProxy writes it
        b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n",
        ("[::ffff:192.0.2.1]:1", "[2001:db8::2]:2"),
    ),
    "unknown": (b"PROXY UNKNOWN\r\n", NO_ENDS),
    "unknown, with addresses": (b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n", NO_ENDS),
    "unknown, the worst case": (
        b"PROXY UNKNOWN " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
        NO_ENDS,
    ),
    "unknown, with anything": (b"PROXY UNKNOWN \0\xff  \t\r\n", NO_ENDS),
    # ------------------------------------------------------------- 2.2, version 2
    "TCP over IPv4": (binary(), ENDS4),
    "TCP over IPv6": (binary(family=0x21, content=TCP6), ENDS6),
    "Unix": (
        binary(family=0x31, content=UNIX),
        ("unix:/run/client.sock", "unix:/run/server.sock"),
    ),
    "Unix without names": (binary(family=0x31, content=bytes(216)), ("unix:", "unix:")),
    "Unix, abstract": (
        binary(family=0x31, content=b"\0one".ljust(108, b"\0") + b"\0two".ljust(108, b"\0")),
        ("unix:@one", "unix:@two"),
    ),
    "Unix, of full length": (
        binary(family=0x31, content=b"/" * 108 + b"\0" * 108),
        ("unix:" + "/" * 108, "unix:"),
    ),
    "unspecified": (binary(family=0, content=b""), NO_ENDS),
    "LOCAL": (binary(0x20, 0, b""), NO_ENDS),
    "LOCAL with addresses": (binary(0x20, 0x11, TCP4), NO_ENDS),
    "LOCAL with a length that does not fit": (binary(0x20, 0x11, b"x"), NO_ENDS),
    "LOCAL with any family": (binary(0x20, 0x77, b""), NO_ENDS),
    "LOCAL with anything": (binary(0x20, 0, b"\x05\xff\xffgarbage"), NO_ENDS),
    "LOCAL with a checksum": (with_checksum(command=0x20, family=0, content=b""), NO_ENDS),
    "LOCAL with addresses and a checksum": (with_checksum(command=0x20), NO_ENDS),
    "an unknown TLV": (binary(content=TCP4 + tlv(0xE0, b"custom")), ENDS4),
    "an empty TLV": (binary(content=TCP4 + tlv(0xE0, b"")), ENDS4),
    "padding": (binary(content=TCP4 + tlv(4, b"") + tlv(4, b"\0" * 9)), ENDS4),
    "a unique ID of 128 bytes": (binary(content=TCP4 + tlv(5, b"x" * 128)), ENDS4),
    "a checksum": (with_checksum(), ENDS4),
    "a checksum between others": (with_checksum(tlv(1, b"h2"), after=tlv(5, b"7")), ENDS4),
    "two of a type that is not registered": (
        binary(content=TCP4 + tlv(0xE0, b"1") + tlv(0xE0, b"2")),
        ENDS4,
    ),
    "the longest": (binary(content=TCP4 + tlv(4, bytes(4096 - 12 - 3))), ENDS4),
}

REFUSED: dict[str, tuple[bytes, str]] = {
    # ------------------------------------------------------------- 2.1, version 1
    "another word": (b"PROXX TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "signature"),
    "lower case": (b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "signature"),
    "no protocol": (b"PROXY \r\n", "'' is not TCP4"),
    "an unknown protocol": (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", "'UDP4' is not TCP4"),
    "a protocol in lower case": (b"PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n", "'tcp4' is not"),
    "a word that begins with UNKNOWN": (b"PROXY UNKNOWN4 1\r\n", "'UNKNOWN4' is not"),
    "two spaces": (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", "two addresses and two ports"),
    "two spaces before": (b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "'' is not TCP4"),
    "a space at the end": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", "two addresses and two ports"),
    "a tab": (b"PROXY TCP4\t1.2.3.4 1.2.3.4 1 1\r\n", r"'TCP4\\t1.2.3.4' is not"),
    "no ports": (b"PROXY TCP4 1.2.3.4 1.2.3.4\r\n", "two addresses and two ports"),
    "more fields": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n", "two addresses and two ports"),
    "3 numbers": (b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n", "'1.2.3' is not an address"),
    "5 numbers": (b"PROXY TCP4 1.2.3.4.5 1.2.3.4 1 1\r\n", "'1.2.3.4.5' is not an address"),
    "a number of 256": (b"PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n", "not an address of TCP4"),
    "a leading zero": (b"PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n", "not an address of TCP4"),
    "hexadecimal": (b"PROXY TCP4 0x1.2.3.4 1.2.3.4 1 1\r\n", "not an address of TCP4"),
    "IPv6 in TCP4": (b"PROXY TCP4 ::1 1.2.3.4 1 1\r\n", "'::1' is not an address of TCP4"),
    "IPv4 in TCP6": (b"PROXY TCP6 ::1 1.2.3.4 1 1\r\n", "'1.2.3.4' is not an address of TCP6"),
    "a host name": (b"PROXY TCP4 localhost 1.2.3.4 1 1\r\n", "'localhost' is not an address"),
    "brackets": (b"PROXY TCP6 [::1] ::1 1 1\r\n", r"'\[::1\]' is not an address"),
    "a scope": (b"PROXY TCP6 fe80::1%1 ::1 1 1\r\n", "'fe80::1%1' is not an address"),
    "two double colons": (b"PROXY TCP6 1::2::3 ::1 1 1\r\n", "not an address of TCP6"),
    "112 bits": (b"PROXY TCP6 1:2:3:4:5:6:7 ::1 1 1\r\n", "not an address of TCP6"),
    "144 bits": (b"PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 1\r\n", "not an address of TCP6"),
    "5 digits": (b"PROXY TCP6 12345:: ::1 1 1\r\n", "not an address of TCP6"),
    "port 65536": (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", "'65536' is not a port"),
    "a negative port": (b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n", "'-1' is not a port"),
    "a signed port": (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", r"'\+1' is not a port"),
    "a port with a leading zero": (b"PROXY TCP4 1.2.3.4 1.2.3.4 080 1\r\n", "'080' is not a port"),
    "a port that is a word": (b"PROXY TCP4 1.2.3.4 1.2.3.4 http 1\r\n", "'http' is not a port"),
    "an underscore in a port": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1_0 1\r\n", "'1_0' is not a port"),
    "digits that are not ASCII": ("PROXY TCP4 1.2.3.4 1.2.3.4 \u0661 1\r\n".encode(), "not ASCII"),
    "only LF": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", "does not end with CR LF"),
    "only CR": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r", "does not end with CR LF"),
    "CR CR LF": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\r\n", "does not end with CR LF"),
    "LF CR": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n\r", "does not end with CR LF"),
    "unknown, only LF": (b"PROXY UNKNOWN\n", "does not end with CR LF"),
    "two lines": (b"PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n", "does not end with CR LF"),
    "108 bytes": (b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n", "longer than 107"),
    # ------------------------------------------------------------- 2.2, version 2
    "nothing": (b"", "incomplete"),
    "another signature": (binary().replace(b"QUIT", b"QUIX"), "signature"),
    "version 1, in binary": (binary(0x11), "version 1 is not 2"),
    "version 3": (binary(0x31), "version 3 is not 2"),
    "LOCAL of version 3": (binary(0x30, 0, b""), "version 3 is not 2"),
    "an unassigned command": (binary(0x22), "command 2 is neither"),
    "the last command": (binary(0x2F), "command 15 is neither"),
    "UDP over IPv4": (binary(family=0x12), "datagrams"),
    "UDP over IPv6": (binary(family=0x22, content=TCP6), "datagrams"),
    "Unix datagrams": (binary(family=0x32, content=UNIX), "datagrams"),
    "an undefined family": (binary(family=0x41), "0x41 are not defined"),
    "an undefined protocol": (binary(family=0x13), "0x13 are not defined"),
    "a family without a protocol": (binary(family=0x10), "0x10 are not defined"),
    "a protocol without a family": (binary(family=0x01), "0x01 are not defined"),
    "no room for IPv4": (binary(content=TCP4[:-1]), "too short for its addresses"),
    "no room for IPv6": (binary(family=0x21, content=TCP6[:-1]), "too short for its addresses"),
    "no room for Unix": (binary(family=0x31, content=UNIX[:-1]), "too short for its addresses"),
    "too long": (binary(content=TCP4 + tlv(4, bytes(4096 - 12 - 2))), "4096 bytes are the most"),
    "LOCAL that is too long": (binary(0x20, 0, bytes(4097)), "4096 bytes are the most"),
    "a byte after the TLVs": (binary(content=TCP4 + b"\x04"), "a TLV is longer"),
    "two bytes after the TLVs": (binary(content=TCP4 + b"\x04\0"), "a TLV is longer"),
    "a TLV without its last byte": (binary(content=TCP4 + b"\x04\0\1"), "a TLV is longer"),
    "addresses of an unspecified family": (binary(family=0, content=TCP4), "a TLV is longer"),
    "a unique ID of 129 bytes": (binary(content=TCP4 + tlv(5, b"x" * 129)), "unique ID is longer"),
    "an authority that is not UTF-8": (binary(content=TCP4 + tlv(2, b"\xff")), "not UTF-8 text"),
    "two authorities": (
        binary(content=TCP4 + tlv(2, b"a.example") + tlv(2, b"b.example")),
        "two AUTHORITY TLVs",
    ),
    "a wrong checksum": (with_checksum(spoil=1), "checksum is wrong"),
    "a wrong checksum of LOCAL": (
        with_checksum(command=0x20, family=0, content=b"", spoil=1 << 31),
        "checksum is wrong",
    ),
    "a changed byte": (
        with_checksum(tlv(0xE0, b"custom")).replace(b"custom", b"costum"),
        "checksum is wrong",
    ),
    "a checksum of 3 bytes": (binary(content=TCP4 + tlv(3, bytes(3))), "3 bytes instead of 4"),
    "a checksum of 5 bytes": (binary(content=TCP4 + tlv(3, bytes(5))), "5 bytes instead of 4"),
    "two checksums": (with_checksum(tlv(3, bytes(4))), "it has two checksums"),
    "an SSL TLV of 4 bytes": (binary(content=TCP4 + tlv(0x20, bytes(4))), "4 bytes; 5 are"),
    "a TLV longer than its SSL TLV": (
        binary(content=TCP4 + tlv(0x20, bytes(5) + b"\x21\0\2x") + tlv(4, b"")),
        "a TLV is longer",
    ),
    "a TLS version that is not ASCII": (
        binary(content=TCP4 + tlv(0x20, bytes(5) + tlv(0x21, b"\xff"))),
        "version is not ASCII text",
    ),
    "two common names": (
        binary(content=TCP4 + tlv(0x20, bytes(5) + tlv(0x22, b"a") + tlv(0x22, b"b"))),
        "two common_name TLVs",
    ),
}


@pytest.mark.parametrize(("header", "ends"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(header: bytes, ends: tuple[str | None, str | None]) -> None:
    info, endpoints = parse(header, "192.0.2.9:1")
    assert (info.source, info.destination) == ends
    assert (endpoints is None) == (ends == NO_ENDS)
    assert info.version == (1 if header.startswith(b"PROXY") else 2)
    assert info.command == ("LOCAL" if header[12] == 0x20 and info.version == 2 else "PROXY")
    assert info.via == "192.0.2.9:1"


@pytest.mark.parametrize(("header", "why"), REFUSED.values(), ids=REFUSED)
def test_refused(header: bytes, why: str) -> None:
    with pytest.raises(HeaderError, match=why):
        parse(header)


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_incomplete_or_followed_by_more_is_refused(name: str) -> None:
    header, _ = ACCEPTED[name]
    for length in range(len(header)):
        with pytest.raises(HeaderError):
            parse(header[:length])
    with pytest.raises(HeaderError):
        parse(header + b"\n")


def test_the_fields() -> None:
    tls = (
        b"\x07\0\0\0\0"
        + tlv(0x21, b"TLSv1.3")
        + tlv(0x22, "Zoë".encode())
        + tlv(0x23, b"TLS_AES_256_GCM_SHA384")
        + tlv(0x24, b"RSA-SHA256")
        + tlv(0x25, b"RSA2048")
        + tlv(0x26, b"secp256r1")
        + tlv(0x27, b"rsa_pss_rsae_sha256")
        + tlv(0x28, b"\x30\x82")
        + tlv(0xE1, b"inner")
    )
    content = (
        TCP4
        + tlv(1, b"h2")
        + tlv(2, "bücher.example".encode())
        + tlv(4, b"padding")
        + tlv(5, b"\0id")
        + tlv(0x20, tls)
        + tlv(0x30, b"namespace")
        + tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9")
    )
    info, _ = parse(with_checksum(content=content))
    assert info.alpn == "h2"
    assert info.authority == "bücher.example"
    assert info.unique_id == b"\0id"
    assert info.tlvs == ((0x30, b"namespace"), (0xEA, b"\x01vpce-08d2bf15fac5001c9"))
    assert info.tls == ProxyTLS(
        has_certificate=True,
        is_verified=True,
        version="TLSv1.3",
        common_name="Zoë",
        cipher="TLS_AES_256_GCM_SHA384",
        signature_algorithm="RSA-SHA256",
        key_algorithm="RSA2048",
        group="secp256r1",
        signature_scheme="rsa_pss_rsae_sha256",
        client_certificate=b"\x30\x82",
        tlvs=((0xE1, b"inner"),),
    )


@pytest.mark.parametrize(
    ("client", "result", "expected"),
    [
        (0, 1, (False, False, False)),
        (1, 0, (True, False, False)),  # HAProxy says so of clients without a certificate
        (1, 1, (True, False, False)),
        (3, 0, (True, True, True)),
        (5, 0, (True, True, True)),
        (7, 1 << 24, (True, True, False)),
        (0xFF, 0, (True, True, True)),  # other bits have no meaning yet
    ],
)
def test_only_a_valid_certificate_is_verified(
    client: int, result: int, expected: tuple[bool, bool, bool]
) -> None:
    content = TCP4 + tlv(0x20, bytes((client,)) + result.to_bytes(4, "big"))
    tls = parse(binary(content=content))[0].tls
    assert tls is not None
    assert (tls.is_used, tls.has_certificate, tls.is_verified) == expected


def test_the_checksum_is_crc_32c() -> None:
    """The examples of RFC 7143, appendix A.4."""
    assert crc32c(bytes(32)) == int.from_bytes(bytes.fromhex("aa36918a"), "little")
    assert crc32c(b"\xff" * 32) == int.from_bytes(bytes.fromhex("43aba862"), "little")
    assert crc32c(bytes(range(32))) == int.from_bytes(bytes.fromhex("4e79dd46"), "little")
    assert crc32c(b"123456789") == 0xE3069283


# ------------------------------------------------------------------------------ sending


ADDRESSES = st.tuples(
    st.one_of(
        st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda address: f"[{address}]")
    ),
    st.integers(0, 65535),
).map(lambda pair: f"{pair[0]}:{pair[1]}")
PATHS = st.binary(min_size=1, max_size=106).map(
    lambda path: "unix:/" + path.replace(b"\0", b"/").decode("utf-8", "surrogateescape")
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
ASCII = st.text(st.characters(codec="ascii"), max_size=60)
TLVS = st.lists(st.tuples(st.integers(0x21, 0xFF), st.binary(max_size=100)), max_size=5).map(tuple)


@st.composite
def tls_values(draw: st.DrawFn) -> ProxyTLS:
    has_certificate = draw(st.booleans())
    return ProxyTLS(
        is_used=draw(st.booleans()),
        has_certificate=has_certificate,
        is_verified=has_certificate and draw(st.booleans()),
        version=draw(st.none() | ASCII),
        common_name=draw(st.none() | TEXT),
        client_certificate=draw(st.none() | st.binary(max_size=2000)),
        group=draw(st.none() | ASCII),
        tlvs=tuple(each for each in draw(TLVS) if not 0x21 <= each[0] <= 0x28),
    )


@st.composite
def headers(draw: st.DrawFn) -> ProxyHeader:
    ends = draw(
        st.one_of(st.just((None, None)), st.tuples(ADDRESSES, ADDRESSES), st.tuples(PATHS, PATHS))
    )
    return ProxyHeader(
        *ends,
        authority=draw(st.none() | TEXT),
        alpn=draw(st.none() | st.binary(max_size=20).map(lambda each: each.decode("latin-1"))),
        unique_id=draw(st.none() | st.binary(max_size=128)),
        tls=draw(st.none() | tls_values()),
        tlvs=draw(TLVS),
        has_checksum=draw(st.booleans()),
    )


def as_sent(text: str | None, other: str | None) -> str | None:
    """*text* as it arrives: an IPv4 address beside an IPv6 address is written in IPv6."""
    if text is None or other is None or text.startswith("unix:"):
        return text
    sent = ProxyHeader(text, other).encode()
    family = sent[13]
    assert (family == 0x21) == ("[" in text or "[" in other)
    return parse(sent)[0].source


@given(headers())
def test_what_is_sent_arrives(header: ProxyHeader) -> None:
    info, _ = parse(header.encode(2))
    for name in ("command", "authority", "alpn", "unique_id", "tls", "tlvs"):
        assert getattr(info, name) == getattr(header, name), name
    assert info.source == as_sent(header.source, header.destination)
    assert info.destination == as_sent(header.destination, header.source)
    again = ProxyHeader(info.source, info.destination)
    assert parse(again.encode(2))[1] == parse(header.encode(2))[1]
    info_1, _ = parse(line := header.encode(1))
    assert line.endswith(b"\r\n")
    is_ip = header.source is not None and not header.source.startswith("unix:")
    assert (info_1.source, info_1.destination) == (
        (info.source, info.destination) if is_ip else NO_ENDS
    )


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_refused_or_mean_what_is_sent_again(data: bytes, is_binary: bool) -> None:
    header = SIGNATURE + data if is_binary else b"PROXY " + data
    try:
        info, _ = parse(header)
    except HeaderError:
        return
    again = ProxyHeader(
        info.source,
        info.destination,
        command=info.command,
        authority=info.authority,
        alpn=info.alpn,
        unique_id=info.unique_id,
        tls=info.tls,
        tlvs=info.tlvs,
    )
    assert parse(again.encode(2))[0] == dataclasses.replace(info, version=2)


def test_addresses_of_both_versions_are_sent_as_ipv6() -> None:
    header = ProxyHeader("192.0.2.1:1", "[2001:db8::2]:2")
    assert header.encode(1) == (
        b"PROXY TCP6 0000:0000:0000:0000:0000:ffff:c000:0201 2001:db8::2 1 2\r\n"
    )
    assert parse(header.encode(2))[0].source == "[::ffff:192.0.2.1]:1"


def test_what_is_sent_for_a_health_check() -> None:
    header = ProxyHeader(command="LOCAL")
    assert header.encode(1) == b"PROXY UNKNOWN\r\n"
    assert header.encode(2) == SIGNATURE + b"\x20\0\0\0"


def test_unknown_addresses() -> None:
    assert ProxyHeader().encode(1) == b"PROXY UNKNOWN\r\n"
    assert ProxyHeader().encode(2) == SIGNATURE + b"\x21\0\0\0"
    assert ProxyHeader("192.0.2.1:1").encode() == SIGNATURE + b"\x21\0\0\0"


def test_a_scope_is_not_sent() -> None:
    header = ProxyHeader("[fe80::1%eth0]:1", "[fe80::2]:2")
    assert parse(header.encode())[0].source == "[fe80::1]:1"


@pytest.mark.parametrize(
    ("ends", "options", "why"),
    [
        ((), {"unique_id": "7"}, "unique_id must be bytes or None, not str"),
        ((), {"authority": b"a"}, "authority must be str or None, not bytes"),
        ((), {"alpn": b"h2"}, "alpn must be str or None, not bytes"),
        ((), {"alpn": "\u20ac"}, "'latin-1' codec can't encode"),
        ((), {"tlvs": ((0xE0, "custom"),)}, "a bytes-like object is required|can't concat"),
        ((5,), {}, "source must be a str such as"),
        (("localhost:1",), {}, "source 'localhost:1' needs an IP address instead of 'localhost'"),
        ((":1",), {}, "source ':1' needs an IP address"),
        (("192.0.2.1",), {}, "source '192.0.2.1' is not an address: it has no port"),
        (("192.0.2.1:1", "x:2"), {}, "destination 'x:2' needs an IP address"),
        ((None, "192.0.2.1:1"), {}, "destination needs a source"),
        ((), {"command": "local"}, "command must be 'PROXY' or 'LOCAL', not 'local'"),
        ((), {"unique_id": bytes(129)}, "unique_id is longer than 128 bytes"),
        ((), {"tlvs": ((2, b"a.example"),)}, "tlvs: 2 is not a type"),
        ((), {"tlvs": ((256, b""),)}, "tlvs: 256 is not a type"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(
    ends: tuple[str, ...], options: dict[str, Any], why: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=why):
        ProxyHeader(*ends, **options)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="two kinds"):
        ProxyHeader("192.0.2.1:1", "unix:/run/x.sock").encode()
    with pytest.raises(ValueError, match="source 'unix:' and destination the peer are of two"):
        ProxyHeader("unix:").encode(peer=("192.0.2.1", 1))
    with pytest.raises(ValueError, match="TLV 0xe0 has 65536 bytes"):
        ProxyHeader(tlvs=((0xE0, bytes(65536)),))
    with pytest.raises(ValueError, match="65535 are the most"):
        ProxyHeader(tlvs=((0xE0, bytes(40000)), (0xE1, bytes(40000)))).encode()
    with pytest.raises(ValueError, match="proxy_version must be 1 or 2, not 3"):
        ProxyHeader().encode(3)
