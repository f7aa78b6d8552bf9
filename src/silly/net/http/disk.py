"""Files that are read and written without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

__all__ = ["PIECE", "DiskFile"]

PIECE: Final = 256 * 1024  # bytes that are read at a time
_CACHED_ONLY: Final = getattr(os, "RWF_NOWAIT", 0)


class DiskFile:
    """An open file.

    It is closed when nothing refers to it any more: a thread may still be in a system call
    when the task that waited for it has been cancelled, and the descriptor's number must
    not be used again before the call has ended.
    """

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        """Own the descriptor *number*."""
        self._number = number

    def __del__(self) -> None:
        os.close(self._number)

    def stat(self) -> os.stat_result:
        """Return what the system knows of the file."""
        return os.fstat(self._number)

    async def read(self, start: int, size: int) -> bytes:
        """Return up to *size* bytes from offset *start* on; empty at the end of the file.

        What the system has in memory is read at once, the rest in a thread.
        """
        if _CACHED_ONLY:
            buffer = bytearray(size)
            try:
                number = os.preadv(self._number, [buffer], start, _CACHED_ONLY)
            except OSError:  # it is not in memory, or the file system cannot tell
                pass
            else:
                del buffer[number:]
                return bytes(buffer)
        return await asyncio.to_thread(self._read, start, size)

    async def pieces(self, start: int, size: int) -> AsyncIterator[bytes]:
        """Yield *size* bytes from offset *start* on.

        Raises:
            EOFError: the file is shorter.
        """
        while size:
            piece = await self.read(start, min(size, PIECE))
            if not piece:
                raise EOFError(f"the file has become shorter: {size} bytes are missing")
            yield piece
            start += len(piece)
            size -= len(piece)

    async def append(self, data: bytes) -> None:
        """Write *data* at the file's position.

        Raises:
            OSError: it could not be written, such as to a full disk.
        """
        await asyncio.to_thread(self._write, data)

    def copy_to(self, path: str | os.PathLike[str], start: int, size: int) -> None:
        """Write *size* bytes from offset *start* on to the file *path*, in the calling thread."""
        with open(path, "wb") as file:  # noqa: PTH123 - any path
            while size:
                piece = self._read(start, min(size, PIECE))
                file.write(piece)
                start += len(piece)
                size -= len(piece)

    def _read(self, start: int, size: int) -> bytes:
        return os.pread(self._number, size, start)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._number, view) :]
