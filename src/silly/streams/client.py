"""`open_connection` and `open_unix_connection`."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any, Final, NamedTuple

from silly._engine.interface import LINGER
from silly.net.addr import Address, TCPAddress, UnixAddress
from silly.net.clients import attach
from silly.net.dialing import dial
from silly.streams.reader import DEFAULT_LIMIT, read_limit
from silly.streams.writer import MAX_UNSENT, streams_of

__all__ = ["open_connection", "open_unix_connection", "port_number", "unix_address"]

_open_connection: Final = asyncio.open_connection  # programs may replace asyncio's
_open_unix_connection: Final = asyncio.open_unix_connection

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

# Options of `loop.create_connection` that change nothing here: addresses are always raced.
_DIALING: Final = ("happy_eyeballs_delay", "interleave", "all_errors")


async def open_connection(
    host: str | None = None,
    port: int | str | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    sock: socket.socket | None = None,
    local_addr: tuple[str, int] | None = None,
    **options: Any,
) -> _Streams:
    """Connect, and return a reader and a writer; as `asyncio.open_connection`.

    Args:
        host: a name or an IP address. Several addresses of a name are raced (RFC 8305).
        port: a number, or the name of a service.
        limit: bytes; the longest line, without its newline.
        sock: a connected socket to use instead of *host* and *port*.
        local_addr: the address to connect from.
        options: those of `asyncio.loop.create_connection`. With ``family``, ``proto`` or
            ``flags``, the streams are asyncio's own.

    Raises:
        OSError: not connected; it names the address.
        ValueError: *sock* and *host* or *port* are given, or neither.
    """
    used = {name: value for name, value in options.items() if value and name not in _DIALING}
    encryption = take_encryption(used, host)
    if used or limit <= 0 or (sock is None) == (host is None and port is None):
        if sock is not None:
            used["sock"] = sock
        return await _open_connection(
            host, port, limit=limit, **{"local_addr": local_addr, **used, **options}
        )
    bind = None if local_addr is None else TCPAddress(local_addr[0], port_number(local_addr[1]))
    address = TCPAddress(host or "", port_number(port))
    return await _connect(address, bind, sock, limit, encryption)


async def open_unix_connection(
    path: str | bytes | os.PathLike[str] | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    sock: socket.socket | None = None,
    **options: Any,
) -> _Streams:
    """Connect to the Unix socket at *path*; as `asyncio.open_unix_connection`.

    The other arguments are those of `open_connection`.
    """
    used = {name: value for name, value in options.items() if value}
    encryption = take_encryption(used, None)
    if used or limit <= 0 or (sock is None) == (path is None):
        return await _open_unix_connection(path, limit=limit, sock=sock, **options)  # type: ignore[arg-type]
    address = None if path is None else unix_address(path)
    return await _connect(address, None, sock, limit, encryption)


class Encryption(NamedTuple):
    """The options of TLS."""

    context: ssl.SSLContext
    server_hostname: str | None
    timeout: float | None


def take_encryption(options: dict[str, Any], host: str | None) -> Encryption | None:
    """Take those of TLS out of the *options* of a client, unless asyncio is to refuse them."""
    wanted, name = options.get("ssl"), options.get("server_hostname", host)
    if wanted is None or not (wanted is True or isinstance(wanted, ssl.SSLContext)):
        return None
    context = ssl.create_default_context() if wanted is True else wanted
    if not name and context.check_hostname:
        return None
    del options["ssl"]
    options.pop("server_hostname", None)
    options.pop("ssl_shutdown_timeout", None)
    return Encryption(context, name, options.pop("ssl_handshake_timeout", None))


async def _connect(
    address: Address | None,
    bind: TCPAddress | None,
    sock: socket.socket | None,
    limit: int,
    encryption: Encryption | None,
) -> _Streams:
    loop = asyncio.get_running_loop()
    if sock is None:
        assert address is not None
        sock = await dial(loop, address, bind)
    elif sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A Stream Socket was expected, got {sock!r}")
    else:
        sock.setblocking(False)
    conn = await attach(
        loop,
        sock,
        read_limit=read_limit(limit),
        max_unsent=MAX_UNSENT,
        linger=LINGER,
        idle_timeout=None,
    )
    if encryption is None:
        return streams_of(conn, limit, loop)
    from silly.streams.encryption import encrypt  # noqa: PLC0415 - most have no TLS

    try:
        await encrypt(conn, *encryption, is_server=False)
    except BaseException:
        conn.close()  # what is queued, an alert, is still sent
        raise
    return streams_of(conn, limit, loop, context=encryption.context)


def port_number(port: int | str | None) -> int:
    """Return *port* as a number.

    Raises:
        OSError: it is the name of no service.
    """
    if isinstance(port, str):
        return int(port) if port.isdecimal() else socket.getservbyname(port, "tcp")
    return port or 0


def unix_address(path: str | bytes | os.PathLike[str]) -> UnixAddress:
    """Return the address of the Unix socket at *path*; one with a NUL first is abstract."""
    return UnixAddress(os.fsdecode(path))
