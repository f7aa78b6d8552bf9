"""What a stream refuses, in words: the errors, and the arguments that it was given.

Both engines' streams raise from here, so that the same mistake reads the same. The
errors that tell of a connection's end carry a mark of that connection: a listener
can tell a handler that ended with its connection from one that crashed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Coroutine, Iterable
from typing import Protocol, TypeVar

from silly._tracebacks import AWAIT_IS_MISSING
from silly.errors import (
    ConcurrentRead,
    ConnectionClosed,
    EndOfStream,
    LimitExceeded,
    WriteQueueFull,
    at_address,
)

__all__ = [
    "Buffer",
    "about",
    "as_pieces",
    "awaited_already",
    "belongs_to_parent",
    "closed",
    "concurrent_read",
    "deadline_passed",
    "empty_delimiter",
    "end_of_stream",
    "half_closed",
    "idle",
    "is_about",
    "limit_exceeded",
    "limit_without_delimiter",
    "loss",
    "lost",
    "no_first_byte",
    "not_taken",
    "over_budget",
    "queue_full",
    "read_timed_out",
    "unfinished",
    "until_of_wrong_type",
    "waits_for_bytes",
    "waits_for_room",
]

Buffer = bytes | bytearray | memoryview
E = TypeVar("E", bound=Exception)


class _Conn(Protocol):
    @property
    def remote_addr(self) -> str: ...


def about(conn: _Conn, error: E) -> E:
    """Mark *error* as one that tells of the end of *conn*, or of a limit that it met."""
    error._conn = id(conn)  # type: ignore[attr-defined] # not *conn*: errors are kept, and pickled
    return error


def is_about(conn: object, error: BaseException) -> bool:
    """Tell whether *error* is the end of *conn* itself, or a limit that it met."""
    return getattr(error, "_conn", None) == id(conn)


def _in_words(delimiter: bytes | None, wanted: int) -> str:
    """Name what a read waits for; a *wanted* of 0 is whatever is there."""
    if delimiter is not None:
        return repr(delimiter)
    return f"{wanted} bytes" if wanted else "a byte"


# ------------------------------------------------------------- what a task waits for


def waits_for_bytes(delimiter: bytes | None, wanted: int) -> str:
    return f"read of {_in_words(delimiter, wanted)}"


def waits_for_room(unsent: int) -> str:
    return f"room to write, {unsent} bytes unsent"


# ------------------------------------------------------------------------ reads


def empty_delimiter() -> ValueError:
    return ValueError("until must be a delimiter of at least one byte, not b''")


def limit_without_delimiter() -> ValueError:
    return ValueError("limit goes with a delimiter: read(b'\\n', limit=...)")


def until_of_wrong_type(until: object) -> TypeError:
    return TypeError(
        "until must be bytes (a delimiter), an int (a number of bytes) or None, "
        f"not {type(until).__name__} {until!r}"
    )


def concurrent_read(address: str) -> ConcurrentRead:
    return ConcurrentRead("another task is reading", address=address)


def awaited_already() -> RuntimeError:
    return RuntimeError("coroutine is being awaited already")


def end_of_stream(conn: _Conn, delimiter: bytes | None, wanted: int, unread: bytes) -> EndOfStream:
    what = f"end of stream before {_in_words(delimiter, wanted)}, {len(unread)} bytes unread"
    return about(conn, EndOfStream(what, unread, address=conn.remote_addr))


def limit_exceeded(conn: _Conn, delimiter: bytes, limit: int) -> LimitExceeded:
    what = f"no {delimiter!r} within the limit of {limit} bytes"
    return about(conn, LimitExceeded(what, address=conn.remote_addr))


def read_timed_out(
    delimiter: bytes | None, wanted: int, timeout: float, address: str
) -> TimeoutError:
    return TimeoutError(
        errno.ETIMEDOUT, f"No {_in_words(delimiter, wanted)} within {timeout:g} seconds", address
    )


# ----------------------------------------------------------------------- writes


def as_pieces(data: Buffer | Iterable[Buffer]) -> list[bytes]:
    """Return what `write` was given as immutable pieces."""
    if isinstance(data, bytes | bytearray | memoryview):
        return [bytes(data)]
    if isinstance(data, str):
        raise TypeError("data must be bytes, not str: encode it, as in text.encode()")
    if isinstance(data, Coroutine):
        raise TypeError(f"data must be bytes: {AWAIT_IS_MISSING}")
    try:
        items = iter(data)
    except TypeError:
        raise TypeError(
            f"data must be bytes-like or an iterable of bytes-like objects, "
            f"not {type(data).__name__}"
        ) from None
    pieces = []
    for index, item in enumerate(items):
        if isinstance(item, Coroutine):
            raise TypeError(f"data[{index}] must be bytes-like: {AWAIT_IS_MISSING}")
        if not isinstance(item, bytes | bytearray | memoryview):
            raise TypeError(f"data[{index}] must be bytes-like, not {type(item).__name__}")
        pieces.append(bytes(item))
    return pieces


def queue_full(conn: _Conn, unsent: int, length: int, max_unsent: int) -> WriteQueueFull:
    what = f"{unsent} bytes are unsent, {length} more would be over max_unsent ({max_unsent} bytes)"
    return about(conn, WriteQueueFull(what, address=conn.remote_addr))


def half_closed(conn: _Conn) -> ConnectionClosed:
    what = "cannot write after close_write()"
    return about(conn, ConnectionClosed(what, address=conn.remote_addr))


# --------------------------------------------------------------------- the end


def closed(conn: _Conn) -> ConnectionClosed:
    return about(conn, ConnectionClosed("active closed", address=conn.remote_addr))


def lost(error: OSError | None) -> OSError:
    """Return why a connection was lost; *error* if the operating system said it."""
    return error or ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))


def loss(conn: _Conn, error: OSError, *, told: bool) -> OSError:
    """Return the error for a reader, or a writer, of *conn*, which was lost by *error*.

    A `TimeoutError` is raised only if it was not *told* before: a task that takes it
    for that of its own read, and tries again, must not do so for ever.
    """
    if told and isinstance(error, TimeoutError):
        error = ConnectionAbortedError(errno.ECONNABORTED, error.strerror)
    return about(conn, at_address(error, conn.remote_addr))


def idle(timeout: float) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"Idle for {timeout:g} seconds, closed")


def no_first_byte(timeout: float) -> TimeoutError:
    return TimeoutError(
        errno.ETIMEDOUT, f"No first byte within {timeout:g} seconds (first_byte_timeout), closed"
    )


def unfinished(unread: int, deadline: float) -> TimeoutError:
    return TimeoutError(
        errno.ETIMEDOUT,
        f"Only {unread} bytes of what is to be read within {deadline:g} seconds (read_deadline), "
        "closed",
    )


def not_taken(rate: float, window: float) -> TimeoutError:
    return TimeoutError(
        errno.ETIMEDOUT,
        f"Fewer than {rate:g} bytes per second taken over {window:g} seconds (min_send_rate), "
        "reset",
    )


def deadline_passed(seconds: float) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"Not done within the deadline of {seconds:g} seconds")


def over_budget(held: int) -> OSError:
    return OSError(
        errno.ENOBUFS, f"{held:,} bytes were held for it when memory_budget was used up, reset"
    )


def belongs_to_parent() -> OSError:
    return ConnectionAbortedError(
        errno.ECONNABORTED, "The connection belongs to the process that was forked"
    )
