"""One connection's bytes: what reading, writing and closing mean, over any link.

Reading
    Arrived bytes wait in a `ReceiveBuffer`. A read that they satisfy returns at
    once; else the reader suspends, and each piece that arrives is matched
    against what it wants, so it wakes once, when its read is complete. Bytes
    leave the buffer only in the step in which the reader returns them: whatever
    ends a read early (timeout, cancellation, limit, end of stream) loses none.
    Only one task may wait at a time.

Flow control
    The link is paused while `read_limit` bytes are unread and no reader needs
    more, and resumed when half of that was read or a reader needs more.

Writing
    Writes gather in a batch that leaves as one send (turn.py). While the link
    is crowded, `await write()` waits. What would take the queue past
    `max_unsent` is refused whole.

The end comes in one of these ways, and each decides what later calls say:

======================  =======================  ================================
what happened           reads, once the unread   writes
                        bytes do not suffice
======================  =======================  ================================
peer's FIN              `EndOfStream`            go on
`close_write()`         go on                    `ConnectionClosed`
`close()`, `abort()`    `ConnectionClosed`,      `ConnectionClosed`
                        nothing stays unread
reset, network error,   that error               that error
idle timeout
======================  =======================  ================================

Closing is not over when the queue is in the kernel's hands: a socket closed
while it holds unread bytes answers with RST, and the kernel then drops what the
peer has not acknowledged (RFC 2525, section 2.17). So where the peer is still
talking, FIN is sent first and its bytes are thrown away until it finishes or
`linger` runs out.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import time
from collections.abc import Awaitable, Coroutine, Generator, Iterable
from typing import Any, Final

from silly._arguments import seconds, seconds_or_none, size
from silly._engine.interface import Link
from silly._engine.receive_buffer import INCOMPLETE, TOO_LONG, ReceiveBuffer
from silly._engine.turn import Turn
from silly.errors import (
    ConcurrentRead,
    ConnectionClosed,
    EndOfStream,
    LimitExceeded,
    WriteQueueFull,
    at_address,
)

__all__ = ["LINGER", "MAX_UNSENT", "READ_LIMIT", "Buffer", "Stream"]

logger = logging.getLogger("silly.net")

Buffer = bytes | bytearray | memoryview

READ_LIMIT: Final = 1024 * 1024  # bytes
MAX_UNSENT: Final = 16 * 1024 * 1024  # bytes
LINGER: Final = 10.0  # seconds
HIGH_WATER: Final = 64 * 1024  # bytes: a batch this large leaves at once

_ALL: Final = 0  # the wanted count of `read()`: whatever is there


class _HasRoom:
    """What `write` returns when there is room: awaiting it does not suspend."""

    __slots__ = ()
    __await__ = staticmethod(functools.partial(iter, ()))


_HAS_ROOM: Final[Awaitable[None]] = _HasRoom()


class _Room:
    """What `write` returns when the link is crowded: awaiting it waits for room."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __await__(self) -> Generator[Any, None, None]:
        return self._stream._wait_for_room().__await__()


class Stream:
    """One connection's reading, writing and closing; the base of every `Conn`."""

    __slots__ = (
        "__weakref__",
        "_batch",
        "_batched",
        "_bytes_in",
        "_bytes_out",
        "_clock",
        "_closing",
        "_crowded",
        "_delimiter",
        "_ended",
        "_gone",
        "_idle_timeout",
        "_idle_timer",
        "_in_turn",
        "_incoming",
        "_last_activity",
        "_linger",
        "_linger_timer",
        "_link",
        "_loop",
        "_loss",
        "_max_unsent",
        "_opened_at",
        "_opened_tick",
        "_paused",
        "_read_limit",
        "_reading",
        "_turn",
        "_unsent_seen",
        "_waiter",
        "_wake_on_gone",
        "_wake_on_room",
        "_wanted",
        "_writable",
    )

    def __init__(
        self,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        *,
        read_limit: int = READ_LIMIT,
        max_unsent: int = MAX_UNSENT,
        linger: float = LINGER,
        idle_timeout: float | None = None,
    ) -> None:
        self._link = link
        self._loop = loop
        self._turn = Turn.of(loop)
        self._clock = loop.time

        # receiving
        self._incoming = ReceiveBuffer()
        self._read_limit = read_limit
        self._paused = False
        self._reading = False  # a task is inside a read that had to wait
        self._waiter: asyncio.Future[bool] | None = None  # what it waits on; True: timed out
        self._delimiter: bytes | None = None  # what it wants: this, within _wanted bytes ...
        self._wanted = _ALL  # ... or, without a delimiter, this many bytes

        # sending
        self._batch: list[bytes] = []
        self._batched = 0
        self._in_turn = False
        self._crowded = False
        self._max_unsent = max_unsent
        self._wake_on_room: list[asyncio.Future[None]] | None = None

        # the end
        self._writable = True  # neither closed, nor half-closed, nor lost
        self._ended = False  # the peer sent FIN
        self._closing = False  # close() or abort() was called
        self._loss: OSError | None = None  # why it ended, if this side did not close it
        self._gone = False  # the link is gone
        self._linger = linger
        self._linger_timer: asyncio.TimerHandle | None = None
        self._wake_on_gone: list[asyncio.Future[None]] | None = None

        # the record
        self._bytes_in = 0
        self._bytes_out = 0
        self._opened_at = time.time()
        self._last_activity = self._opened_tick = self._clock()
        self._unsent_seen = 0
        self._idle_timeout: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        if idle_timeout is not None:
            self.idle_timeout = idle_timeout

    # ---------------------------------------------------------------- reading

    def read(
        self,
        until: bytes | int | None = None,
        *,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Coroutine[Any, Any, bytes]:
        r"""Read up to a delimiter, an exact number of bytes, or whatever is there.

        ======================  =================================================
        ``await read(b"\n")``   all bytes up to the delimiter, and the delimiter
        ``await read(n)``       exactly *n* bytes; ``read(0)`` is ``b""`` at once
        ``await read()``        all bytes that are there, at least one
        ======================  =================================================

        A read loses nothing: after a timeout, a cancellation, `LimitExceeded` or
        `EndOfStream`, the bytes that arrived are still there for the next read.
        Except for ``read()``, what a read returns depends only on the bytes that
        the peer sends, not on how the network cuts them into pieces.

        Args:
            until: a delimiter of one byte or more, a number of bytes, or None.
            timeout: seconds to wait at most; 0 only looks at what has arrived;
                None waits without end.
            limit: the longest result in bytes, delimiter included, that a
                delimiter read may return; `read_limit` if None.

        Returns:
            The bytes, never ``b""`` except for ``read(0)``.

        Raises:
            EndOfStream: the peer finished sending, and the unread bytes cannot
                satisfy this read.
            LimitExceeded: it is certain that the result would be longer than
                the limit.
            TimeoutError: *timeout* seconds went by; or the connection was idle
                for `idle_timeout` and is closed.
            ConnectionResetError, OSError: the connection was lost; what arrived
                before can still be read.
            ConnectionClosed: this side called `close` or `abort`.
            ConcurrentRead: another task is waiting in a read.
            TypeError, ValueError: an argument is of the wrong type or value;
                raised at the call, before the await.
        """
        if timeout is not None:
            timeout = seconds_or_none(timeout, "timeout")
        if isinstance(until, bytes | bytearray | memoryview):
            delimiter = until if type(until) is bytes else bytes(until)
            if not delimiter:
                raise ValueError("until must be a delimiter of at least one byte, not b''")
            if limit is None:
                limit = self._read_limit
            else:
                size(limit, "limit", least=1)
            return self._read_until(delimiter, limit, timeout)
        if limit is not None:
            raise ValueError("limit goes with a delimiter: read(b'\\n', limit=...)")
        if until is None:
            return self._read_all(timeout)
        if isinstance(until, bool) or not isinstance(until, int):
            raise TypeError(
                "until must be bytes (a delimiter), an int (a number of bytes) or None, "
                f"not {type(until).__name__} {until!r}"
            )
        return self._read_exactly(size(until, "until"), timeout)

    async def _read_until(self, delimiter: bytes, limit: int, timeout: float | None) -> bytes:
        if self._reading or self._closing:
            raise self._reader_error(repr(delimiter))
        end = self._incoming.find(delimiter, limit)
        if end == INCOMPLETE:
            end = await self._wait_for(delimiter, limit, timeout)
        if end == TOO_LONG:
            self._control_flow()
            raise LimitExceeded(
                f"no {delimiter!r} within the limit of {limit} bytes", address=self.remote_addr
            )
        return self._take(end)

    async def _read_exactly(self, count: int, timeout: float | None) -> bytes:
        if self._reading or self._closing:
            raise self._reader_error(f"{count} bytes")
        if count == 0:
            return b""
        if len(self._incoming) < count:
            await self._wait_for(None, count, timeout)
        return self._take(count)

    async def _read_all(self, timeout: float | None) -> bytes:
        if self._reading or self._closing:
            raise self._reader_error("a byte")
        count = len(self._incoming)
        if count == 0:
            count = await self._wait_for(None, _ALL, timeout)
        return self._take(count)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        if self._reading or self._closing:
            raise self._reader_error("a line")
        end = self._incoming.find(b"\n", self._read_limit)
        if end <= 0:
            try:
                return await self._read_until(b"\n", self._read_limit, None)
            except EndOfStream:
                end = len(self._incoming)
                if end == 0:
                    raise StopAsyncIteration from None
        return self._take(end)

    def _take(self, count: int) -> bytes:
        taken = self._incoming.take(count)
        if self._paused and len(self._incoming) <= self._read_limit // 2:
            self._resume()
        return taken

    async def _wait_for(self, delimiter: bytes | None, wanted: int, timeout: float | None) -> int:
        """Suspend the reader until its read is complete; return how many bytes to take."""
        if self._ended or self._loss is not None:
            raise self._reader_error(_in_words(delimiter, wanted))
        if self._batch:
            self._flush()
        if self._paused:
            self._resume()
        self._delimiter, self._wanted = delimiter, wanted
        self._reading = True
        timer = None
        if timeout is not None:
            timer = self._loop.call_later(timeout, self._time_out_read)
        try:
            while True:
                self._waiter = waiter = self._loop.create_future()
                timed_out = await waiter
                if self._closing:
                    break
                if (count := self._match()) != INCOMPLETE:
                    return count
                if self._ended or self._loss is not None:
                    break
                if timed_out:
                    raise TimeoutError(
                        errno.ETIMEDOUT,
                        f"No {_in_words(delimiter, wanted)} within {timeout:g} seconds",
                        self.remote_addr,
                    )
            self._reading = False
            raise self._reader_error(_in_words(delimiter, wanted))
        finally:
            self._reading = False
            self._waiter = None
            if timer is not None:
                timer.cancel()
            self._control_flow()

    def _match(self) -> int:
        """How many bytes the waiting read would return now (as `ReceiveBuffer.find`)."""
        if self._delimiter is not None:
            return self._incoming.find(self._delimiter, self._wanted)
        held = len(self._incoming)
        if self._wanted == _ALL:
            return held
        return self._wanted if held >= self._wanted else INCOMPLETE

    def _wake_reader(self, *, timed_out: bool = False) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(timed_out)

    def _time_out_read(self) -> None:
        self._wake_reader(timed_out=True)

    def _reader_error(self, wanted: str) -> Exception:
        """Why a read of *wanted* cannot be: for the state that this stream is in."""
        if self._closing:
            return ConnectionClosed("active closed", address=self.remote_addr)
        if self._reading:
            return ConcurrentRead("another task is reading", address=self.remote_addr)
        if self._ended or self._loss is None:
            return EndOfStream(
                f"end of stream before {wanted}, {self.unread_bytes} bytes unread",
                self._incoming.peek(),
                address=self.remote_addr,
            )
        return self._loss_error()

    def _loss_error(self) -> OSError:
        assert self._loss is not None
        return at_address(self._loss, self.remote_addr)

    # ----------------------------------------------------------- flow control

    def _control_flow(self) -> None:
        """Pause the link if it brought as much as may stay unread."""
        if len(self._incoming) >= self._read_limit and not (
            self._paused or self._closing or self._ended or self._gone
        ):
            self._paused = True
            self._link.pause()

    def _resume(self) -> None:
        self._paused = False
        if not (self._ended or self._gone):
            self._link.resume()

    # ---------------------------------------------------------------- writing

    def write(self, data: Buffer | Iterable[Buffer]) -> Awaitable[None]:
        """Queue *data* to be sent; with ``await``, also wait until there is room.

        The call itself never waits: *data* is queued when it returns, all of it,
        in the order of the calls, whichever tasks make them. It is sent with
        everything else that is written before the task suspends. Awaiting the
        result waits while the peer is too slow to take what is queued
        (backpressure), and only then suspends.

        Args:
            data: bytes-like, or an iterable of bytes-like objects, sent as if
                joined. What is not immutable is copied at the call.

        Returns:
            An awaitable of None. It need not be awaited. Cancelling it takes
            nothing back: what was queued is sent.

        Raises:
            WriteQueueFull: this would take the queue past `max_unsent` bytes;
                nothing of it was queued. (A single write larger than that is
                accepted while the queue is nearly empty.) Does not happen to
                who awaits each write.
            ConnectionClosed: this side called `close`, `abort` or `close_write`.
            ConnectionResetError, BrokenPipeError, OSError: the connection was
                lost. The await raises this also if it happens while it waits.
            TypeError: *data* is something else, such as a `str`.
        """
        pieces: list[bytes] | None = None
        if type(data) is bytes:
            length = len(data)
        else:
            pieces = _as_pieces(data)
            length = sum(map(len, pieces))
        if not self._writable:
            raise self._writer_error()
        batched = self._batched + length
        if self._crowded or batched > HIGH_WATER or batched > self._max_unsent:
            return self._write_at_once([data] if pieces is None else pieces, length)  # type: ignore[list-item]
        if length:
            if pieces is None:
                self._batch.append(data)  # type: ignore[arg-type]
            else:
                self._batch += pieces
            self._batched = batched
            if not self._in_turn:
                self._in_turn = True
                self._turn.add(self, self._loop)
        return _HAS_ROOM

    def _write_at_once(self, pieces: list[bytes], length: int) -> Awaitable[None]:
        """Write where the queue is long, or becomes so: no point in waiting for more."""
        self._flush()
        unsent = self._link.unsent()
        # A queue that is nearly empty takes a write of any length: else a large
        # one could never leave, and who awaits each write could be refused.
        if unsent + length > self._max_unsent and unsent > min(HIGH_WATER, self._max_unsent // 2):
            raise WriteQueueFull(
                f"{unsent} bytes are unsent, {length} more would be over max_unsent "
                f"({self._max_unsent} bytes)",
                address=self.remote_addr,
            )
        self._batch += pieces
        self._batched = length
        self._flush()
        return _Room(self) if self._crowded else _HAS_ROOM

    def _flush(self) -> None:
        batch = self._batch
        if not batch:
            return
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        batch.clear()
        self._batched = 0
        self._bytes_out += len(data)
        self._last_activity = self._clock()
        self._link.send(data)

    def end_of_turn(self) -> None:
        """Send what was written in this turn (called by `Turn`)."""
        self._in_turn = False
        if self._batch:
            self._flush()

    async def _wait_for_room(self) -> None:
        while self._crowded and self._writable:
            waiter = self._loop.create_future()
            if self._wake_on_room is None:
                self._wake_on_room = []
            self._wake_on_room.append(waiter)
            await waiter
        if self._closing or self._loss is not None:
            raise self._writer_error()

    def _writer_error(self) -> Exception:
        if self._closing:
            return ConnectionClosed("active closed", address=self.remote_addr)
        if self._loss is not None:
            return self._loss_error()
        return ConnectionClosed("cannot write after close_write()", address=self.remote_addr)

    def _wake_writers(self) -> None:
        waiters, self._wake_on_room = self._wake_on_room, None
        _wake_all(waiters)

    # ---------------------------------------------------------------- closing

    def close_write(self) -> None:
        """Finish sending: what is queued, then FIN (half-close, shutdown(2)).

        Reading goes on; `write` raises `ConnectionClosed`. Without effect when
        the connection is closed, half-closed or lost already.
        """
        if not self._writable:
            return
        self._flush()
        self._writable = False
        self._wake_writers()
        self._link.finish()

    def close(self) -> None:
        """Close the connection; returns at once. `wait_closed` waits for the end of it.

        What is queued is still sent, for up to `linger` seconds, then FIN. If the
        peer has not taken it by then, the rest is dropped and the connection
        reset, so that the peer can tell. Unread bytes are dropped. A read or
        write that waits in another task raises `ConnectionClosed`, and so does
        every later one. Closing twice is without effect.
        """
        if self._closing:
            return
        if self._writable:
            self._flush()
        self._enter_closing()
        if self._gone:
            return
        if self._link.unsent() == 0:
            self._close_sent()
        elif self._linger == 0:
            self.abort()
        else:
            self._start_linger()
            self._crowded = True  # until the link says that the queue is empty
            self._link.call_when_empty()

    def abort(self) -> None:
        """Drop the connection: what is queued is thrown away, and the peer sees a reset.

        A read or write that waits in another task raises `ConnectionClosed`, and
        so does every later one. Also ends a `close` that still lingers.
        """
        self._batch.clear()
        self._batched = 0
        self._enter_closing()
        if not self._gone:
            self._bytes_out -= self._link.unsent()
            self._link.abort()

    def _enter_closing(self) -> None:
        self._closing = True
        self._writable = False
        self._incoming.clear()
        self._wake_reader()
        self._wake_writers()

    def _close_sent(self) -> None:
        """Go on with closing: all that was queued is in the operating system's hands."""
        if self._ended or not (self._paused or self._link.has_unread()):
            self._link.close()
            return
        self._link.finish()
        if self._paused:
            self._resume()
        if self._linger_timer is None:
            self._start_linger()

    def _start_linger(self) -> None:
        self._linger_timer = self._loop.call_later(self._linger, self._end_linger)

    def _end_linger(self) -> None:
        self._linger_timer = None
        unsent = self._link.unsent()
        if unsent:
            logger.debug("%s: %d bytes unsent after lingering", self.remote_addr, unsent)
            self.abort()
        else:
            self._link.close()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone: closed, reset or lost, its descriptor released.

        Does not close it, and does not raise if it was lost. Safe to cancel.
        """
        if not self._gone:
            waiter = self._loop.create_future()
            if self._wake_on_gone is None:
                self._wake_on_gone = []
            self._wake_on_gone.append(waiter)
            await waiter

    # ------------------------------------------------------ calls from the link

    def received(self, piece: bytes) -> None:
        """Take in what the link received."""
        self._bytes_in += len(piece)
        self._last_activity = self._clock()
        if self._closing:
            return
        incoming = self._incoming
        incoming.feed(piece)
        if self._waiter is not None:
            if self._match() == INCOMPLETE:
                return
            self._wake_reader()
        if len(incoming) >= self._read_limit:
            self._control_flow()

    def ended(self) -> None:
        """Note that the peer finished sending."""
        self._ended = True
        if not self._closing:
            self._wake_reader()
        elif self._link.unsent() == 0:
            self._link.close()

    def crowded(self) -> None:
        """Have writers wait."""
        self._crowded = True

    def uncrowded(self) -> None:
        """Let waiting writers go on, or closing."""
        self._crowded = False
        if not self._closing:
            self._wake_writers()
        elif not self._gone:
            self._close_sent()

    def lost(self, error: OSError | None) -> None:
        """Note that the link is gone."""
        if self._loss is None and not self._closing:
            self._loss = error or ConnectionAbortedError(
                errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)
            )
        self._gone = True
        self._crowded = self._writable = False
        self._batch.clear()
        self._batched = 0
        for timer in (self._linger_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._linger_timer = self._idle_timer = None
        self._wake_reader()
        self._wake_writers()
        waiters, self._wake_on_gone = self._wake_on_gone, None
        _wake_all(waiters)

    # ---------------------------------------------------------------- idleness

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without a byte either way after which the connection is closed; None: never.

        A read that waits then raises `TimeoutError`, and so does every later
        read that the unread bytes cannot satisfy, and every write. If bytes are
        still unsent (the peer takes none), the connection is reset.
        """
        return self._idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, value: float | None) -> None:
        value = seconds_or_none(value, "idle_timeout")
        if value == 0:
            raise ValueError("idle_timeout must be more than 0 seconds, or None for no timeout")
        self._idle_timeout = value
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if value is not None and not self._gone:
            self._arm_idle_timer(self._last_activity + value)

    def _arm_idle_timer(self, when: float) -> None:
        self._idle_timer = self._loop.call_at(when, self._check_idle)

    def _check_idle(self) -> None:
        """Close if nothing moved for `idle_timeout`, else look again when that could be.

        One timer that looks back, instead of one that every message resets.
        """
        assert self._idle_timeout is not None
        self._idle_timer = None
        if self._closing:
            return  # bounded by linger
        unsent = self._link.unsent()
        if unsent != self._unsent_seen:  # the peer took some, or there is more for it
            self._unsent_seen = unsent
            self._last_activity = self._clock()
        due = self._last_activity + self._idle_timeout
        if self._clock() < due - 0.001:
            self._arm_idle_timer(due)
            return
        self._loss = TimeoutError(
            errno.ETIMEDOUT, f"Idle for {self._idle_timeout:g} seconds, closed"
        )
        self._writable = False
        self._wake_reader()
        self._wake_writers()
        if unsent:
            self._link.abort()
        else:
            self._link.close()

    # -------------------------------------------------------------- properties

    @property
    def remote_addr(self) -> str:
        """The other end's address, as text."""
        raise NotImplementedError

    @property
    def is_alive(self) -> bool:
        """False once this side closed the connection, or it was lost.

        A peer that only finished sending leaves it alive: writing still works.
        """
        return not self._closing and self._loss is None

    @property
    def unread_bytes(self) -> int:
        """How many bytes have arrived and were not read: ``read(unread_bytes)`` gets them."""
        return len(self._incoming)

    @property
    def unsent_bytes(self) -> int:
        """How many written bytes the operating system has not taken yet."""
        return self._batched + (0 if self._gone else self._link.unsent())

    @property
    def read_limit(self) -> int:
        """How many bytes may wait unread before receiving stops; default 1 MiB.

        Also the default limit of a delimiter read. Receiving goes on past it
        while a read needs more.
        """
        return self._read_limit

    @read_limit.setter
    def read_limit(self, value: int) -> None:
        self._read_limit = size(value, "read_limit", least=1)
        if self._paused and len(self._incoming) < value:
            self._resume()
        elif self._waiter is None:
            self._control_flow()

    @property
    def max_unsent(self) -> int:
        """How many bytes may wait unsent before `write` refuses more; default 16 MiB."""
        return self._max_unsent

    @max_unsent.setter
    def max_unsent(self, value: int) -> None:
        self._max_unsent = size(value, "max_unsent", least=1)

    @property
    def linger(self) -> float:
        """For how many seconds `close` goes on sending what is queued; default 10."""
        return self._linger

    @linger.setter
    def linger(self, value: float) -> None:
        self._linger = seconds(value, "linger")


def _as_pieces(data: Buffer | Iterable[Buffer]) -> list[bytes]:
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


def _in_words(delimiter: bytes | None, wanted: int) -> str:
    if delimiter is not None:
        return repr(delimiter)
    return "a byte" if wanted == _ALL else f"{wanted} bytes"


def _wake_all(waiters: list[asyncio.Future[None]] | None) -> None:
    for waiter in waiters or ():
        if not waiter.done():
            waiter.set_result(None)
