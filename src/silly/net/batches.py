"""Batches of lines or frames from single reads, for connections without an engine's stream."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from silly._engine.stream_errors import batch_arguments
from silly.errors import EndOfStream, LimitExceeded, TruncatedStream

__all__ = ["ReadBatches"]


class Reads(Protocol):
    """What this needs of a connection."""

    def read(
        self, until: bytes | int | None = None, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, bytes]: ...

    @property
    def is_alive(self) -> bool: ...
    @property
    def unread_bytes(self) -> int: ...


class ReadBatches:
    """See `silly.net.conn.Conn.batches`."""

    def __init__(self, conn: Reads, until: bytes | int, most: int, timeout: float | None) -> None:
        delimiter, frame, self._timeout = batch_arguments(until, most, timeout)
        self._conn = conn
        self._until = frame if delimiter is None else delimiter
        self._most = most

    def __aiter__(self) -> ReadBatches:
        return self

    async def __anext__(self) -> list[bytes]:
        conn, until = self._conn, self._until
        try:
            batch = [await conn.read(until, timeout=self._timeout)]
        except TruncatedStream:
            raise
        except EndOfStream:
            if not conn.unread_bytes:
                raise StopAsyncIteration from None
            if isinstance(until, int):
                raise
            return [await conn.read(conn.unread_bytes)]
        while len(batch) < self._most and conn.unread_bytes and conn.is_alive:
            item = self._read_now()
            if item is None:
                break
            batch.append(item)
        return batch

    def _read_now(self) -> bytes | None:
        """Return what a read returns without suspending.

        An await could be cancelled, and the items that are in the batch would be lost.
        """
        read = self._conn.read(self._until)
        try:
            read.send(None)
        except StopIteration as done:
            return bytes(done.value)
        except (LimitExceeded, EndOfStream, OSError):  # for the next batch
            return None
        finally:
            read.close()  # a read that ends early loses nothing
        return None
