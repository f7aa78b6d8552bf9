"""The standard descriptors, written to with care.

Whoever started the program chose what 0, 1 and 2 are. Each may be closed, unread,
full, non-blocking, or a pipe whose reader has gone. So:

- The number of a closed one must not become that of a socket or a file, or what
  is meant for standard error ends up there: `reserve` it first.
- Data waits until it is read, and is whole or an error: `write_all`, `data_stream`.
- Messages never wait, in an event loop least of all: `Dropper`, `Messages`.
- They are shared with other processes, so O_NONBLOCK is neither set nor cleared.
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
    "reserve",
    "unhurried",
    "unhurried_errors",
    "write_all",
]

AT_END: Final = 1.0  # seconds that a slow reader of messages has at the end of a program
_RETRY: Final = 0.1  # seconds
_PIECE: Final = select.PIPE_BUF if hasattr(select, "PIPE_BUF") else 512  # pipe(7)
_DATA_PIECE: Final = 1 << 16  # bytes


class OutputLost(Exception):  # noqa: N818 - named by what happened
    """Not all data could be written; the message names the stream and says why."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(f"cannot write {name}: {error.strerror or error}")
        self.is_unwanted = isinstance(error, BrokenPipeError)
        """True if the reader has gone: it has what it wanted."""


def reserve() -> None:
    """Open the null device in the place of each standard descriptor that is closed.

    Standard error is a stream then, too: `print` to None writes to standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def descriptor_of(stream: TextIO | None) -> int | None:
    """Return the descriptor that *stream* writes to; None if it only stands for a file.

    A view of the terminal, or a test's capture, is to be written to as it is.
    """
    if not isinstance(stream, io.TextIOWrapper | Stream):
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _has_room(descriptor: int, seconds: float | None = 0.0) -> bool:
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))


# ------------------------------------------------------------------------------ data


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of *data*; wait for whoever reads it. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest[:_DATA_PIECE]) :]
        except BlockingIOError:  # somebody made it non-blocking
            _has_room(descriptor, None)


class Stream(io.TextIOBase):
    """A text stream that gives its bytes to *put*, at each end of a line if *by_line*.

    Characters that the encoding of *stream*, in whose place it is, does not have become
    question marks: a µ must not end a run.
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
        """That of the stream in whose place this is."""
        return self._encoding

    def fileno(self) -> int:
        """Return the descriptor. Raises OSError."""
        if self._stream is None:
            raise OSError(errno.EBADF, "it is closed")
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Take *text*; it leaves now, or with what follows."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, not {type(text).__name__}")
        self._held.append(text)
        self._size += len(text)
        if self._size >= _DATA_PIECE or (self._by_line and "\n" in text):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Let everything leave. Raises what *put* does."""
        text, self._held, self._size = "".join(self._held), [], 0
        if text:
            self._put(text.encode(self._encoding, "replace"))


def data_stream(stream: TextIO | None, name: str) -> Stream:
    """Return what writes to *stream*'s descriptor whole; what cannot be raises `OutputLost`."""
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
    """Writes to a descriptor without ever waiting for it.

    What it does not take now is kept, up to *max_kept* bytes (and one message), and
    tried again with the next; more is dropped, and a line says how many *what* were.
    A message may come in a signal handler, in the middle of another one.

    Args:
        descriptor: returns where to write; None is nowhere.
        what: what messages are called.
        max_kept: bytes.
    """

    def __init__(
        self, descriptor: Callable[[], int | None], what: str, *, max_kept: float = 65_536
    ) -> None:
        self._descriptor = descriptor
        self._what = what
        self._max_kept = max_kept
        self._kept = bytearray()
        self._untold = 0  # dropped, and not said yet
        self._own: tuple[int, int, int] | None = None  # our own descriptor, and of what
        self._is_socket: bool | None = None
        self._retrying: asyncio.AbstractEventLoop | None = None  # which will try again
        self._is_pushing = False
        self.error: OSError | None = None
        """Why something was lost without a word in its place; None if nothing was."""
        _droppers.add(self)

    def write(self, data: bytes) -> bool:
        """Write *data*, or keep it; return False if there is no room even to keep it."""
        self.flush()
        fits = len(self._kept) + len(data) <= self._max_kept or not self._kept
        if fits:
            self._kept += data
            self.flush()
        else:
            self._untold += 1
        return fits

    def flush(self) -> None:
        """Write of what is kept as much as can be written now."""
        if self._is_pushing:
            return  # it goes on below
        self._is_pushing = True
        kept = self._kept
        try:
            while kept:
                descriptor = self._descriptor()
                if descriptor is None:
                    raise OSError(errno.EBADF, "it is closed")
                del kept[: self._write_now(descriptor, bytes(kept[:_PIECE]))]
                if self._untold and not kept:
                    kept += b"(%d %s dropped: nobody read them)\n" % (
                        self._untold,
                        self._what.encode(),
                    )
                    self._untold = 0
        except BlockingIOError:
            pass
        except OSError as error:  # nobody will ever read it
            self.error = error
            kept.clear()
        finally:
            self._is_pushing = False

    def flush_for(self, seconds: float) -> None:
        """Write what is kept, and wait *seconds* at most for who reads it slowly."""
        deadline = time.monotonic() + seconds
        self.flush()
        while self._kept and (left := deadline - time.monotonic()) > 0:
            descriptor = self._descriptor()
            if descriptor is not None:
                _has_room(descriptor, left)
            self.flush()

    def retry_later(self) -> None:
        """While an event loop runs in this thread, try again every 0.1 seconds."""
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
        """Write what is kept, as far as it is taken now; the rest is lost."""
        self.flush()
        if self._kept:
            self._kept.clear()
            self.error = _unread()
        self._let_go()

    def _disown(self) -> None:
        """In a forked child: what is kept is the parent's to write."""
        self._kept.clear()
        self._untold = 0
        self._retrying = None
        self._is_pushing = False
        self._let_go()

    def _let_go(self) -> None:
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
                raise OSError("the number is another socket's now")
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                return sock.send(data, getattr(socket, "MSG_DONTWAIT", 0))
        own = None
        if stat.S_ISFIFO(status.st_mode) or os.isatty(descriptor):
            own = self._own_way(descriptor, status)
        if own is None and not _has_room(descriptor):
            raise BlockingIOError
        return os.write(descriptor if own is None else own, data)

    def _own_way(self, descriptor: int, status: os.stat_result) -> int | None:
        """Return a descriptor of our own of the same pipe or terminal, which does not wait."""
        if self._own is not None:
            ours, *which = self._own
            if which == [status.st_dev, status.st_ino]:
                return ours
            self._let_go()
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            ours = os.open(f"/proc/self/fd/{descriptor}", flags)
        except (OSError, AttributeError):  # where there is no /proc, or no such flag
            return None
        self._own = ours, status.st_dev, status.st_ino
        return ours


def _forked() -> None:
    for dropper in list(_droppers):
        dropper._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _unread() -> OSError:
    return BlockingIOError(errno.EAGAIN, "nobody reads it")


class Messages(Stream):
    """A text stream to *stream*'s descriptor that never waits; a missing one leads nowhere."""

    def __init__(self, stream: TextIO | None, what: str = "lines") -> None:
        self._dropper = Dropper(lambda: descriptor_of(stream), what)
        super().__init__(stream, self._drop, by_line=True)

    def _drop(self, data: bytes) -> None:
        self._dropper.write(data)
        self._dropper.retry_later()

    def end(self) -> OSError | None:
        """Give a slow reader a second; return why something was lost without a word, if it was."""
        self.flush()
        self._dropper.flush_for(AT_END)
        self._dropper.close()
        return self._dropper.error


@contextlib.contextmanager
def unhurried(name: Literal["stdout", "stderr"]) -> Iterator[Messages | None]:
    """Let nothing that is printed to `sys.stdout` or `sys.stderr` wait, in ``with``.

    Gives the stream in its place; None if it is left alone, as it only stands for a file.
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


def unhurried_errors() -> contextlib.AbstractContextManager[object]:
    """Let nothing that is printed to standard error wait for its reader, in ``with``."""
    return unhurried("stderr")
