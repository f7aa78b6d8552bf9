"""The header that a new connection begins with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from silly.net.addr import Address, TCPAddress
from silly.net.conn import Conn
from silly.net.proxy.endpoints import parse_endpoint
from silly.net.proxy.header import ProxyHeader, ProxyInfo
from silly.net.proxy.tls import ProxyTLS

__all__ = ["Greeting", "greeting_of"]


Greeting = Callable[[Any], bytes]
"""Returns the header to send to a peer, whose socket address is the argument."""


def greeting_of(header: Conn | ProxyHeader, version: int, address: Address) -> Greeting:
    """Return how to greet *address*: with *header*, or with one about the client of a `Conn`.

    Raises:
        TypeError, ValueError: it is neither, or cannot be sent to *address* in this *version*.
    """
    if isinstance(header, Conn):
        header = _header_about(header)
    elif not isinstance(header, ProxyHeader):
        raise TypeError(f"proxy_header must be a Conn or a ProxyHeader, not {header!r}")
    greeting = functools.partial(header.encode, version)
    greeting(("192.0.2.1", 1) if isinstance(address, TCPAddress) else "")  # for errors
    return greeting


def _header_about(conn: Conn) -> ProxyHeader:
    """Return a header with the addresses of *conn*, its TLS, and what its own header said."""
    source: str | None = conn.remote_addr
    destination: str | None = conn.local_addr
    if not _is_expressible(conn.remote_addr, conn.local_addr):
        source = destination = None
    info = conn.proxy or ProxyInfo()
    tls = conn.tls
    if tls is None:
        authority, alpn, client_tls = info.authority, info.alpn, info.tls
    else:
        authority, alpn = tls.server_name, tls.alpn
        has_certificate = tls.peer_certificate is not None
        client_tls = ProxyTLS(
            version=tls.version,
            cipher=tls.cipher,
            has_certificate=has_certificate,
            is_verified=has_certificate,
        )
    return ProxyHeader(
        source,
        destination,
        authority=authority,
        alpn=alpn,
        unique_id=info.unique_id,
        tls=client_tls,
        tlvs=info.tlvs,
    )


def _is_expressible(*texts: str) -> bool:
    """Return whether *texts* are addresses of one kind; those of connections in memory are not."""
    try:
        kinds = {isinstance(parse_endpoint(each, "address"), tuple) for each in texts}
    except ValueError:
        return False
    return len(kinds) == 1
