"""The reader of a connection.

Most reads are passed on to the connection. The rest (limits, the end of the stream, errors,
several separators) is left to asyncio's own code: unread bytes move to asyncio's buffer, and
`_wait_for_data`, with which that code waits for more, reads from the connection.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from silly.errors import ConcurrentRead, ConnectionClosed, EndOfStream, LimitExceeded
from silly.net.conn import StreamConn

__all__ = ["DEFAULT_LIMIT", "ConnReader", "read_limit"]

DEFAULT_LIMIT: Final = 64 * 1024  # bytes, as asyncio's

_LARGEST: Final = 1 << 60
_ENDS: Final = (EndOfStream, OSError)  # what ends the reads of a connection


def read_limit(limit: float) -> int:
    """Return the connection's limit for asyncio's *limit*, which does not count the newline."""
    return int(min(limit, _LARGEST)) + 1


class ConnReader(asyncio.StreamReader):
    """An `asyncio.StreamReader` that reads from a connection."""

    # Used of asyncio's: `_buffer`, `_limit`, `_exception`, `_wait_for_data`.
    _conn: StreamConn | None  # None: at its end; asyncio's state says what it was
    _buffer: bytearray
    _limit: int
    _exception: Exception | None

    def __init__(self, conn: StreamConn, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self._conn = conn
        self._lines = conn.__aiter__()

    # ---------------------------------------------------------------------------- reads

    async def readline(self) -> bytes:
        """See `asyncio.StreamReader.readline`."""
        conn = self._conn
        if conn is not None and not self._buffer:
            try:
                return await self._lines.__anext__()
            except StopAsyncIteration:
                self._end()
                return b""
            except (EndOfStream, LimitExceeded, OSError) as error:
                self._give_up(conn, error)
        return await super().readline()

    async def __anext__(self) -> bytes:
        conn = self._conn
        if conn is not None and not self._buffer:
            try:
                return await self._lines.__anext__()
            except StopAsyncIteration:
                self._end()
                raise
            except (EndOfStream, LimitExceeded, OSError) as error:
                self._give_up(conn, error)
        return await super().__anext__()

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        """See `asyncio.StreamReader.readuntil`."""
        conn = self._conn
        if conn is not None and not self._buffer and type(separator) is bytes and separator:
            try:
                return await conn.read(
                    separator, limit=int(min(self._limit, _LARGEST)) + len(separator)
                )
            except (EndOfStream, LimitExceeded, OSError) as error:
                self._give_up(conn, error)
        return await super().readuntil(separator)

    async def readexactly(self, n: int) -> bytes:
        """See `asyncio.StreamReader.readexactly`."""
        conn = self._conn
        if conn is not None and not self._buffer and n > 0:
            try:
                return await conn.read(n)
            except _ENDS as error:
                self._give_up(conn, error)
        return await super().readexactly(n)

    async def read(self, n: int = -1) -> bytes:
        """See `asyncio.StreamReader.read`."""
        conn = self._conn
        if conn is not None and not self._buffer and n > 0:
            try:
                data = await (conn.read(n) if conn.unread_bytes > n else conn.read())
            except _ENDS as error:
                self._give_up(conn, error)
            else:
                if len(data) > n:
                    self._buffer += data[n:]
                    data = data[:n]
                return data
        if self._buffer:
            self.keep_unread()  # it returns all that has arrived
        return await super().read(n)

    async def _wait_for_data(self, _func_name: str) -> None:
        """Wait until there is more in `_buffer`, or the stream has ended; called by asyncio."""
        conn = self._conn
        assert conn is not None  # otherwise asyncio knows that there will be no more
        try:
            self._buffer += await conn.read()
        except _ENDS as error:
            self._give_up(conn, error)
            if self._exception is not None:
                raise self._exception from None

    def _give_up(self, conn: StreamConn, error: Exception) -> None:
        """Leave a read that ended with *error* to asyncio's code."""
        self.keep_unread()
        if isinstance(error, LimitExceeded) or self._conn is not conn:
            return
        if isinstance(error, EndOfStream | ConnectionClosed):
            self._end()
        else:
            self.set_exception(error)

    def _end(self) -> None:
        """Leave all later reads to asyncio's code: the stream has ended."""
        self._conn = None
        super().feed_eof()

    def keep_unread(self) -> None:
        """Move the unread bytes to the buffer, from which they can be read after the end."""
        conn = self._conn
        if conn is None or not conn.unread_bytes:
            return
        taking = conn.read(conn.unread_bytes)
        try:
            while True:
                taking.send(None)  # once in a thousand reads, it would let other tasks run first
        except StopIteration as taken:
            self._buffer += taken.value
        except ConcurrentRead:
            pass  # they belong to the read of another task

    # ---------------------------------------------------------------------------- state

    def at_eof(self) -> bool:
        """See `asyncio.StreamReader.at_eof`."""
        conn = self._conn
        if conn is None:
            return super().at_eof()
        if self._buffer or conn.unread_bytes:
            return False
        return conn._is_ended or (conn._is_closed and conn._loss is None)

    def exception(self) -> Exception:
        """See `asyncio.StreamReader.exception`; None if there was none."""
        if self._exception is None and self._conn is not None:
            return self._conn._loss  # type: ignore[return-value] # typeshed's type is wrong
        return self._exception  # type: ignore[return-value] # likewise

    def set_exception(self, exc: Exception) -> None:
        """See `asyncio.StreamReader.set_exception`; a read that waits already is not affected."""
        self._conn = None
        super().set_exception(exc)

    def feed_eof(self) -> None:
        """See `asyncio.StreamReader.feed_eof`; a read that waits already is not affected."""
        self.keep_unread()
        self._end()
