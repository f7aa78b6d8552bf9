"""Files that are read and written without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Final

__all__ = ["PIECE", "DiskFile"]

PIECE: Final = 256 * 1024  # bytes that are read at a time
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

    async def pieces(self, start: int, size: int) -> AsyncGenerator[bytes, None]:
        """Yield *size* bytes from offset *start* on, then close the file.

        Raises:
            EOFError: the file is shorter.
        """
        try:
            while size:
                piece = await self.read(start, min(size, PIECE))
                if not piece:
                    raise EOFError(f"the file has become shorter: {size} bytes are missing")
                yield piece
                start += len(piece)
                size -= len(piece)
        finally:
            self.close()

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
