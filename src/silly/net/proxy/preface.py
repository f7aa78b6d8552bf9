"""Reading a header at the start of a connection, and taking the addresses in it."""

from __future__ import annotations

from silly.errors import LimitExceeded
from silly.net.conn import StreamConn
from silly.net.preface import PrefaceError
from silly.net.proxy import v1, v2
from silly.net.proxy.endpoints import HeaderError
from silly.net.proxy.header import parse

__all__ = ["take_header"]

_REASON = "proxy_header"


async def take_header(conn: StreamConn) -> None:
    """The preface: read a header, and let *conn* go by the addresses in it from now on.

    Exactly the header is read. What is certainly none is refused at its first wrong byte.
    """
    try:
        header = await _read(conn)
        info, endpoints = parse(header, via=conn.remote_addr)
    except HeaderError as error:
        raise PrefaceError(_REASON, str(error)) from None
    remote, local = endpoints or (conn._remote_sockaddr, conn._local_sockaddr)
    conn._discount(len(header))
    conn._set_sockaddrs(remote, local, info)


async def _read(conn: StreamConn) -> bytes:
    """Read a header; raise HeaderError if what arrives is none."""
    start = await conn.read(1)
    begin = v1.PREFIX if v1.PREFIX.startswith(start) else v2.SIGNATURE
    while begin.startswith(start) and len(start) < len(begin):
        start += await conn.read(max(1, min(len(begin) - len(start), conn.unread_bytes)))
    if start != begin:
        raise HeaderError(f"there is none: the first bytes are {start!r}")
    if begin is v2.SIGNATURE:
        start += await conn.read(v2.HEAD - len(start))
        return start + await conn.read(v2.length(start))
    try:
        # Up to LF: a line that ends without CR is refused as soon as it ends.
        return start + await conn.read(v1.END[-1:], limit=v1.MAX_LENGTH - len(start))
    except LimitExceeded:
        raise HeaderError(f"the line does not end within {v1.MAX_LENGTH} bytes") from None
