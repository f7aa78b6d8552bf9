"""Files that are read and written without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final, Self

from silly._engine.filter import NO_ROOM, UNABLE

__all__ = ["PIECE", "DiskFile", "FilePieces"]

PIECE: Final = 96 * 1024  # bytes that are read at a time, and held for each slow reader
SENT: Final = 1024 * 1024  # bytes that the kernel is asked to send at a time
_CACHED_ONLY: Final = getattr(os, "RWF_NOWAIT", 0)


class _Descriptor:
    """A descriptor that is closed when nothing refers to it any more.

    A thread may still be in a system call when the task that waited for it has been cancelled,
    and the descriptor's number must not be used again before the call has ended.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class DiskFile:
    """An open file; it is closed by `close`, or when nothing refers to it any more."""

    __slots__ = ("_descriptor",)

    def __init__(self, number: int) -> None:
        """Own the descriptor *number*."""
        self._descriptor: _Descriptor | None = _Descriptor(number)

    @property
    def _open(self) -> _Descriptor:
        if self._descriptor is None:
            raise ValueError("the file is closed")
        return self._descriptor

    def close(self) -> None:
        """Close the file, once no thread uses it."""
        self._descriptor = None

    def stat(self) -> os.stat_result:
        """Return what the system knows of the file."""
        return os.fstat(self._open.number)

    async def read(self, start: int, size: int) -> bytes:
        """Return up to *size* bytes from offset *start* on; empty at the end of the file.

        What the system has in memory is read at once, the rest in a thread.
        """
        if _CACHED_ONLY:
            buffer = bytearray(size)
            try:
                number = os.preadv(self._open.number, [buffer], start, _CACHED_ONLY)
            except OSError:  # it is not in memory, or the file system cannot tell
                pass
            else:
                del buffer[number:]
                return bytes(buffer)
        return await asyncio.to_thread(_read, self._open, start, size)

    def pieces(self, start: int, size: int) -> FilePieces:
        """Return *size* bytes from offset *start* on; the file is closed at their end."""
        return FilePieces(self, start, size)

    def send(self, conn: Any, start: int, size: int) -> int:
        """Have the kernel send up to *size* bytes from offset *start* on.

        Return what `Filtered._send_file` returns. What is not in memory is not sent so, because
        that would block.
        """
        if not _CACHED_ONLY:
            return UNABLE
        try:  # the last byte: what comes before it was read by the system, too
            if not os.preadv(self._open.number, [bytearray(1)], start + size - 1, _CACHED_ONLY):
                return UNABLE  # the file has become shorter
        except OSError:  # it is not in memory, or the file system cannot tell
            return UNABLE
        sent: int = conn._send_file(self._open.number, start, size)
        return sent

    async def append(self, data: bytes) -> None:
        """Write *data* at the file's position.

        Raises:
            OSError: it could not be written, such as to a full disk.
        """
        await asyncio.to_thread(_write, self._open, data)

    async def copy(self, path: str | os.PathLike[str], start: int, size: int) -> None:
        """Write *size* bytes from offset *start* on to the file *path*.

        Raises:
            OSError: it could not be written.
        """
        await asyncio.to_thread(_copy, self._open, path, start, start + size)


class FilePieces:
    """A part of a file, as the body of a response.

    Raises:
        EOFError: while it is read or sent: the file is shorter.
    """

    __slots__ = ("_at", "_file", "_left")

    def __init__(self, file: DiskFile, start: int, size: int) -> None:
        self._file = file
        self._at = start
        self._left = size

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            self._file.close()
            raise StopAsyncIteration
        piece = await self._file.read(self._at, min(self._left, PIECE))
        if not piece:
            raise self._shorter()
        self._at += len(piece)
        self._left -= len(piece)
        return piece

    async def send_to(self, conn: Any) -> int:
        """Send all of it to *conn*, in the kernel where that is possible; return how much.

        Raises:
            EOFError: the file is shorter.
            OSError: the connection or the file has failed.
        """
        size = self._left
        while self._left:
            sent = self._file.send(conn, self._at, min(self._left, SENT))
            if sent > 0:
                self._at += sent
                self._left -= sent
                if self._left:
                    await asyncio.sleep(0)  # let others run
            elif sent == 0:
                raise self._shorter()
            elif sent == NO_ROOM:
                await conn._drain()
            else:
                await conn.write(await anext(self))
        return size

    def _shorter(self) -> EOFError:
        return EOFError(f"the file has become shorter: {self._left} bytes are missing")

    async def aclose(self) -> None:
        """Close the file."""
        self._file.close()


def _read(file: _Descriptor, start: int, size: int) -> bytes:
    return os.pread(file.number, size, start)


def _write(file: _Descriptor, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file.number, view) :]


def _copy(file: _Descriptor, path: str | os.PathLike[str], start: int, end: int) -> None:
    pieces = (_read(file, at, min(PIECE, end - at)) for at in range(start, end, PIECE))
    with open(path, "wb") as target:  # noqa: PTH123 - any path
        target.writelines(pieces)
