"""Logging that never holds the program up.

Whoever started the program may not read what it writes to standard error. When
that pipe is full, a write to it waits, and in an event loop everything waits
with it: the first crash too many of a handler would stop a server. A
`DroppingHandler` writes what fits, keeps a little for later, drops the rest, and
counts what it dropped.

There is no queue and thread in it (`logging.handlers.QueueHandler`): a thread that
hangs in a write cannot be joined at the end of the program, and what is printed
beside the log would come out of order.

A program that is run by ``silly FILE.py`` and does not configure logging logs
through one. A program that does (with `logging.basicConfig`, which the functions
`logging.warning`, `logging.error`, … call by themselves) has what it configured;
for this one::

    logging.basicConfig(handlers=[log.DroppingHandler()])
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import select
import stat
import sys
import time
import weakref
from collections.abc import Iterator
from typing import Final, TextIO

from silly._arguments import size

__all__ = ["DroppingHandler"]

_PIECE: Final = select.PIPE_BUF if hasattr(select, "PIPE_BUF") else 512  # pipe(7)
_RETRY: Final = 0.1  # seconds
_AT_END: Final = 1.0  # seconds that a slow reader has at the end of a program


_handlers: weakref.WeakSet[DroppingHandler] = weakref.WeakSet()


class DroppingHandler(logging.Handler):
    """Writes records to a stream without ever waiting for it.

    What the stream's descriptor does not take now is kept, up to *max_kept*
    bytes, and tried again every 0.1 seconds while an event loop runs, and with
    the next record. Records beyond that are dropped; a line says how many as
    soon as there is room. A stream that has no descriptor (`io.StringIO`) is
    written to as it is.

    On a pipe nothing waits, whoever else writes to it. Of terminals and sockets,
    a piece of up to 4096 bytes is written when poll(2) finds room: that can wait
    if another process takes the room first. Files take everything.

    Args:
        stream: where to write; None is what `sys.stderr` is at the time.
        level: as in `logging`.
        max_kept: bytes.

    Attributes:
        dropped: how many records were dropped so far.
    """

    dropped: int

    def __init__(
        self, stream: TextIO | None = None, level: int = logging.NOTSET, *, max_kept: int = 65_536
    ) -> None:
        super().__init__(level)
        self._stream = stream
        self._max_kept = size(max_kept, "max_kept")
        self._kept = bytearray()
        self._untold = 0  # dropped, and not said yet
        self._pipe: tuple[int, int, int] | None = None  # our way into it, and which it is
        self._retrying: asyncio.AbstractEventLoop | None = None  # which will try again
        self.dropped = 0
        _handlers.add(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*, or keep it, or drop it."""
        try:
            text = self.format(record)
            if not self.write(text + "\n"):
                self.dropped += 1
                self._untold += 1
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - as every handler of logging does
            self.handleError(record)

    def write(self, text: str) -> bool:
        """Write *text*, or keep it; return False if there is no room even to keep it."""
        stream = sys.stderr if self._stream is None else self._stream
        if stream is None:  # pythonw has none
            return True
        descriptor = _descriptor(stream)
        if descriptor is None:
            stream.write(text)
            return True
        data = text.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace")
        with self.lock or contextlib.nullcontext():
            self._push(descriptor)
            fits = len(self._kept) + len(data) <= self._max_kept or not self._kept
            if fits:
                self._kept += data
                self._push(descriptor)
            self._retry_later()
            return fits

    def flush(self) -> None:
        """Write what is kept, as far as the stream takes it now."""
        descriptor = _descriptor(sys.stderr if self._stream is None else self._stream)
        if descriptor is not None:
            with self.lock or contextlib.nullcontext():
                self._push(descriptor)

    def close(self) -> None:
        """Write what is kept, as far as the stream takes it now; the rest is lost."""
        self.flush()
        self._kept.clear()
        if self._pipe is not None:
            os.close(self._pipe[0])
            self._pipe = None
        super().close()

    def _disown(self) -> None:
        """In a forked child: what is kept is the parent's to write."""
        self._kept.clear()
        self._untold = 0
        self._retrying = None
        if self._pipe is not None:
            os.close(self._pipe[0])
            self._pipe = None

    def _flush_for(self, seconds: float) -> None:
        """Write what is kept, and wait so long for who reads it slowly."""
        descriptor = _descriptor(sys.stderr if self._stream is None else self._stream)
        deadline = time.monotonic() + seconds
        while descriptor is not None and self._kept and time.monotonic() < deadline:
            self._push(descriptor)
            if self._kept:
                _has_room(descriptor, deadline - time.monotonic())

    def _retry_later(self) -> None:
        if not self._kept:
            return
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            loop = asyncio.get_running_loop()
            if self._retrying is not loop:
                self._retrying = loop
                loop.call_later(_RETRY, self._retry)

    def _retry(self) -> None:
        self._retrying = None
        self.flush()
        self._retry_later()

    def _push(self, descriptor: int) -> None:
        """Write of what is kept as much as can be written now."""
        kept = self._kept
        try:
            while kept:
                pipe = self._way_into_pipe(descriptor)
                if pipe is None and not _has_room(descriptor):
                    break
                del kept[: os.write(descriptor if pipe is None else pipe, kept[:_PIECE])]
                if self._untold and not kept:
                    kept += b"(%d log records dropped: nobody read them)\n" % self._untold
                    self._untold = 0
        except BlockingIOError:
            pass
        except OSError:  # nobody will ever read it
            kept.clear()

    def _way_into_pipe(self, descriptor: int) -> int | None:
        """Return a descriptor of our own of the same pipe, which does not wait.

        O_NONBLOCK set on the one we have would be set for all processes that share it.
        """
        status = os.fstat(descriptor)
        if not stat.S_ISFIFO(status.st_mode):
            return None
        if self._pipe is not None:
            ours, *which = self._pipe
            if which == [status.st_dev, status.st_ino]:
                return ours
            os.close(ours)
            self._pipe = None
        try:
            ours = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
        except (OSError, AttributeError):  # where there is no /proc, or no such flag
            return None
        self._pipe = ours, status.st_dev, status.st_ino
        return ours


def _descriptor(stream: TextIO | None) -> int | None:
    # What only stands for a file (a view of the terminal, a test's capture) is written to as it is.
    if not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _has_room(descriptor: int, seconds: float = 0.0) -> bool:
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(max(0.0, seconds) * 1000))


@contextlib.contextmanager
def unconfigured_logging_drops() -> Iterator[None]:
    """Put a `DroppingHandler` in the place of `logging.lastResort`.

    That is what records come to when the program configured nothing.
    """
    before = logging.lastResort
    handler = DroppingHandler(level=logging.WARNING)
    logging.lastResort = handler
    try:
        yield
    finally:
        logging.lastResort = before
        handler._flush_for(_AT_END)
        handler.close()


def _forked() -> None:
    for handler in list(_handlers):
        handler._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
