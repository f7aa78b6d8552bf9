"""One request and its reply, on one connection."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterable
from typing import Any

from silly._values.units import in_seconds
from silly.errors import ConnectionClosed, EndOfStream, TruncatedStream, at_address
from silly.net.conn import Conn
from silly.net.http.client_session import ClientSession
from silly.net.http.errors import ReplyError
from silly.net.http.pool import Pool

__all__ = ["Exchange", "at_request"]


class Exchange:
    """Sends a request, and receives the reply as it is asked for.

    Args:
        conn: the connection, which belongs to this until its end.
        pool, key: where it came from and goes to.
        place: names the request in errors.
        read_timeout: seconds without a byte in either direction; None: no limit.

    Attributes:
        has_sent: the server may have got a part of the request.
    """

    def __init__(
        self,
        conn: Conn,
        pool: Pool[Any],
        key: Any,
        session: ClientSession,
        *,
        place: str,
        read_timeout: float | None,
    ) -> None:
        self.session = session
        self.has_sent = False
        self._conn: Conn | None = conn
        self._pool = pool
        self._key = key
        self._place = place
        self._read_timeout = read_timeout
        self._sender: asyncio.Task[None] | None = None
        self._failure: Exception | None = None  # of the program's pieces

    def send(self, head: bytes, body: bytes | AsyncIterable[bytes]) -> None:
        """Begin to send the request; the reply may come before its end.

        Raises:
            OSError: the connection was lost, and nothing is sent.
        """
        conn = self._conn
        assert conn is not None
        try:
            conn.write([head, body] if isinstance(body, bytes) and body else head)
        except OSError as error:
            raise at_request(error, self._place) from error
        self.has_sent = True
        if not isinstance(body, bytes):
            self._sender = asyncio.create_task(self._send_pieces(conn, body))

    async def _send_pieces(self, conn: Conn, body: AsyncIterable[bytes]) -> None:
        try:
            async for piece in body:
                if not isinstance(piece, bytes | bytearray | memoryview):
                    raise TypeError(f"data must yield bytes, not {type(piece).__name__}")
                if len(piece) and not await _written(conn, b"%x\r\n" % len(piece), piece, b"\r\n"):
                    return
            await _written(conn, b"0\r\n\r\n")
        except Exception as error:  # noqa: BLE001 - `receive` raises it
            self._failure = error
            conn.abort()  # what was sent must not look complete
        finally:
            if hasattr(body, "aclose"):
                await body.aclose()

    async def receive(self) -> None:
        """Receive more of the reply.

        Raises:
            ReplyError: it is invalid or incomplete.
            TimeoutError: no byte came.
            OSError: the connection was lost.

        The connection is closed then.
        """
        conn = self._conn
        if conn is None:
            raise ConnectionClosed("this reply was closed", address=self._place)
        try:
            try:
                self.session.feed(await self._read(conn))
            except EndOfStream as end:
                self.session.end(is_cut=isinstance(end, TruncatedStream))
        except BaseException as error:
            await self.abort()
            if self._failure is None and isinstance(error, OSError):
                raise at_request(error, self._place) from error
            if self._failure is None or isinstance(error, asyncio.CancelledError):
                raise
        if self._failure is not None:
            await self.abort()
            raise self._failure
        if self.session.is_complete:
            await self._finish(conn)

    async def _read(self, conn: Conn) -> bytes:
        while True:
            is_sending = conn.unsent_bytes > 0 or self._sender is not None
            sent = conn.stats.bytes_out if is_sending else 0
            try:
                return await conn.read(timeout=self._read_timeout)
            except TimeoutError:
                if not conn.is_alive:
                    raise
                if is_sending and conn.stats.bytes_out != sent:
                    continue  # the server takes the request
                sender = self._sender
                if sender is not None and not sender.done() and not conn.unsent_bytes:
                    continue  # it waits for the program's next piece
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"no byte from the server within {in_seconds(self._read_timeout)}",
                ) from None

    # ------------------------------------------------------------------------ the end

    async def _finish(self, conn: Conn) -> None:
        """The reply is complete: give back the connection."""
        sender = self._sender
        is_sent = (sender is None or sender.done()) and not conn.unsent_bytes
        if self.session.keeps_alive and is_sent and conn.is_alive and not conn.unread_bytes:
            self._conn = None
            self._pool.release(self._key, conn)
        elif is_sent:
            self._conn = None
            self._pool.discard(self._key, conn)
        else:
            await self.abort()

    def drop(self) -> None:
        """Reset the connection, if it is in use for this."""
        conn, self._conn = self._conn, None
        if conn is not None:
            self._pool.discard(self._key, conn, at_once=True)
        if self._sender is not None:
            self._sender.cancel()

    async def abort(self) -> None:
        """Do that, and wait until the program's pieces are given up."""
        self.drop()
        if self._sender is not None:
            await asyncio.wait([self._sender])


async def _written(conn: Conn, *pieces: bytes) -> bool:
    """Write *pieces*; return whether the connection takes them."""
    try:
        await conn.write(pieces)
    except (ConnectionClosed, OSError):
        return False  # the reader learns why
    return True


def at_request(error: OSError, place: str) -> OSError:
    """Return *error*, of the same type, with the request that it belongs to."""
    if isinstance(error, ReplyError):
        return ReplyError(str(error), address=place)
    return at_address(error, place)
