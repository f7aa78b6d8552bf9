"""The connections to talk on: dialed, accepted, of datagrams, or of a WebSocket."""

from __future__ import annotations

import asyncio
import ssl

from silly._engine.interface import HANDSHAKE_TIMEOUT
from silly._values.units import in_seconds
from silly.cli.command import Failure
from silly.cli.connecting.datagrams import Datagrams
from silly.cli.connecting.notes import say, say_refused
from silly.cli.connecting.pieces import Pieces
from silly.cli.connecting.starttls import start_tls
from silly.cli.tls import Watched
from silly.net import tcp, udp
from silly.net.proxy import ProxyHeader
from silly.net.tcp import Conn, Limits

__all__ = ["accept", "dial", "open_udp", "open_websocket"]


async def dial(
    addr: str,
    timeout: float | None,
    *,
    client: Watched | None,
    starttls: str | None,
    header: ProxyHeader | None,
    version: int,
) -> Conn:
    """Connect to *addr*. Raises Failure if that cannot be meant."""
    try:
        connecting = tcp.connect(
            addr,
            timeout=timeout,
            tls=client if client is not None and starttls is None else False,
            proxy_header=header,
            proxy_version=version,
        )
    except ValueError as error:
        of = "" if header is None else "--proxy-header: "
        raise Failure(f"{of}{error}") from None
    try:
        conn = await connecting
        if client is not None and starttls is not None:
            try:
                await start_tls(conn, client, starttls, timeout or HANDSHAKE_TIMEOUT)
            except BaseException:
                conn.close()
                raise
    except ssl.SSLCertVerificationError:
        say_refused(client)
        raise
    return conn


async def open_udp(addr: str, timeout: float | None) -> Datagrams:
    """Return a socket that sends to *addr*."""
    return Datagrams(await udp.connect(addr, timeout=timeout))


async def open_websocket(
    addr: str, timeout: float | None, client: Watched | None, *, is_binary: bool, pings: bool
) -> Pieces:
    """Open the WebSocket at the URL *addr*. Raises Failure if that cannot be meant."""
    try:
        from silly.cli.connecting import messages  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Failure(str(error)) from None
    try:
        return await messages.open_websocket(
            addr, timeout, client, is_binary=is_binary, pings=pings, say=say
        )
    except ValueError as error:
        raise Failure(str(error)) from None


async def accept(addr: str, timeout: float | None) -> Conn:
    """Listen on *addr* for one client; return its connection."""
    arrived: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    async def take(conn: Conn) -> None:
        if arrived.done():
            conn.abort()
            return
        listener.close(0)  # does not cancel the handler that calls it
        arrived.set_result(conn)
        await conn.wait_closed()

    listener = tcp.listen(addr, take, limits=Limits.none(), proxy_protocol=(), tls=False)
    for local in listener.local_addrs:
        say(f"Listening on {local}")
    try:
        async with asyncio.timeout(timeout):
            return await arrived
    except TimeoutError:
        raise TimeoutError(f"{addr}: no client connected within {in_seconds(timeout)}") from None
    finally:
        if not arrived.done() or arrived.cancelled():
            await listener.close(0)
