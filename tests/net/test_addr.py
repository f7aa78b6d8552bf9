from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net.addr import TCPAddress, UnixAddress, format_sockaddr, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9999", TCPAddress("127.0.0.1", 9999)),
        ("[::1]:9999", TCPAddress("::1", 9999)),
        (":9999", TCPAddress("", 9999)),
        ("localhost:0", TCPAddress("localhost", 0)),
        ("unix:/run/x.sock", UnixAddress("/run/x.sock")),
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
        "unix:" + "x" * 200,
        "x" * 64 + ":80",
    ],
)
def test_refused_with_the_accepted_forms_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"'127\.0\.0\.1:9999', '\[::1\]:9999'"):
        parse(text)


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


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_survives_the_round_trip(ip: object, port: int) -> None:
    text = format_sockaddr((str(ip), port))
    assert parse(text) == TCPAddress(str(ip), port)
