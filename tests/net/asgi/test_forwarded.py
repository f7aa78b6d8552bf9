"""Who the client is, as proxies say."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net import asgi, tcp
from silly.net.asgi.forwarded import Proxies
from silly.net.asgi.types import Receive, Scope, Send
from silly.net.http import Request
from silly.net.networks import Networks
from silly.net.proxy import ProxyHeader, ProxyTLS
from tests.net.asgi.applications import ANY, GET, Server, application, respond
from tests.net.http.wire import rest

TRUSTED = ("127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32")


def reported(
    *fields: tuple[str, str], peer: bytes = b"\x7f\0\0\1", trusted: tuple[str, ...] = TRUSTED
) -> Any:
    raw = [(name.encode(), value.encode()) for name, value in fields]
    request = Request("GET", b"/", "1.1", raw, 0)
    fake: Any = SimpleNamespace(_client=peer, _local_sockaddr="/run/app.sock" if not peer else ())
    request.conn = fake
    return Proxies(Networks(trusted)).reported(request)


FOR, PROTO, FORWARDED = "x-forwarded-for", "x-forwarded-proto", "forwarded"
CLIENT = "203.0.113.9"


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("value", "address"),
    [
        (CLIENT, (CLIENT, 0)),
        (f"{CLIENT}:1234", (CLIENT, 1234)),
        (f"{CLIENT}:99999", (CLIENT, 0)),
        ("2001:4860::8", ("2001:4860::8", 0)),
        ("[2001:4860::8]", ("2001:4860::8", 0)),
        ("[2001:4860::8]:80", ("2001:4860::8", 80)),
        (f"192.0.2.1, {CLIENT}, 10.0.0.1", (CLIENT, 0)),  # the first may be invented
        (f"{CLIENT},10.0.0.2 , 10.0.0.1", (CLIENT, 0)),
        (f", {CLIENT},, 10.0.0.1,", (CLIENT, 0)),
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", 0)),  # a client that is a proxy, too
        ("nonsense, 10.0.0.1", ("10.0.0.1", 0)),
        (f"{CLIENT}, nonsense", None),
        (f"{CLIENT}, unknown", None),
        ("[2001:4860::8", None),
        ("[2001:4860::8]x", None),
        ("fe80::1%eth0", None),
        ("", None),
        (",", None),
    ],
)
def test_x_forwarded_for(value: str, address: object) -> None:
    assert reported((FOR, value)) == (address, None)


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (f"for={CLIENT}", ((CLIENT, 0), None)),
        (f'FOR="{CLIENT}:1234";Proto=HTTPS', ((CLIENT, 1234), "https")),
        ('for="[2001:4860::8]:80" ; by=10.0.0.1', ((("2001:4860::8"), 80), None)),
        (
            f'for=192.0.2.1;proto=http, for={CLIENT};proto=https, for="10.0.0.1"',
            ((CLIENT, 0), "https"),
        ),
        (f'for={CLIENT};host="a\\"b,c;d"', ((CLIENT, 0), None)),
        (f"for={CLIENT};proto=gopher", ((CLIENT, 0), None)),
        (f"for={CLIENT}, for=_hidden", (None, None)),
        (f"for={CLIENT}, for=unknown;proto=https", (None, "https")),
        (f"for={CLIENT}, proto=https", (None, "https")),  # by whom the last was asked is not said
        # Malformed: nothing of it is believed.
        (f"for={CLIENT};", (None, None)),
        (f"for={CLIENT}, ", (None, None)),
        (f"for={CLIENT};for=192.0.2.1", (None, None)),
        (f'for="{CLIENT}', (None, None)),
        ("for=2001:4860::8", (None, None)),  # it must be quoted
        ("for", (None, None)),
        ("", (None, None)),
    ],
)
def test_forwarded(value: str, found: object) -> None:
    assert reported((FORWARDED, value)) == found


@pytest.mark.no_engine
def test_the_scheme() -> None:
    assert reported((PROTO, "https")) == (None, "https")
    assert reported((PROTO, "HTTPS")) == (None, "https")
    assert reported((PROTO, "wss")) == (None, "https")  # of a request for WebSocket
    assert reported((PROTO, "gopher")) == (None, None)
    assert reported((PROTO, "http, https")) == (None, "https")
    # With one for each proxy, it is that of the client's; else the last proxy has set it.
    assert reported((FOR, f"{CLIENT}, 10.0.0.1"), (PROTO, "https, http"))[1] == "https"
    assert reported((FOR, f"192.0.2.1, {CLIENT}"), (PROTO, "http, https"))[1] == "https"
    assert reported((FOR, f"{CLIENT}, 10.0.0.1"), (PROTO, "https"))[1] == "https"


@pytest.mark.no_engine
def test_who_is_believed() -> None:
    fields = [(FOR, CLIENT), (PROTO, "https")]
    believed = ((CLIENT, 0), "https")
    assert reported(*fields, peer=b"\x7f\0\0\1") == believed
    assert reported(*fields, peer=b"\0" * 10 + b"\xff\xff\x7f\0\0\1") == believed
    assert reported(*fields, peer=bytes((192, 0, 2, 1))) is None
    assert reported(*fields, peer=b"") is None  # a Unix socket
    assert reported(*fields, peer=b"", trusted=("unix",)) == believed
    assert reported(*fields, trusted=()) is None
    assert reported(("x-forwarded-host", "evil")) is None
    everyone = ("0.0.0.0/0", "::/0", "unix")
    assert reported((FOR, f"{CLIENT}, 192.0.2.1"), trusted=everyone) == ((CLIENT, 0), None)


@pytest.mark.no_engine
def test_each_family_fills_what_the_other_leaves_open() -> None:
    other = (FORWARDED, "for=192.0.2.1;proto=http")
    assert reported((FOR, CLIENT), other) == ((CLIENT, 0), "http")
    assert reported((PROTO, "https"), other) == (("192.0.2.1", 0), "https")


PIECES = ["for=", "proto=https", "10.0.0.1", CLIENT, "[::1]", *'"\\;, =x:']


@pytest.mark.no_engine
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_whatever_comes_is_an_address_or_nothing(value: str) -> None:
    for field in (FOR, PROTO, FORWARDED):
        address, scheme = reported((field, value))
        assert scheme in {None, "https"}
        assert address is None or (ipaddress.ip_address(address[0]) and 0 <= address[1] < 65536)


async def test_only_trusted_proxies_say_who_the_client_is() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, f"{scope['client'][0]} {scope['scheme']}".encode())

    request = GET[:-2] + b"Forwarded: for=203.0.113.9;proto=https\r\n\r\n"
    for trusted, seen in (
        (("127.0.0.0/8",), b"203.0.113.9 https"),
        (("10.0.0.0/8",), b"127.0.0.1 http"),
    ):
        async with Server(part, trusted_proxies=trusted) as server:
            assert (await server.ask(request))[1] == seen


@pytest.mark.no_engine
async def test_the_proxy_protocol_says_whether_the_client_used_tls() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, f"{scope['client']} {scope['scheme']}".encode())

    listener = await asgi.listen(
        ANY, application(part), lifespan="off", proxy_protocol=("127.0.0.0/8",)
    )
    # What the client itself says in fields of HTTP is not believed: it is no proxy.
    request = GET[:-2] + b"X-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n"
    for used in (None, ProxyTLS(), ProxyTLS(is_used=False)):
        header = ProxyHeader("203.0.113.9:1234", "203.0.113.1:443", tls=used)
        async with tcp.connect(listener.local_addr, proxy_header=header) as conn:
            await conn.write(request)
            scheme = "https" if used is not None and used.is_used else "http"
            assert (await rest(conn)).endswith(f"('203.0.113.9', 1234) {scheme}".encode())
    await listener.close()
