"""The header that a new connection begins with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from silly.net.addr import Address, TCPAddress
from silly.net.conn import Conn
from silly.net.proxy.endpoints import parse_endpoint
from silly.net.proxy.header import ProxyHeader

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
    """Return a header with the addresses of *conn* and all that its own header said, if any."""
    source: str | None = conn.remote_addr
    destination: str | None = conn.local_addr
    if not _is_expressible(conn.remote_addr, conn.local_addr):
        source = destination = None
    info = conn.proxy
    if info is None:
        return ProxyHeader(source, destination)
    return ProxyHeader(
        source,
        destination,
        authority=info.authority,
        alpn=info.alpn,
        unique_id=info.unique_id,
        tls=info.tls,
        tlvs=info.tlvs,
    )


def _is_expressible(*texts: str) -> bool:
    """Return whether *texts* are addresses of one kind; those of connections in memory are not."""
    try:
        kinds = {isinstance(parse_endpoint(each, "address"), tuple) for each in texts}
    except ValueError:
        return False
    return len(kinds) == 1
