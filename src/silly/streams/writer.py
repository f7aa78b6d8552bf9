"""The writer of a connection, and its transport."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from silly._engine.drain import Draining
from silly._engine.interface import Drain
from silly.errors import ConnectionClosed
from silly.net.conn import StreamConn
from silly.streams.reader import ConnReader
from silly.streams.sockets import BorrowedSocket

__all__ = ["MAX_UNSENT", "ConnTransport", "ConnWriter", "streams_of"]

MAX_UNSENT: Final = 1 << 60  # bytes: a write is never refused
_LINGER: Final = 3600.0  # seconds for a closed connection to send a long queue
_LOW_WATER: Final = 16 * 1024
_HIGH_WATER: Final = 64 * 1024


def streams_of(
    conn: StreamConn,
    limit: int,
    loop: asyncio.AbstractEventLoop,
    *,
    is_server: bool = False,
    context: ssl.SSLContext | None = None,
) -> tuple[ConnReader, ConnWriter]:
    """Return a reader and a writer over *conn*, which is encrypted with *context*."""
    reader = ConnReader(conn, limit, loop)
    return reader, ConnWriter(conn, reader, loop, is_server=is_server, context=context)


def _close(conn: StreamConn, reader: ConnReader | None) -> None:
    """Send what is queued, then close; what was received can still be read."""
    if conn._is_closing:
        return
    if reader is not None:
        reader.keep_unread()
    if conn.unsent_bytes > _LOW_WATER:
        conn.close_write()  # which sends as much as it can
        if conn.unsent_bytes:
            conn.linger = _LINGER
    conn.close()


class ConnTransport(asyncio.Transport):
    """The transport of a writer: the methods of `asyncio.Transport` that programs use."""

    __slots__ = ("_conn", "_context", "_reader")

    _context: ssl.SSLContext | None

    def __init__(
        self,
        conn: StreamConn,
        reader: ConnReader | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self._conn = conn
        self._context = context
        self._reader = reader

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what asyncio's transports return; *default* for what it does not know.

        Certificates are known as DER bytes only: ``"peercert"`` is not there.
        """
        if name == "peername":
            return self._conn._remote_sockaddr
        if name == "sockname":
            return self._conn._local_sockaddr
        if name == "socket":
            return BorrowedSocket(self._conn)
        if self._context is not None and self._conn.tls is not None:
            return self._of_encryption(self._context, name, default)
        return default

    def _of_encryption(self, context: ssl.SSLContext, name: str, default: Any) -> Any:
        from silly.streams.encryption import Negotiated  # noqa: PLC0415 - most have no TLS

        negotiated = Negotiated(self._conn, context)
        if name == "cipher":
            return negotiated.cipher()
        return {"sslcontext": context, "ssl_object": negotiated}.get(name, default)

    def is_closing(self) -> bool:
        """Return whether it is closed, being closed, or lost."""
        return not self._conn.is_alive

    def close(self) -> None:
        """Send what is queued, then close; what was received can still be read."""
        _close(self._conn, self._reader)

    def abort(self) -> None:
        """Close with a reset; what was received can still be read."""
        if self._reader is not None:
            self._reader.keep_unread()
        self._conn.abort()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Queue *data*; ignored once the connection is closed or lost.

        Raises:
            RuntimeError: `write_eof` was called.
        """
        conn = self._conn
        try:
            conn.write(data)
        except OSError:
            if conn.is_alive:
                raise RuntimeError("Cannot call write() after write_eof()") from None

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Queue the pieces in *list_of_data*."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Send FIN after what is queued."""
        self._conn.close_write()

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are queued."""
        return self._conn.unsent_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return between how many queued bytes `StreamWriter.drain` stops to wait, and waits."""
        return _LOW_WATER, _HIGH_WATER

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: they are as `get_write_buffer_limits` says."""

    def pause_reading(self) -> None:
        """Do nothing: receiving stops by itself when the reader's limit is reached."""

    def resume_reading(self) -> None:
        """Do nothing, as `pause_reading`."""

    def is_reading(self) -> bool:
        """Return whether the connection is open."""
        return self._conn.is_alive

    def __repr__(self) -> str:
        return f"<ConnTransport {self._conn!r}>"


class ConnWriter(asyncio.StreamWriter):
    """An `asyncio.StreamWriter` that writes to a connection."""

    # Used of asyncio's: `__del__`, and what passes on to the transport.

    def __init__(  # asyncio's makes a future, which nothing uses
        self,
        conn: StreamConn,
        reader: ConnReader,
        loop: asyncio.AbstractEventLoop,
        *,
        is_server: bool = False,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._conn = conn
        self._reader = reader
        self._loop = loop
        self._is_server = is_server
        self._context = context
        self._made: ConnTransport | None = None  # `_transport`, once it is asked for
        self._room: Drain | None = None  # what the last write returned

    def __del__(self) -> None:
        if self._conn.is_alive and hasattr(asyncio.StreamWriter, "__del__"):  # it is new
            super().__del__()

    @property
    def _transport(self) -> ConnTransport:
        if self._made is None:
            self._made = ConnTransport(self._conn, self._reader, self._context)
        return self._made

    @property
    def _protocol(self) -> asyncio.StreamReaderProtocol:
        """What asyncio's writers have, for code that reaches into them."""
        return asyncio.StreamReaderProtocol(self._reader, loop=self._loop)

    def is_closing(self) -> bool:
        """See `asyncio.StreamWriter.is_closing`."""
        return not self._conn.is_alive

    def close(self) -> None:
        """See `asyncio.StreamWriter.close`."""
        _close(self._conn, self._reader)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """See `asyncio.StreamWriter.write`."""
        try:
            self._room = self._conn.write(data)
        except OSError:
            if self._conn.is_alive:
                raise RuntimeError("Cannot call write() after write_eof()") from None

    def writelines(self, data: Iterable[Any]) -> None:
        """See `asyncio.StreamWriter.writelines`."""
        self.write(b"".join(data))

    def drain(self) -> Coroutine[Any, Any, None]:
        """See `asyncio.StreamWriter.drain`."""
        if not self._conn.is_alive:
            return self._drain_ended()
        room = self._room
        if room is None:
            return _nothing()
        return self._wait_for_room(room) if type(room) is Draining else room

    async def _wait_for_room(self, room: Drain) -> None:
        with contextlib.suppress(ConnectionClosed):  # another task closes it
            await room

    async def _drain_ended(self) -> None:
        lost = self._reader.exception()
        if lost is not None:
            raise lost
        await asyncio.sleep(0)
        raise ConnectionResetError("Connection lost")

    async def wait_closed(self) -> None:
        """See `asyncio.StreamWriter.wait_closed`."""
        await self._conn.wait_closed()
        if self._conn._loss is not None:
            raise self._conn._loss

    async def start_tls(
        self,
        sslcontext: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,  # noqa: ARG002 - as for other connections
    ) -> None:
        """See `asyncio.StreamWriter.start_tls`.

        What was received and not read goes into the handshake, not to a later read.

        Raises:
            ssl.SSLError, OSError: the handshake failed, and the connection with it.
        """
        from silly.streams.encryption import encrypt  # noqa: PLC0415 - most have no TLS

        await self.drain()
        if self._reader._buffer:  # asyncio's part of the reader has it: it cannot go back
            self._transport.abort()
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "unread bytes before the handshake of TLS")
        await encrypt(
            self._conn,
            sslcontext,
            server_hostname,
            ssl_handshake_timeout,
            is_server=self._is_server,
        )
        self._transport._context = sslcontext

    def __repr__(self) -> str:
        return f"<StreamWriter transport={self._transport!r} reader={self._reader!r}>"


async def _nothing() -> None:
    pass
