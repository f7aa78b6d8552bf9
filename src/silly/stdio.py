"""Robust writing to the standard descriptors.

The process that starts the program chooses what descriptors 0, 1 and 2 are. Each may be
closed, unread, full, non-blocking, or a pipe without a reader. So:

- A socket or file must not get the number of a closed one, or messages for standard
  error would be written to it: call `reserve` first.
- Writing data waits for the reader, and writes everything or fails: `write_all`,
  `data_stream`.
- Writing messages never blocks, above all not an event loop: `Dropper`, `Messages`.
- The descriptors are shared with other processes, so O_NONBLOCK is not changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import select
import socket
import stat
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Final, Literal, TextIO

__all__ = [
    "AT_END",
    "Dropper",
    "Messages",
    "OutputLost",
    "Stream",
    "data_stream",
    "descriptor_of",
    "nonblocking",
    "nonblocking_errors",
    "reserve",
    "write_all",
]

AT_END: Final = 1.0  # seconds for a slow reader of messages at the end of a program
_RETRY: Final = 0.1  # seconds
_PIECE: Final = select.PIPE_BUF if hasattr(select, "PIPE_BUF") else 512  # pipe(7)
_DATA_PIECE: Final = 1 << 16  # bytes


class OutputLost(Exception):  # noqa: N818 - named by what happened
    """Not all data could be written; the message names the stream and says why."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(f"cannot write {name}: {error.strerror or error}")
        self.is_unwanted = isinstance(error, BrokenPipeError)
        """True if the reader has closed the pipe: it needs no more data."""


def reserve() -> None:
    """Open the null device for each standard descriptor that is closed.

    Also makes `sys.stderr` a stream if it is None, because `print` to None writes to
    standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def descriptor_of(stream: TextIO | None) -> int | None:
    """Return the descriptor that *stream* writes to; None if it is no stream of a file.

    Other objects, such as a view of the terminal or a test's capture, must be written to
    directly.
    """
    if not isinstance(stream, io.TextIOWrapper | Stream):
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _has_room(descriptor: int, seconds: float | None = 0.0) -> bool:
    if not hasattr(select, "poll"):  # pragma: no cover - Windows
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))


# ------------------------------------------------------------------------------ data


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of *data*, waiting for the reader. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest[:_DATA_PIECE]) :]
        except BlockingIOError:  # another process made it non-blocking
            _has_room(descriptor, None)


class Stream(io.TextIOBase):
    """A text stream that replaces *stream* and gives its bytes to *put*.

    With *by_line*, it does so after each line. Characters that the encoding of *stream*
    lacks become question marks: a µ must not make the program fail.
    """

    def __init__(
        self,
        stream: TextIO | None,
        put: Callable[[bytes], object],
        *,
        by_line: bool,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._put = put
        self._by_line = by_line
        self._held: list[str] = []
        self._size = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream that this one replaces."""
        return self._encoding

    def fileno(self) -> int:
        """Return the descriptor. Raises OSError."""
        if self._stream is None:
            raise OSError(errno.EBADF, "it is closed")
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Accept *text*, which is written now or with later text."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, not {type(text).__name__}")
        self._held.append(text)
        self._size += len(text)
        if self._size >= _DATA_PIECE or (self._by_line and "\n" in text):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write everything. Raises the exceptions of *put*."""
        text, self._held, self._size = "".join(self._held), [], 0
        if text:
            self._put(text.encode(self._encoding, "replace"))


def data_stream(stream: TextIO | None, name: str) -> Stream:
    """Return a stream that writes all data to *stream*'s descriptor or raises `OutputLost`."""
    descriptor = descriptor_of(stream)

    def put(data: bytes) -> None:
        try:
            if descriptor is None:
                raise OSError(errno.EBADF, "it is closed")
            write_all(descriptor, data)
        except OSError as error:
            raise OutputLost(name, error) from None

    by_line = isinstance(stream, io.TextIOWrapper) and (
        stream.line_buffering or stream.write_through
    )
    return Stream(stream, put, by_line=by_line)


# -------------------------------------------------------------------------- messages


_droppers: weakref.WeakSet[Dropper] = weakref.WeakSet()


class Dropper:
    """Writes messages to a descriptor without ever blocking.

    Bytes that the descriptor does not take now are kept, up to *max_kept* bytes (or one
    message), and retried with the next message. Further messages are dropped, and a line
    reports how many. A signal handler may write a message while another is written.

    Args:
        descriptor: returns the descriptor to write to, or None if it is closed.
        what: the noun for messages, in the plural.
        max_kept: bytes.
    """

    def __init__(
        self, descriptor: Callable[[], int | None], what: str, *, max_kept: float = 65_536
    ) -> None:
        self._descriptor = descriptor
        self._what = what
        self._max_kept = max_kept
        self._kept = bytearray()
        self._unreported = 0  # dropped messages
        self._own: tuple[int, int, int] | None = None  # reopened descriptor, its device and inode
        self._is_socket: bool | None = None
        self._retrying: asyncio.AbstractEventLoop | None = None  # the loop that will retry
        self._is_writing = False
        self.error: OSError | None = None
        """Why messages were lost without a line that reports it; None if none were."""
        _droppers.add(self)

    def write(self, data: bytes) -> bool:
        """Write or keep *data*; return False if there was no room and it was dropped."""
        self.flush()
        fits = len(self._kept) + len(data) <= self._max_kept or not self._kept
        if fits:
            self._kept += data
            self.flush()
        else:
            self._unreported += 1
        return fits

    def flush(self) -> None:
        """Write as much of the kept bytes as can be written now."""
        if self._is_writing:
            return  # the interrupted call will write everything
        self._is_writing = True
        kept = self._kept
        try:
            while kept:
                descriptor = self._descriptor()
                if descriptor is None:
                    raise OSError(errno.EBADF, "it is closed")
                del kept[: self._write_now(descriptor, bytes(kept[:_PIECE]))]
                if self._unreported and not kept:
                    number, self._unreported = self._unreported, 0
                    what = self._what if number > 1 else self._what.removesuffix("s")
                    kept += f"({number} {what} dropped: the output was not read)\n".encode()
        except BlockingIOError:
            pass
        except OSError as error:  # it will never be read
            self.error = error
            kept.clear()
        finally:
            self._is_writing = False

    def flush_for(self, seconds: float) -> None:
        """Write the kept bytes, waiting up to *seconds* for a slow reader."""
        deadline = time.monotonic() + seconds
        self.flush()
        while self._kept and (left := deadline - time.monotonic()) > 0:
            descriptor = self._descriptor()
            if descriptor is not None:
                _has_room(descriptor, left)
            self.flush()

    def retry_later(self) -> None:
        """Retry every 0.1 seconds while an event loop runs in this thread."""
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
        self.retry_later()

    def close(self) -> None:
        """Write as much of the kept bytes as can be written now; drop the rest."""
        self.flush()
        if self._kept:
            self._kept.clear()
            self.error = _not_read()
        self._close_own()

    def _disown(self) -> None:
        """In a forked child: drop the kept bytes, which the parent will write."""
        self._kept.clear()
        self._unreported = 0
        self._retrying = None
        self._is_writing = False
        self._close_own()

    def _close_own(self) -> None:
        if self._own is not None:
            os.close(self._own[0])
            self._own = None

    def _write_now(self, descriptor: int, data: bytes) -> int:
        """Write some of *data*. Raises OSError, BlockingIOError if there is no room."""
        status = os.fstat(descriptor)
        is_socket = stat.S_ISSOCK(status.st_mode)
        if self._is_socket is None:
            self._is_socket = is_socket
        if is_socket:
            if not self._is_socket:
                raise OSError("its number now belongs to a socket")
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                return sock.send(data, getattr(socket, "MSG_DONTWAIT", 0))
        own = None
        if stat.S_ISFIFO(status.st_mode) or os.isatty(descriptor):
            own = self._reopen(descriptor, status)
        if own is None and not _has_room(descriptor):
            raise BlockingIOError
        return os.write(descriptor if own is None else own, data)

    def _reopen(self, descriptor: int, status: os.stat_result) -> int | None:
        """Return a non-blocking descriptor of the same pipe or terminal; None if impossible."""
        if self._own is not None:
            reopened, *which = self._own
            if which == [status.st_dev, status.st_ino]:
                return reopened
            self._close_own()
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            reopened = os.open(f"/proc/self/fd/{descriptor}", flags)
        except (OSError, AttributeError):  # there is no /proc, or no such flag
            return None
        self._own = reopened, status.st_dev, status.st_ino
        return reopened


def _forked() -> None:
    for dropper in list(_droppers):
        dropper._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _not_read() -> OSError:
    return BlockingIOError(errno.EAGAIN, "it is not read")


class Messages(Stream):
    """A text stream that writes to *stream*'s descriptor without ever blocking."""

    def __init__(self, stream: TextIO | None, what: str = "lines") -> None:
        self._dropper = Dropper(lambda: descriptor_of(stream), what)
        super().__init__(stream, self._drop, by_line=True)

    def _drop(self, data: bytes) -> None:
        self._dropper.write(data)
        self._dropper.retry_later()

    def end(self) -> OSError | None:
        """Give a slow reader a second; return the error if text was lost without a report."""
        self.flush()
        self._dropper.flush_for(AT_END)
        self._dropper.close()
        return self._dropper.error


@contextlib.contextmanager
def nonblocking(name: Literal["stdout", "stderr"]) -> Iterator[Messages | None]:
    """Keep `print` to `sys.stdout` or `sys.stderr` from blocking in the ``with`` block.

    Yields the stream that replaces it; None if it is kept, because it has no descriptor.
    """
    before = getattr(sys, name)
    if not isinstance(before, Stream | None) and descriptor_of(before) is None:
        yield None
        return
    messages = Messages(before)
    setattr(sys, name, messages)
    try:
        yield messages
    finally:
        setattr(sys, name, before)
        messages.end()


def nonblocking_errors() -> contextlib.AbstractContextManager[object]:
    """Keep `print` to standard error from blocking in the ``with`` block."""
    return nonblocking("stderr")
