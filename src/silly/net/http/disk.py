"""Files that are read and written without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final, Self

from silly._engine import engine
from silly._engine.filter import NO_ROOM
from silly.net.http.bases import CACHED_ONLY, Descriptor

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.http.bases import FilePart, OpenFile
else:
    from silly.net.http.parts import FilePart, OpenFile

__all__ = ["PIECE", "DiskFile", "FilePieces"]

PIECE: Final = 96 * 1024  # bytes that are read at a time, and held for each slow reader


class DiskFile(OpenFile):
    """An open file; it is closed by `close`, or when nothing refers to it any more."""

    __slots__ = ()

    async def read(self, start: int, size: int) -> bytes:
        """Return up to *size* bytes from offset *start* on; empty at the end of the file.

        What the system has in memory is read at once, the rest in a thread.
        """
        if CACHED_ONLY:
            buffer = bytearray(size)
            try:
                number = os.preadv(self._open.number, [buffer], start, CACHED_ONLY)
            except OSError:  # it is not in memory, or the file system cannot tell
                pass
            else:
                del buffer[number:]
                return bytes(buffer)
        return await asyncio.to_thread(_read, self._open, start, size)

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


class FilePieces(FilePart):
    """A part of a file, as the body of a response; the file is closed at its end.

    Raises:
        EOFError: while it is read or sent: the file is shorter.
    """

    __slots__ = ()
    file: DiskFile

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            self.file.close()
            raise StopAsyncIteration
        piece = await self.file.read(self.at, min(self.left, PIECE))
        if not piece:
            raise self._shorter()
        self.at += len(piece)
        self.left -= len(piece)
        return piece

    async def send_to(self, conn: Any) -> int:
        """Send all of it to *conn*, in the kernel where that is possible; return how much.

        Raises:
            EOFError: the file is shorter.
            OSError: the connection or the file has failed.
            ValueError: it was sent already.
        """
        if self.size and not self.left:
            raise ValueError("a response with a file can be sent only once")
        while self.left:
            sent = self.send(conn)
            if sent > 0:
                if self.left:
                    await asyncio.sleep(0)  # let others run
            elif sent == 0:
                raise self._shorter()
            elif sent == NO_ROOM:
                await conn._drain()
            else:
                await conn.write(await anext(self))
        return self.size

    def _shorter(self) -> EOFError:
        return EOFError(f"the file has become shorter: {self.left} bytes are missing")

    async def aclose(self) -> None:
        """Close the file."""
        self.file.close()


def _read(file: Descriptor, start: int, size: int) -> bytes:
    return os.pread(file.number, size, start)


def _write(file: Descriptor, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file.number, view) :]


def _copy(file: Descriptor, path: str | os.PathLike[str], start: int, end: int) -> None:
    pieces = (_read(file, at, min(PIECE, end - at)) for at in range(start, end, PIECE))
    with open(path, "wb") as target:  # noqa: PTH123 - any path
        target.writelines(pieces)
