"""Standard input and output that do not block the event loop.

Inherited descriptors are shared with other processes (the shell, the rest of a
pipeline), so they are not made non-blocking: the flag would change for everyone.
Input is read when it is ready. A thread writes the output, one piece at a time,
so that the writer waits for the reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from typing import Final

from silly import stdio

__all__ = ["Sink", "Source"]

_PIECE: Final = 1 << 16  # bytes


class Source:
    """Reads a descriptor: a pipe, a terminal, a socket or a file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Return the next bytes, ``b""`` at the end. Cancelling loses nothing. Raises OSError."""
        while True:
            with contextlib.suppress(BlockingIOError):  # another process read them first
                return await self._read()

    async def _read(self) -> bytes:
        ready = self._loop.create_future()
        try:
            self._loop.add_reader(self._descriptor, _set, ready)
        except PermissionError:  # epoll refuses regular files, which are always ready
            await asyncio.sleep(0)
            return os.read(self._descriptor, _PIECE)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._descriptor)
        return os.read(self._descriptor, _PIECE)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Sink:
    """Writes a descriptor, in a daemon thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="standard output", daemon=True).start()

    async def write(self, data: bytes) -> None:
        """Write all of *data*; return when the operating system has taken it. Raises OSError."""
        done = self._loop.create_future()
        self._work.put((data, done))
        await done

    def close(self) -> None:
        """Signal the end to the reader; /dev/null keeps the descriptor's number in use."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._descriptor)
        os.close(null)

    def _run(self) -> None:
        while True:
            data, done = self._work.get()
            error: OSError | None = None
            try:
                stdio.write_all(self._descriptor, data)
            except OSError as failed:
                error = failed
            try:
                self._loop.call_soon_threadsafe(_settle, done, error)
            except RuntimeError:  # pragma: no cover - a race: the loop was closed meanwhile
                return


def _settle(future: asyncio.Future[None], error: OSError | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
