"""The requests for TLS of old protocols, which begin in the clear."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from silly._values.units import in_seconds
from silly.errors import EndOfStream
from silly.net.tcp import Conn
from silly.net.tls.config import Client

__all__ = ["PROTOCOLS", "start_tls"]

_LONGEST: Final = 4096  # bytes in a line
_MOST_LINES: Final = 100


async def start_tls(conn: Conn, client: Client, protocol: str, timeout: float | None) -> None:
    """Ask the server for TLS, as *protocol* does, and do the handshake, within *timeout* seconds.

    Raises:
        ConnectionError: the server refuses, or speaks another protocol.
        OSError: the handshake failed, or all of it took too long.
    """
    try:
        async with asyncio.timeout(timeout):
            await PROTOCOLS[protocol](conn)
            await conn.start_tls(client, timeout=None)
    except TimeoutError:
        raise TimeoutError(f"{conn.remote_addr}: no TLS within {in_seconds(timeout)}") from None
    except (EndOfStream, ValueError) as error:
        raise ConnectionError(f"{conn.remote_addr}: no TLS for {protocol}: {error}") from None


async def _expect(conn: Conn, final: str, more: str = "") -> None:
    """Read lines until one that begins with *final*; skip those that begin with *more*."""
    for _ in range(_MOST_LINES):
        line = (await conn.read(b"\n", limit=_LONGEST)).decode("utf-8", "replace").rstrip()
        if line.startswith(final):
            return
        if not more or not line.startswith(more):
            raise ValueError(f"the server says {line!r}")
    raise ValueError("too many lines")


async def _smtp(conn: Conn) -> None:
    """RFC 3207."""
    await _expect(conn, "220 ", "220-")
    conn.write(b"EHLO localhost\r\n")
    await _expect(conn, "250 ", "250-")
    conn.write(b"STARTTLS\r\n")
    await _expect(conn, "220")


async def _imap(conn: Conn) -> None:
    """RFC 3501, section 6.2.1."""
    await _expect(conn, "* OK")
    conn.write(b"a STARTTLS\r\n")
    await _expect(conn, "a OK", "* ")


async def _pop3(conn: Conn) -> None:
    """RFC 2595, section 4."""
    await _expect(conn, "+OK")
    conn.write(b"STLS\r\n")
    await _expect(conn, "+OK")


async def _ftp(conn: Conn) -> None:
    """RFC 4217."""
    await _expect(conn, "220 ", "220-")
    conn.write(b"AUTH TLS\r\n")
    await _expect(conn, "234")


async def _postgres(conn: Conn) -> None:
    """The message SSLRequest of PostgreSQL's protocol."""
    conn.write(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
    if (answer := await conn.read(1)) != b"S":
        raise ValueError(f"the server answers {answer!r}")


PROTOCOLS: Final[dict[str, Callable[[Conn], Awaitable[None]]]] = {
    "smtp": _smtp,
    "imap": _imap,
    "pop3": _pop3,
    "ftp": _ftp,
    "postgres": _postgres,
}
