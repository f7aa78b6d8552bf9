"""Which addresses belong to a network."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net.networks import Networks

pytestmark = pytest.mark.no_engine


def packed(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0", "::a00:1"]),
        ("192.0.2.7", ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.2.6"]),
        ("0.0.0.0/0", ["192.0.2.7", "::ffff:192.0.2.7"], ["::1", "2001:db8::1"]),
        ("::/0", ["::1", "2001:db8::1"], ["192.0.2.7", "::ffff:192.0.2.7"]),
        ("fd00::/8", ["fd12::1"], ["fe80::1", "253.0.0.0"]),
        ("::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.0"]),
        ("unix", [], ["127.0.0.1", "::1"]),
    ],
)
def test_a_network(network: str, inside: list[str], outside: list[str]) -> None:
    networks = Networks([network])
    assert all(networks.covers(packed(each)) for each in inside)
    assert not any(networks.covers(packed(each)) for each in outside)
    assert not networks.covers(b"") or network == "0.0.0.0/0"
    assert networks.has_unix == (network == "unix")


@given(st.ip_addresses(), st.integers(0, 32), st.ip_addresses())
def test_it_agrees_with_ipaddress(
    base: ipaddress.IPv4Address | ipaddress.IPv6Address,
    length: int,
    client: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    network = ipaddress.ip_network((base, length), strict=False)
    for each in (client, base):
        mapped = each.ipv4_mapped if isinstance(each, ipaddress.IPv6Address) else None
        assert Networks([str(network)]).covers(each.packed) == ((mapped or each) in network)
