"""Who the client is, as the proxies before us report it.

Two families of header fields say so: ``X-Forwarded-For`` and ``X-Forwarded-Proto``, which most
proxies send, and ``Forwarded`` (RFC 7239). Each proxy appends the address that it was asked from.
So they are read from the right: what a proxy that we trust has appended is true, and who has
appended the next is known. The first address that is no proxy of ours is the client's. What is
left of it may have been invented by the client.

A proxy that sends one of the families must remove the other, or clients can choose it. Where both
say something, ``X-Forwarded-…`` counts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from silly.net.conn import Conn
from silly.net.http import Request
from silly.net.http.fields import TOKEN, Headers
from silly.net.networks import Networks

__all__ = ["Proxies", "is_encrypted"]

_PAIR: Final = re.compile(
    rf"[ \t]*(?P<name>{TOKEN.pattern})="
    rf'(?:(?P<token>{TOKEN.pattern})|"(?P<quoted>(?:[^"\\]|\\.)*)")'
    r"[ \t]*(?P<end>[;,]|\Z)"
)
_PORT: Final = re.compile(r"[0-9]{1,5}")
_NAMES: Final = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"))
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class _Hop(NamedTuple):
    """What one proxy says of whom it was asked by."""

    node: str
    scheme: str


def is_encrypted(conn: Conn) -> bool:
    """Return whether the client uses TLS: to us, or to a load balancer that says so."""
    if conn.tls is not None:
        return True
    proxy = conn.proxy
    return proxy is not None and proxy.tls is not None and proxy.tls.is_used


class Proxies:
    """The *trusted* proxies, who are believed."""

    def __init__(self, trusted: Networks) -> None:
        self._trusted = trusted

    def reported(self, request: Request) -> tuple[tuple[str, int] | None, str | None] | None:
        """Return the client's address and the scheme, as far as proxies of ours say them.

        The port is 0 if it is not said. None: there is nothing to believe.
        """
        for name, _ in request.raw_headers:
            if name in _NAMES:
                return self._reported(request) if self._trusted.covers_peer(request.conn) else None
        return None

    def _reported(self, request: Request) -> tuple[tuple[str, int] | None, str | None]:
        headers = request.headers
        address, scheme = _client_of(_x_forwarded(headers), self._trusted)
        if address is None or scheme is None:
            hops = _forwarded(headers.get("forwarded", ""))
            other_address, other_scheme = _client_of(hops, self._trusted)
            address, scheme = address or other_address, scheme or other_scheme
        if address is not None:
            request._reported_client = address[0]
        return address, scheme


def _client_of(hops: list[_Hop], trusted: Networks) -> tuple[tuple[str, int] | None, str | None]:
    """Return the rightmost of *hops* that is no trusted proxy; else the last that is known."""
    found: tuple[str, int] | None = None
    scheme: str | None = None
    for hop in reversed(hops):
        scheme = _SCHEMES.get(hop.scheme, scheme)
        node = _parsed(hop.node)
        if node is None:
            break  # hidden or malformed: whoever is before it is not known
        address, port = node
        found = str(address), port
        if not trusted.covers(address.packed):
            break
    return found, scheme


def _x_forwarded(headers: Headers) -> list[_Hop]:
    nodes = _listed(headers.get("x-forwarded-for", "")) or [""]
    schemes = _listed(headers.get("x-forwarded-proto", "").lower()) or [""]
    if len(schemes) != len(nodes):  # it is not appended to: the last proxy has set it
        schemes = [""] * (len(nodes) - 1) + schemes[-1:]
    return list(map(_Hop, nodes, schemes))


def _listed(text: str) -> list[str]:
    return [item for part in text.split(",") if (item := part.strip())]


def _forwarded(text: str) -> list[_Hop]:
    """Return the elements of a ``Forwarded`` field; none if it is malformed."""
    hops = []
    pairs: dict[str, str] = {}
    for name, value, end in _pairs(text):
        if not name or name in pairs:
            return []
        pairs[name] = value
        if end != ";":
            hops.append(_Hop(pairs.get("for", ""), pairs.get("proto", "").lower()))
            pairs = {}
    return [] if pairs else hops


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and what follows of each pair; an empty name for what is none."""
    at = 0
    while at < len(text) and (found := _PAIR.match(text, at)) is not None:
        quoted = found["quoted"]
        value = found["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        yield found["name"].lower(), value, found["end"]
        at = found.end()
    if at < len(text):
        yield "", "", ""


def _parsed(node: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int] | None:
    """Return the address and the port of a *node* (RFC 7239, section 6); None if it has none."""
    host, port = node, ""
    if node.startswith("["):
        host, bracket, rest = node[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    elif node.count(":") == 1:
        host, _, port = node.partition(":")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if "%" in host:  # the zone of another machine
        return None
    return address, int(port) if _PORT.fullmatch(port) and int(port) < 65536 else 0
