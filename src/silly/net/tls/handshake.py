"""The handshake of one connection, as its server or as its client."""

from __future__ import annotations

import asyncio
import errno
import ssl

from silly._engine import stream_errors
from silly._engine.interface import Stream
from silly._values.arguments import seconds_or_none
from silly._values.units import in_seconds
from silly.errors import ConcurrentRead, EndOfStream, at_address
from silly.net.addr import format_sockaddr
from silly.net.gate import CUT_OFF, TOO_LATE
from silly.net.tls.config import Server, as_client, as_server
from silly.net.tls.failures import reason_of, text_of
from silly.net.tls.hello import Hello
from silly.net.tls.kinds import Session

__all__ = ["is_for_servers", "request", "start"]


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
    count = None
    if is_for_servers(tls):
        if server_name is not None:
            raise ValueError("server_name is for clients")
        handshake = _accept(conn, as_server(tls), named)
        count = conn._count_handshake  # the owner leaves a connection that fails
    else:
        client = as_client(tls)
        name = client.name_for(server_name or conn._host)
        handshake = request(conn, client.new_session(name, named), named)
    late = ""
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            await handshake
    except ConcurrentRead:
        raise
    except BaseException as error:
        if limit.expired() and isinstance(error, TimeoutError):
            late = f"No TLS within {in_seconds(timeout)}"
        # The task may keep the error, whose traceback refers to this frame: it must not refer back.
        del limit
        if isinstance(error, OSError) and not late:
            conn.close()  # what is queued, an alert, is still sent
        else:
            conn.abort()
        if count is not None and isinstance(error, OSError | EndOfStream):
            why = late or text_of(error).removeprefix(f"{named}: ")
            count(conn, TOO_LATE if late else _reason(error), why)
        if not late:
            raise
    if late:
        raise stream_errors.mark(conn, TimeoutError(errno.ETIMEDOUT, late, named))


def _reason(error: BaseException) -> str:
    return reason_of(error) if isinstance(error, ssl.SSLError) else CUT_OFF


async def _accept(conn: Stream, server: Server, named: str) -> None:
    hello = Hello()
    try:
        while not hello.feed(await conn.read()):
            pass
    except ssl.SSLError as error:
        raise stream_errors.mark(conn, at_address(error, named)) from None
    conn._put_filter(server.new_session(hello.name), bytes(hello.received))
    await conn._wait_ready()
    count = conn._count_handshake
    if count is not None:
        count(conn, conn._filter_info.counted_as, None)


def is_for_servers(tls: object) -> bool:
    """Return whether *tls*, an argument of `start_tls`, makes this end the server."""
    if isinstance(tls, ssl.SSLContext):
        return tls.protocol != ssl.PROTOCOL_TLS_CLIENT
    return isinstance(tls, Server)
