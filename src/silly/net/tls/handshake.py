"""The handshake of one connection, as its server or as its client."""

from __future__ import annotations

import asyncio
import errno
import ssl
from typing import Final

from silly._engine import stream_errors
from silly._engine.interface import Stream
from silly._values.arguments import seconds_or_none
from silly.errors import ConcurrentRead, at_address
from silly.net.addr import format_sockaddr
from silly.net.tls.config import Server, as_client, as_server
from silly.net.tls.session import HEADER, RECORD, Session

__all__ = ["accept", "is_for_servers", "read_hello", "request", "start"]

_HANDSHAKE: Final = 22  # the type of a record (RFC 8446, section 5.1)


async def accept(conn: Stream, hello: bytes, server: Server) -> None:
    """Do the handshake as the server, whose client began with the record *hello*.

    Raises:
        ssl.SSLError, OSError: it failed, and the connection with it.
    """
    conn._put_filter(server.new_session(), hello)
    await conn._wait_ready()


async def read_hello(conn: Stream) -> bytes:
    """Read the first record of a handshake.

    Raises:
        ssl.SSLError: it is not one.
        EndOfStream: the client finished.
    """
    header = await conn.read(HEADER)
    length = int.from_bytes(header[3:])
    if header[0] != _HANDSHAKE or header[1] != 3 or not 0 < length <= RECORD:
        raise _not_tls(header)
    return header + await conn.read(length)


def _not_tls(header: bytes) -> ssl.SSLError:
    if header[0] & 0x80 and header[2] == 1:
        reason, text = "UNSUPPORTED_PROTOCOL", "the client speaks SSL 2.0"
    elif header.partition(b" ")[0] in _METHODS or header in _LONG_METHODS:
        reason, text = "HTTP_REQUEST", "the client speaks HTTP without TLS"
    else:
        reason, text = "WRONG_VERSION_NUMBER", f"the client does not speak TLS: it sent {header!r}"
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, text)
    error.reason = reason
    return error


_METHODS: Final = (b"GET", b"PUT", b"POST", b"HEAD")
_LONG_METHODS: Final = (b"OPTIO", b"DELET", b"PATCH", b"CONNE", b"TRACE")


async def request(conn: Stream, session: Session, named: str) -> None:
    """Do the handshake as the client; *named* is the server's address, for errors.

    Raises:
        ssl.SSLCertVerificationError: the server's certificate is not valid.
        ssl.SSLError, OSError: it failed, and the connection with it.
    """
    conn._put_filter(session)
    try:
        await conn._wait_ready()
    except OSError as error:
        raise stream_errors.mark(conn, at_address(conn._loss or error, named)) from None


async def start(conn: Stream, tls: object, server_name: str | None, timeout: float | None) -> None:
    """Start TLS on *conn*; see `silly.net.conn.Conn.start_tls`."""
    timeout = seconds_or_none(timeout, "timeout")
    if conn._has_filter:
        raise RuntimeError("the connection is encrypted already")
    named = format_sockaddr(conn._remote_sockaddr)
    if is_for_servers(tls):
        if server_name is not None:
            raise ValueError("server_name is for clients")
        handshake = _accept(conn, as_server(tls))
    else:
        client = as_client(tls)
        name = client.name_for(server_name or conn._host)
        handshake = request(conn, client.new_session(name, named), named)
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            await handshake
    except ConcurrentRead:
        raise
    except BaseException as error:
        if isinstance(error, OSError) and not limit.expired():
            conn.close()  # what is queued, an alert, is still sent
            raise
        conn.abort()
        if limit.expired() and isinstance(error, TimeoutError):
            late = TimeoutError(errno.ETIMEDOUT, f"No TLS within {timeout:g} seconds", named)
            raise stream_errors.mark(conn, late) from None
        raise


async def _accept(conn: Stream, server: Server) -> None:
    await accept(conn, await read_hello(conn), server)


def is_for_servers(tls: object) -> bool:
    """Return whether *tls*, an argument of `start_tls`, makes this end the server."""
    if isinstance(tls, ssl.SSLContext):
        return tls.protocol != ssl.PROTOCOL_TLS_CLIENT
    return isinstance(tls, Server)
