"""The errors that streams raise, and checks of arguments that both engines share.

Both engines take their errors from here, so that the messages are the same. An error that
reports the end of a connection is marked with that connection: a listener can then tell
a handler that failed because its connection ended from one that crashed.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Coroutine, Iterable
from typing import Final, TypeVar

from silly._logs.tracebacks import AWAIT_IS_MISSING
from silly._values.addresses import format_sockaddr
from silly._values.arguments import seconds_or_none, size
from silly._values.units import in_seconds
from silly.errors import (
    ConcurrentRead,
    ConnectionClosed,
    EndOfStream,
    LimitExceeded,
    TruncatedStream,
    WriteQueueFull,
    at_address,
)
from silly.text import printable

__all__ = [
    "Buffer",
    "already_awaited",
    "answers_not_taken",
    "as_datagram",
    "as_pieces",
    "batch_arguments",
    "belongs_to",
    "cause_of_loss",
    "closed",
    "concurrent_read",
    "connection_lost",
    "deadline_passed",
    "describe_read",
    "describe_write",
    "empty_delimiter",
    "end_of_stream",
    "filter_failed",
    "first_byte_timed_out",
    "half_closed",
    "idle_timed_out",
    "limit_exceeded",
    "limit_without_delimiter",
    "mark",
    "no_handshake",
    "over_budget",
    "owned_by_parent",
    "queue_full",
    "read_deadline_passed",
    "read_timed_out",
    "send_rate_too_low",
    "wrong_type_of_until",
]

Buffer = bytes | bytearray | memoryview
HANDSHAKE: Final = "handshake"  # what a task waits for, for people
E = TypeVar("E", bound=Exception)


def mark(conn: object, error: E) -> E:
    """Mark *error* as caused by the end of *conn*, or by one of its limits; return it."""
    error._conn = id(conn)  # type: ignore[attr-defined] # the id: errors are kept, and pickled
    return error


def belongs_to(conn: object, error: BaseException) -> bool:
    """Return whether `mark` marked *error* for *conn*."""
    return getattr(error, "_conn", None) == id(conn)


def _address(conn: object) -> str:
    return str(conn.remote_addr)  # type: ignore[attr-defined] # every Conn has it


def _counted(number: float, noun: str) -> str:
    text = f"{number:g}" if isinstance(number, float) else f"{number}"
    return f"{text} {noun}" if number == 1 else f"{text} {noun}s"


def _wanted_bytes(delimiter: bytes | None, wanted: int) -> str:
    """Describe what a read waits for; a *wanted* of 0 means any bytes."""
    if delimiter is not None:
        return repr(delimiter)
    return _counted(wanted, "byte") if wanted else "a byte"


# ------------------------------------------------------------------ waiting tasks


def describe_read(delimiter: bytes | None, wanted: int) -> str:
    return f"read of {_wanted_bytes(delimiter, wanted)}"


def describe_write(unsent: int) -> str:
    return f"room to write, {_counted(unsent, 'byte')} unsent"


# ------------------------------------------------------------------------ reads


def empty_delimiter() -> ValueError:
    return ValueError("until must be a delimiter of at least one byte, not b''")


def limit_without_delimiter() -> ValueError:
    return ValueError("limit goes with a delimiter: read(b'\\n', limit=...)")


def wrong_type_of_until(until: object) -> TypeError:
    return TypeError(
        "until must be bytes (a delimiter), an int (a number of bytes) or None, "
        f"not {type(until).__name__} {until!r}"
    )


def batch_arguments(
    until: bytes | int, most: int, timeout: float | None
) -> tuple[bytes | None, int, float | None]:
    """Check the arguments of `batches`.

    Returns:
        The delimiter, or None; the size of a frame, or 0; and the timeout, None for no limit.
    """
    timeout = None if timeout is None else seconds_or_none(timeout, "timeout")
    size(most, "most", least=1)
    if isinstance(until, Buffer):
        if not until:
            raise empty_delimiter()
        return bytes(until), 0, timeout
    if isinstance(until, bool) or not isinstance(until, int):
        raise TypeError(
            "until must be bytes (a delimiter) or an int (the size of a frame), "
            f"not {type(until).__name__} {until!r}"
        )
    return None, size(until, "until", least=1), timeout


def concurrent_read(conn: object) -> ConcurrentRead:
    return ConcurrentRead("another task is reading", address=_address(conn))


def already_awaited() -> RuntimeError:
    return RuntimeError("coroutine is being awaited already")


def end_of_stream(
    conn: object, delimiter: bytes | None, wanted: int, unread: bytes, truncated: bool
) -> EndOfStream:
    # The most usual end of a connection: without a call of `__init__`, and without its text.
    kind = TruncatedStream if truncated else EndOfStream
    error = kind.__new__(kind)
    error.partial = unread
    sockaddr = conn._remote_sockaddr  # type: ignore[attr-defined] # every engine's stream has it
    error._about = functools.partial(_end_of_stream, sockaddr, delimiter, wanted)
    return mark(conn, error)


def _end_of_stream(
    sockaddr: object, delimiter: bytes | None, wanted: int, error: EndOfStream
) -> tuple[str, str]:
    """Return the text of *error*, and its address."""
    address = format_sockaddr(sockaddr)
    what = "stream cut off" if isinstance(error, TruncatedStream) else "end of stream"
    before = f"{what} before {_wanted_bytes(delimiter, wanted)}"
    left = _counted(len(error.partial), "byte")
    return f"{printable(address)}: {before}, {left} unread", address


def limit_exceeded(conn: object, delimiter: bytes, limit: int) -> LimitExceeded:
    what = f"no {delimiter!r} within the limit of {_counted(limit, 'byte')}"
    return mark(conn, LimitExceeded(what, address=_address(conn)))


def read_timed_out(
    conn: object, delimiter: bytes | None, wanted: int, timeout: float
) -> TimeoutError:
    what = _wanted_bytes(delimiter, wanted).removeprefix("a ")
    return TimeoutError(
        errno.ETIMEDOUT,
        f"No {what} within {in_seconds(timeout)}",
        _address(conn),
    )


# ----------------------------------------------------------------------- writes


def as_pieces(data: Buffer | Iterable[Buffer]) -> list[bytes]:
    """Return `write`'s argument as immutable pieces."""
    if isinstance(data, bytes | bytearray | memoryview):
        return [bytes(data)]
    if type(data) in (list, tuple) and {*map(type, data)} == {bytes}:
        return list(data)  # type: ignore[arg-type] # as below, without a step for each item
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
        if not isinstance(item, bytes | bytearray | memoryview):
            if isinstance(item, Coroutine):
                raise TypeError(f"data[{index}] must be bytes-like: {AWAIT_IS_MISSING}")
            raise TypeError(f"data[{index}] must be bytes-like, not {type(item).__name__}")
        pieces.append(bytes(item))
    return pieces


def as_datagram(data: Buffer) -> bytes:
    """Return a datagram as immutable bytes."""
    if isinstance(data, bytearray | memoryview | bytes):
        return bytes(data)
    if isinstance(data, str):
        raise TypeError("data must be bytes, not str: encode it, as in text.encode()")
    if isinstance(data, Coroutine):
        raise TypeError(f"data must be bytes: {AWAIT_IS_MISSING}")
    raise TypeError(f"data must be bytes-like, not {type(data).__name__}")


def queue_full(conn: object, unsent: int, length: int, max_unsent: int) -> WriteQueueFull:
    what = (
        f"{_counted(unsent, 'byte')} unsent, {length} more would exceed max_unsent "
        f"({_counted(max_unsent, 'byte')})"
    )
    return mark(conn, WriteQueueFull(what, address=_address(conn)))


def half_closed(conn: object) -> ConnectionClosed:
    what = "cannot write after close_write()"
    return mark(conn, ConnectionClosed(what, address=_address(conn)))


# --------------------------------------------------------------------- the end


def closed(conn: object) -> ConnectionClosed:
    return mark(conn, ConnectionClosed("active closed", address=_address(conn)))


def cause_of_loss(error: OSError | None) -> OSError:
    """Return *error*, or a default for a connection lost without one."""
    return error or ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))


def connection_lost(conn: object, error: OSError, *, repeated: bool) -> OSError:
    """Return the error that a reader or a writer of *conn* gets after *error* ended it.

    A `TimeoutError` is raised only once: a task that mistakes it for the timeout of its
    own read, and retries, would do so forever. *repeated* is set for later calls, which
    get a `ConnectionAbortedError` instead.
    """
    if repeated and isinstance(error, TimeoutError):
        error = ConnectionAbortedError(errno.ECONNABORTED, error.strerror)
    return mark(conn, at_address(error, _address(conn)))


def idle_timed_out(timeout: float) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"Idle for {in_seconds(timeout)}, closed")


def first_byte_timed_out(timeout: float) -> TimeoutError:
    return TimeoutError(
        errno.ETIMEDOUT,
        f"No first byte within {in_seconds(timeout)} (first_byte_timeout), closed",
    )


def read_deadline_passed(unread: int, deadline: float) -> TimeoutError:
    return TimeoutError(
        errno.ETIMEDOUT,
        f"Read not complete within {in_seconds(deadline)} (read_deadline), "
        f"{_counted(unread, 'byte')} unread, closed",
    )


def send_rate_too_low(rate: float, window: float) -> TimeoutError:
    return TimeoutError(
        errno.ETIMEDOUT,
        f"Peer took fewer than {rate:g} bytes per second over {in_seconds(window)} "
        "(min_send_rate), reset",
    )


def deadline_passed(seconds: float) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"Exceeded the deadline of {in_seconds(seconds)}")


def over_budget(held: int) -> OSError:
    return OSError(errno.ENOBUFS, f"Held {held:,} bytes when memory_budget was exceeded, reset")


def no_handshake(conn: object) -> OSError:
    what = "The peer finished before the handshake was complete"
    error = ConnectionAbortedError(errno.ECONNABORTED, what)
    return mark(conn, at_address(error, _address(conn)))


def filter_failed() -> OSError:
    return ConnectionAbortedError(errno.ECONNABORTED, "The connection's filter failed")


def answers_not_taken(size: int) -> OSError:
    what = f"The peer does not take what it asks for, {_counted(size, 'byte')} of answers unsent"
    return ConnectionAbortedError(errno.ECONNABORTED, what)


def owned_by_parent() -> OSError:
    return ConnectionAbortedError(
        errno.ECONNABORTED, "The connection belongs to the parent process"
    )
