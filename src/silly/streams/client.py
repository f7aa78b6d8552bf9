"""`open_connection` and `open_unix_connection`."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, Final

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
        options: those of `asyncio.loop.create_connection`. With ``ssl``, ``family``,
            ``proto`` or ``flags``, the streams are asyncio's own.

    Raises:
        OSError: not connected; it names the address.
        ValueError: *sock* and *host* or *port* are given, or neither.
    """
    used = {name: value for name, value in options.items() if value and name not in _DIALING}
    if used or limit <= 0 or (sock is None) == (host is None and port is None):
        if sock is not None:
            used["sock"] = sock
        return await _open_connection(
            host, port, limit=limit, **{"local_addr": local_addr, **used, **options}
        )
    bind = None if local_addr is None else TCPAddress(local_addr[0], port_number(local_addr[1]))
    return await _connect(TCPAddress(host or "", port_number(port)), bind, sock, limit)


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
    if used or limit <= 0 or (sock is None) == (path is None):
        return await _open_unix_connection(path, limit=limit, sock=sock, **options)  # type: ignore[arg-type]
    return await _connect(None if path is None else unix_address(path), None, sock, limit)


async def _connect(
    address: Address | None, bind: TCPAddress | None, sock: socket.socket | None, limit: int
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
    return streams_of(conn, limit, loop)


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
