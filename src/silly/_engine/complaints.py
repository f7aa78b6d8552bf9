"""What a stream refuses, in words: the errors, and the arguments that it was given.

Both engines' streams raise from here, so that the same mistake reads the same.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from silly.errors import (
    ConcurrentRead,
    ConnectionClosed,
    EndOfStream,
    LimitExceeded,
    WriteQueueFull,
)

__all__ = [
    "Buffer",
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
    "limit_exceeded",
    "limit_without_delimiter",
    "lost",
    "no_first_byte",
    "not_taken",
    "over_budget",
    "queue_full",
    "read_timed_out",
    "told_before",
    "unfinished",
    "until_of_wrong_type",
    "waits_for_bytes",
    "waits_for_room",
]

Buffer = bytes | bytearray | memoryview


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


def end_of_stream(delimiter: bytes | None, wanted: int, unread: bytes, address: str) -> EndOfStream:
    return EndOfStream(
        f"end of stream before {_in_words(delimiter, wanted)}, {len(unread)} bytes unread",
        unread,
        address=address,
    )


def limit_exceeded(delimiter: bytes, limit: int, address: str) -> LimitExceeded:
    return LimitExceeded(f"no {delimiter!r} within the limit of {limit} bytes", address=address)


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
            raise TypeError(f"data[{index}] must be bytes-like, not {type(item).__name__}")
        pieces.append(bytes(item))
    return pieces


def queue_full(unsent: int, length: int, max_unsent: int, address: str) -> WriteQueueFull:
    return WriteQueueFull(
        f"{unsent} bytes are unsent, {length} more would be over max_unsent ({max_unsent} bytes)",
        address=address,
    )


def half_closed(address: str) -> ConnectionClosed:
    return ConnectionClosed("cannot write after close_write()", address=address)


# --------------------------------------------------------------------- the end


def closed(address: str) -> ConnectionClosed:
    return ConnectionClosed("active closed", address=address)


def lost(error: OSError | None) -> OSError:
    """Return why a connection was lost; *error* if the operating system said it."""
    return error or ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))


def told_before(loss: OSError) -> OSError:
    """Return what a reader, or a writer, is told that was told of *loss* before.

    A `TimeoutError` is told each of them once: whoever takes it for that of its
    own read, and tries again, must not do so for ever.
    """
    if isinstance(loss, TimeoutError):
        return ConnectionAbortedError(errno.ECONNABORTED, loss.strerror)
    return loss


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
