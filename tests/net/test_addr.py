from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net.addr import TCPAddress, UnixAddress, format_sockaddr, parse

pytestmark = pytest.mark.no_engine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9999", TCPAddress("127.0.0.1", 9999)),
        ("[::1]:9999", TCPAddress("::1", 9999)),
        (":9999", TCPAddress("", 9999)),
        ("localhost:0", TCPAddress("localhost", 0)),
        ("[fe80::1%eth0]:9999", TCPAddress("fe80::1%eth0", 9999)),
        ("unix:/run/x.sock", UnixAddress("/run/x.sock")),
        ("unix:@name\0rest", UnixAddress("\0name\0rest")),
        ("unix:./@file", UnixAddress("@file")),
    ],
)
def test_accepted_forms_and_back(text: str, expected: object) -> None:
    assert parse(text) == expected
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        ":99999",
        "host:port",
        "host:",
        "host:-1",
        "host:+1",
        "host: 80",
        "host:٣",
        "::1:9999",
        "[::1]",
        "[::1:9999",
        "::1]:9999",
        "[127.0.0.1]:80",
        "a b:80",
        "http://x:80",
        "unix:",
        "unix:a\0b",
        "unix:" + "x" * 108,
        "unix:@" + "x" * 108,
        "unix:\ud800",
        "x" * 64 + ":80",
    ],
)
def test_errors_show_the_accepted_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"'127\.0\.0\.1:9999', '\[::1\]:9999'"):
        parse(text)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://x:81/y:1", "x:81"),
        ("http://x?y", "x:80"),
        ("https://x", "x:443"),
        ("wss://user:secret@x/y", "x:443"),
        ("http:///y", "localhost:80"),
    ],
)
def test_of_a_url_host_and_port_are_shown(url: str, place: str) -> None:
    with pytest.raises(ValueError, match=f"it is a URL, and its host and port are '{place}'"):
        parse(url)


@pytest.mark.parametrize("value", [None, 9999, b"127.0.0.1:1", ("127.0.0.1", 1)])
def test_only_text(value: object) -> None:
    with pytest.raises(TypeError, match="addr must be a str"):
        parse(value)  # type: ignore[arg-type]


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert parse(str(address)) == address


def _as_the_system_writes_it(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return socket.inet_ntop(socket.AF_INET6, ip.packed)


PORTS = st.integers(0, 65535)
HOSTS = st.ip_addresses(v=6) | st.sampled_from(["fe80::/10", "::ffff:0:0/96", "ff02::/16"]).flatmap(
    lambda network: st.ip_addresses(network=network)
)
SOCKADDRS = st.one_of(
    st.tuples(st.ip_addresses(v=4).map(str), PORTS),
    st.tuples(
        HOSTS.map(_as_the_system_writes_it),
        PORTS,
        st.just(0),
        st.sampled_from([0, *(index for index, _ in socket.if_nameindex())])
        | st.integers(0, 2**32 - 1),
    ),
    st.binary(min_size=1, max_size=107).map(lambda path: path.replace(b"\0", b"@")),
    st.sampled_from([b"@", b"@a", b"./@a", b" a b ", b"a\nb", b"\xff\xfe", b"%41", b"unix:x"]),
    st.binary(max_size=107).map(lambda name: b"\0" + name),
)


def named(text: str) -> Any:
    """Return the address in *text* as the `socket` module has it."""
    address = parse(text)
    if isinstance(address, UnixAddress):
        return os.fsencode(address.path)
    ((*_, sockaddr),) = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    return sockaddr


@given(SOCKADDRS)
def test_formatting_and_parsing_give_the_same_address(sockaddr: Any) -> None:
    wanted = sockaddr
    if isinstance(sockaddr, bytes) and sockaddr.startswith(b"./@"):
        wanted = sockaddr[2:]  # the same file
    assert named(format_sockaddr(sockaddr)) == wanted
    if isinstance(sockaddr, bytes) and sockaddr[0]:  # the socket module gives a str
        assert named(format_sockaddr(os.fsdecode(sockaddr))) == wanted


def test_a_scope_is_shown_as_an_interface_name_if_that_can_be_resolved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number, name = socket.if_nameindex()[0]
    assert format_sockaddr(("fe80::1", 9, 0, number)) == f"[fe80::1%{name}]:9"
    assert format_sockaddr(("fd00::1", 9, 0, number)) == f"[fd00::1%{number}]:9"
    for strange in ("a%b", "a]:1", "\x1b[2J", "é"):
        monkeypatch.setattr(socket, "if_indextoname", lambda _number, it=strange: it)
        assert format_sockaddr(("fe80::1", 9, 0, number)) == f"[fe80::1%{number}]:9"


@pytest.mark.parametrize(("unnamed", "text"), [("", "unix:"), (b"", "unix:"), (None, "unknown")])
def test_texts_of_unnamed_ends_are_refused(unnamed: object, text: str) -> None:
    assert format_sockaddr(unnamed) == text
    with pytest.raises(ValueError, match="is not an address"):
        parse(text)
