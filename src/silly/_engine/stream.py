"""One connection's reading, writing and closing, over any link.

Reading
    Received bytes wait in a `ReceiveBuffer`. A read that they satisfy returns at
    once. Otherwise the reader suspends, and each piece that arrives is checked
    against what the read wants, so the reader wakes once, when its read is
    complete. Bytes leave the buffer only in the step in which the reader returns
    them: a read that ends early (timeout, cancellation, limit, end of stream)
    loses none. If nothing is unread, a piece that exactly completes the read
    bypasses the buffer: if the reader can be stepped immediately (trampoline.py),
    it gets the piece itself. Only one task may wait at a time.

Flow control
    The link is paused only while at least `read_limit` bytes are unread and no
    read waits for more. It is resumed when half of them have been read, or when a
    read waits.

Writing
    Writes are collected in a batch that is sent with one call (turn.py). While the
    link is full, `await write()` waits. A write that would grow the queue beyond
    `max_unsent` is refused as a whole.

How a connection ends decides what later calls do:

======================  =======================  ================================
event                   reads that the unread    writes
                        bytes do not satisfy
======================  =======================  ================================
peer's FIN              `EndOfStream`            work
`close_write()`         work                     `ConnectionClosed`
`close()`, `abort()`    `ConnectionClosed`,      `ConnectionClosed`
                        unread bytes are lost
reset, network error,   that error (a timeout    that error (a timeout
timeout                 only the first time)     only the first time)
======================  =======================  ================================

Closing is not finished when the kernel has the whole queue: if a socket is closed
with unread bytes, the kernel sends RST and drops data that the peer has not
acknowledged (RFC 2525, section 2.17). So if the peer is still sending, FIN is
sent first, and the peer's bytes are discarded until it finishes or `linger`
seconds have passed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from typing import TYPE_CHECKING, Any, Final

from silly._arguments import positive_seconds, seconds, seconds_or_none, size
from silly._engine import stream_errors
from silly._engine.interface import Budget, Deadlines, Drain, Link, packed_ip
from silly._engine.receive_buffer import INCOMPLETE, TOO_LONG, ReceiveBuffer
from silly._engine.stream_errors import Buffer
from silly._engine.trampoline import PARKING, Trampoline, current_trampoline
from silly._engine.turn import Turn

__all__ = ["LINGER", "MAX_UNSENT", "READ_LIMIT", "Stream"]

READ_LIMIT: Final = 1024 * 1024  # bytes
MAX_UNSENT: Final = 16 * 1024 * 1024  # bytes
LINGER: Final = 10.0  # seconds
HIGH_WATER: Final = 64 * 1024  # bytes: a larger batch is sent at once
MAX_READS_IN_A_ROW: Final = 1000  # reads without waiting, before other tasks run ...
_LARGE_WRITE_COST: Final = 50  # ... and how many of them a large write counts as

_ALL: Final = 0  # the wanted count of `read()`: any bytes that are there


class _Drained(Drain):
    """What `write` returns if there is room: awaiting it does not suspend."""

    __slots__ = ()
    __await__ = staticmethod(().__iter__)  # type: ignore[assignment]

    def send(self, value: Any) -> Any:  # noqa: ARG002
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        return (None for _ in ()).throw(*error)

    def close(self) -> None:
        pass


_DRAINED: Final = _Drained()


class _Drain(Drain):
    """What `write` returns if the link is full: awaiting it waits for room."""

    __slots__ = ("_stream", "_waiting")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting: Coroutine[Any, Any, None] | None = None  # used if a task steps this object

    def __await__(self) -> Generator[Any, None, None]:
        return self._stream._drain().__await__()

    def send(self, value: Any) -> Any:
        if self._waiting is None:
            self._waiting = self._stream._drain()
        return self._waiting.send(value)

    def throw(self, *error: Any) -> Any:
        if self._waiting is None:
            self._waiting = self._stream._drain()
        return self._waiting.throw(*error)

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.close()


class Stream:
    """One connection's reading, writing and closing; `silly.net.conn.Conn` documents them."""

    __slots__ = (
        "__weakref__",
        "_accounted",
        "_all_acked",
        "_batch",
        "_batched",
        "_budget",
        "_bytes_in",
        "_bytes_out",
        "_clock",
        "_close_waiters",
        "_closed",
        "_closing",
        "_delimiter",
        "_direct_piece",
        "_ended",
        "_ended_by",
        "_flush_scheduled",
        "_full",
        "_high_water",
        "_idle_swept",
        "_idle_timeout",
        "_idle_timer",
        "_incoming",
        "_last_activity",
        "_linger",
        "_linger_timer",
        "_link",
        "_loop",
        "_loss",
        "_max_unsent",
        "_on_closed",
        "_opened_at",
        "_opened_tick",
        "_partial",
        "_partial_since",
        "_paused",
        "_read_limit",
        "_reader_notified",
        "_reading",
        "_reads_in_a_row",
        "_room_waiters",
        "_turn",
        "_unsent_seen",
        "_waiter",
        "_wanted",
        "_window_acked",
        "_window_start",
        "_window_written",
        "_writable",
        "_writer_notified",
    )

    def __init__(  # noqa: PLR0915 - it declares the attributes
        self,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        on_closed: Callable[[Any], None],
        *,
        read_limit: int = READ_LIMIT,
        max_unsent: int = MAX_UNSENT,
        linger: float = LINGER,
        idle_timeout: float | None = None,
        idle_swept: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self._link = link
        self._loop = loop
        self._on_closed = on_closed
        self._turn = Turn.of(loop)
        self._clock = loop.time

        # receiving
        self._incoming = ReceiveBuffer()
        self._read_limit = read_limit
        self._paused = False
        self._reading = False  # a task is in a read that had to wait
        self._waiter: asyncio.Future[None] | Trampoline | None = None  # what the reader waits on
        self._delimiter: bytes | None = None  # it wants this delimiter within _wanted bytes ...
        self._wanted = _ALL  # ... or, without a delimiter, this many bytes
        self._reads_in_a_row = 0  # reads without waiting
        self._direct_piece: bytes | None = None  # a piece that bypasses the buffer

        # the end
        self._writable = True  # not closed, half-closed or lost
        self._ended = False  # the peer sent FIN
        self._closing = False  # close() or abort() was called
        self._loss: OSError | None = None  # the error, if this side did not close it ...
        self._reader_notified = self._writer_notified = False  # ... and whether it was raised
        self._closed = False  # the link is closed
        self._linger = linger
        self._linger_timer: asyncio.TimerHandle | None = None
        self._close_waiters: list[asyncio.Future[None]] | None = None

        # sending
        self._batch: list[bytes] = []
        self._batched = 0
        self._flush_scheduled = False
        self._full = False
        self._max_unsent = max_unsent
        self._high_water = HIGH_WATER
        if max_unsent < 2 * HIGH_WATER:
            self.max_unsent = max_unsent
        self._room_waiters: list[asyncio.Future[None]] | None = None

        # the record
        self._bytes_in = 0
        self._bytes_out = 0
        self._opened_at = time.time()
        self._last_activity = self._opened_tick = self._clock()
        self._unsent_seen = 0
        self._idle_timeout: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_swept = idle_swept  # checked by `_check_deadlines`, without a timer
        if idle_swept:
            self._idle_timeout = idle_timeout
        elif idle_timeout is not None:
            self.idle_timeout = idle_timeout

        # the state of `_check_deadlines`
        self._partial = -1  # bytes read before the incomplete read; -1: none
        self._partial_since = 0.0
        self._all_acked = 0  # bytes known to be acknowledged, if that is all of them
        self._window_acked = -1  # bytes acknowledged at the window's start; -1: no window ...
        self._window_written = 0  # ... and bytes written by then
        self._window_start = 0.0
        self._ended_by: str | None = None  # the limit that ended the connection

        self._budget = budget
        self._accounted = 0  # bytes reported to the budget
        link.attach(self)
        link.receive_at_most(read_limit)

    # ---------------------------------------------------------------- reading

    def read(
        self,
        until: bytes | int | None = None,
        *,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Coroutine[Any, Any, bytes]:
        if timeout is not None:
            timeout = seconds_or_none(timeout, "timeout")
        if until is None:
            if limit is not None:
                raise stream_errors.limit_without_delimiter()
            return self._read(None, _ALL, timeout)
        if type(until) is bytes or isinstance(until, Buffer):
            delimiter = until if type(until) is bytes else bytes(until)
            if not delimiter:
                raise stream_errors.empty_delimiter()
            if limit is None:
                limit = self._read_limit
            else:
                size(limit, "limit", least=1)
            return self._read(delimiter, limit, timeout)
        if limit is not None:
            raise stream_errors.limit_without_delimiter()
        if isinstance(until, bool) or not isinstance(until, int):
            raise stream_errors.wrong_type_of_until(until)
        count = size(until, "until")
        return self._read(None, count, timeout) if count else self._read_nothing()

    async def _read(
        self, delimiter: bytes | None, wanted: int, timeout: float | None = None
    ) -> bytes:
        if self._reads_in_a_row >= MAX_READS_IN_A_ROW:
            self._reads_in_a_row = 0
            await asyncio.sleep(0)
        if self._reading or self._closing:
            raise self._reader_error(delimiter, wanted)
        taken = self._take(delimiter, wanted)
        self._reads_in_a_row += 1
        if taken is None:
            if self._ended or self._loss is not None:
                raise self._reader_error(delimiter, wanted)
            timer = None
            if timeout is not None:
                timer = self._loop.call_later(timeout, self._wake_reader)
            try:
                await self._suspend(delimiter, wanted)
                taken = self._direct_piece
                self._direct_piece = None
                if taken is None:
                    taken = self._take(delimiter, wanted)
            finally:
                self._reading = False
                self._waiter = None
                if timer is not None:
                    timer.cancel()
                if taken is None:
                    self._control_flow()
            if taken is None:
                if self._closing or self._ended or self._loss is not None:
                    raise self._reader_error(delimiter, wanted)
                assert timeout is not None
                raise stream_errors.read_timed_out(delimiter, wanted, timeout, self.remote_addr)
        return taken

    _read.__qualname__ = "Conn.read"  # for Python's "was never awaited" warning

    async def _read_nothing(self) -> bytes:
        if self._reading or self._closing:
            raise self._reader_error(None, 0)
        return b""

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        # `_read`, reduced to what a line needs, because most programs spend their time here.
        if self._reads_in_a_row >= MAX_READS_IN_A_ROW:
            self._reads_in_a_row = 0
            await asyncio.sleep(0)
        limit = self._read_limit
        if self._reading or self._closing:
            raise self._reader_error(b"\n", limit)
        taken = self._take(b"\n", limit) if self._incoming.data else None
        self._reads_in_a_row += 1
        if taken is None and not (self._ended or self._loss is not None):
            try:
                await self._suspend(b"\n", limit)
                taken = self._direct_piece
                self._direct_piece = None
                if taken is None:
                    taken = self._take(b"\n", limit)
            finally:
                self._reading = False
                self._waiter = None
                if taken is None:
                    self._control_flow()
        if taken is None:
            if not self._ended or self._closing:
                raise self._reader_error(b"\n", limit)
            if not self._incoming.data:
                raise StopAsyncIteration
            return self._incoming.take(len(self._incoming))
        return taken

    def _find(self, delimiter: bytes | None, wanted: int) -> int:
        """Return how many bytes this read would return now (see `ReceiveBuffer.find`)."""
        if delimiter is not None:
            return self._incoming.find(delimiter, wanted)
        held = len(self._incoming)
        if wanted == _ALL:
            return held
        return wanted if held >= wanted else INCOMPLETE

    def _take(self, delimiter: bytes | None, wanted: int) -> bytes | None:
        """Take and return the result of this read; None if it is incomplete."""
        incoming = self._incoming
        count = self._find(delimiter, wanted)
        if count == INCOMPLETE:
            return None
        if count == TOO_LONG:
            assert delimiter is not None
            self._control_flow()
            raise stream_errors.limit_exceeded(self, delimiter, wanted)
        taken = incoming.take(count)
        if self._accounted:
            self._account()
        if self._paused and len(incoming) <= self._read_limit // 2:
            self._resume()
        return taken

    def _suspend(self, delimiter: bytes | None, wanted: int) -> Awaitable[None]:
        """Return an awaitable that waits until this read is complete, or cannot be completed."""
        if self._batch:
            self._flush()
        if self._paused:
            self._resume()
        self._delimiter = delimiter
        self._wanted = wanted
        self._reading = True
        self._reads_in_a_row = 0
        trampoline = current_trampoline(self._loop)
        if trampoline is not None:
            self._waiter = trampoline
            return PARKING
        self._waiter = future = self._loop.create_future()
        return future

    def _wake_reader(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _reader_error(self, delimiter: bytes | None, wanted: int) -> Exception:
        """Return the error that this read raises in the stream's present state."""
        if self._closing:
            return stream_errors.closed(self)
        if self._reading:
            return stream_errors.concurrent_read(self.remote_addr)
        if self._ended or self._loss is None:
            unread = self._incoming.peek()
            return stream_errors.end_of_stream(self, delimiter, wanted, unread)
        repeated, self._reader_notified = self._reader_notified, True
        return stream_errors.connection_lost(self, self._loss, repeated=repeated)

    # ----------------------------------------------------------- flow control

    def _control_flow(self) -> None:
        """Pause the link if `read_limit` bytes are unread and no read waits for more."""
        incoming = self._incoming
        if (
            incoming.data
            and self._waiter is None
            and len(incoming) >= self._read_limit
            and not (self._paused or self._closing or self._ended or self._closed)
        ):
            self._paused = True
            self._link.pause()

    def _resume(self) -> None:
        self._paused = False
        if not (self._ended or self._closed):
            self._link.resume()

    def _account(self) -> None:
        """Report the change in unread and unsent bytes to the budget."""
        if self._budget is not None:
            held = len(self._incoming) + (0 if self._closed else self._link.unsent())
            change = held - self._accounted
            if change:
                self._accounted = held
                self._budget.change(change)

    # ---------------------------------------------------------------- writing

    def write(self, data: Buffer | Iterable[Buffer]) -> Drain:
        pieces: list[bytes] | None = None
        if type(data) is bytes:
            length = len(data)
        else:
            pieces = stream_errors.as_pieces(data)
            length = sum(map(len, pieces))
        if not self._writable:
            raise self._writer_error()
        batched = self._batched + length
        if self._full or batched > HIGH_WATER or batched > self._max_unsent:
            return self._write_at_once([data] if pieces is None else pieces, length)  # type: ignore[list-item]
        if length:
            if pieces is None:
                self._batch.append(data)  # type: ignore[arg-type]
            else:
                self._batch += pieces
            self._batched = batched
            if not self._flush_scheduled:
                self._flush_scheduled = True
                self._last_activity = self._clock()
                self._turn.add(self, self._loop)
        return _DRAINED

    def _write_at_once(self, pieces: list[bytes], length: int) -> Drain:
        """Send now, because the queue or the batch is long: there is no point in batching."""
        self._flush()
        unsent = self._link.unsent()
        # A nearly empty queue takes a write of any length. Otherwise a large write could
        # never be sent, and a task that awaits each write could be refused.
        if unsent + length > self._max_unsent and unsent > self._high_water:
            raise stream_errors.queue_full(self, unsent, length, self._max_unsent)
        self._batch += pieces
        self._batched = length
        self._last_activity = self._clock()
        self._flush()
        if self._full:
            return _Drain(self)
        # The peer accepts everything at once, or the link is lost and reports it only in the
        # loop's next turn: let other tasks run after some writes.
        self._reads_in_a_row += _LARGE_WRITE_COST
        if self._reads_in_a_row < MAX_READS_IN_A_ROW:
            return _DRAINED
        self._reads_in_a_row = 0
        return _Drain(self)

    def _flush(self) -> None:
        batch = self._batch
        if not batch:
            return
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        batch.clear()
        self._batched = 0
        self._bytes_out += len(data)
        self._link.send(data)

    def end_of_turn(self) -> None:
        """Send the batch (called by `Turn`)."""
        self._flush_scheduled = False
        if self._batch:
            self._flush()

    async def _drain(self) -> None:
        if not self._full:
            await asyncio.sleep(0)  # let other tasks run
        while self._full and self._writable:
            waiter = self._loop.create_future()
            if self._room_waiters is None:
                self._room_waiters = []
            self._room_waiters.append(waiter)
            await waiter
        if self._closing or self._loss is not None:
            raise self._writer_error()

    def _writer_error(self) -> Exception:
        if self._closing:
            return stream_errors.closed(self)
        if self._loss is not None:
            repeated, self._writer_notified = self._writer_notified, True
            return stream_errors.connection_lost(self, self._loss, repeated=repeated)
        return stream_errors.half_closed(self)

    def _wake_writers(self) -> None:
        waiters, self._room_waiters = self._room_waiters, None
        if waiters is not None:
            _wake_all(waiters)

    # ---------------------------------------------------------------- closing

    def close_write(self) -> None:
        if not self._writable:
            return
        self._flush()
        self._writable = False
        self._wake_writers()
        self._link.finish()

    def close(self) -> None:
        if self._closing:
            return
        if self._writable:
            self._flush()
        self._enter_closing()
        if self._closed:
            return
        if self._link.unsent() == 0:
            self._close_sent()
        elif self._linger == 0:
            self.abort()
        else:
            self._start_linger()
            self._full = True  # until the link reports that the queue is empty
            self._link.call_when_empty()

    def abort(self) -> None:
        self._batch.clear()
        self._batched = 0
        self._enter_closing()
        if not self._closed:
            self._bytes_out -= self._link.unsent()
            self._link.abort()

    def _enter_closing(self) -> None:
        self._closing = True
        self._writable = False
        self._incoming.clear()
        if self._accounted:
            self._account()
        if self._waiter is not None:
            self._wake_reader()
        if self._room_waiters is not None:
            self._wake_writers()

    def _close_sent(self) -> None:
        """Continue closing: the operating system has the whole queue."""
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
        if self._link.unsent():
            self._ended_by = "linger"
            self.abort()
        else:
            self._link.close()

    async def wait_closed(self) -> None:
        if not self._closed:
            waiter = self._loop.create_future()
            if self._close_waiters is None:
                self._close_waiters = []
            self._close_waiters.append(waiter)
            await waiter

    # ------------------------------------------------------ calls from the link

    def received(self, piece: bytes) -> None:
        """Take *piece*, and step the reader if it completes its read."""
        self._bytes_in += len(piece)
        self._last_activity = self._clock()
        incoming = self._incoming
        waiter = self._waiter
        if waiter is None:
            if not self._closing:
                incoming.feed(piece)
                self._control_flow()
                self._account()
            return
        delimiter, wanted = self._delimiter, self._wanted
        if not incoming.data and (
            wanted in (_ALL, len(piece))
            if delimiter is None
            else piece.endswith(delimiter)
            and piece.find(delimiter, 0, wanted) + len(delimiter) == len(piece)
        ):
            self._direct_piece = piece  # exactly what the reader waits for
        else:
            incoming.feed(piece)
            if self._find(delimiter, wanted) == INCOMPLETE:
                self._account()
                return
        self._waiter = None
        # What the reader writes is sent below, without going through the loop's queue.
        scheduled, self._flush_scheduled = self._flush_scheduled, True
        stepped = type(waiter) is Trampoline and waiter.step()
        self._flush_scheduled = scheduled
        if not stepped:
            if self._direct_piece is not None:
                incoming.feed(self._direct_piece)
                self._direct_piece = None
            if not waiter.done():
                waiter.set_result(None)
        elif self._batch and not scheduled:
            self._flush()
        if incoming.data:
            self._control_flow()
            self._account()

    def ended(self) -> None:
        """Handle the peer's FIN."""
        self._ended = True
        if not self._closing:
            self._wake_reader()
        elif self._link.unsent() == 0:
            self._link.close()

    def full(self) -> None:
        """Make writers wait."""
        self._full = True
        self._account()

    def has_room(self) -> None:
        """Wake waiting writers, or continue closing."""
        self._full = False
        if self._accounted:
            self._account()
        if not self._closing:
            self._wake_writers()
        elif not self._closed:
            self._close_sent()

    def lost(self, error: OSError | None) -> None:
        """Handle the end of the link."""
        self._mark_closed(error)
        if self._accounted:
            self._account()
        self._wake_reader()
        self._wake_writers()
        waiters, self._close_waiters = self._close_waiters, None
        if waiters is not None:
            _wake_all(waiters)
        self._on_closed(self)

    def _mark_closed(self, error: OSError | None) -> None:
        if self._loss is None and not self._closing:
            self._loss = stream_errors.cause_of_loss(error)
        self._closed = True
        self._full = self._writable = False
        self._batch.clear()
        self._batched = 0
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    # ---------------------------------------------------------------- idleness

    @property
    def idle_timeout(self) -> float | None:
        return self._idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, value: float | None) -> None:
        value = positive_seconds(value, "idle_timeout")
        self._idle_timeout = value
        self._idle_swept = False
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if value is not None and not self._closed:
            self._arm_idle_timer(self._last_activity + value)

    def _arm_idle_timer(self, when: float) -> None:
        self._idle_timer = self._loop.call_at(when, self._check_idle)

    def _check_idle(self) -> None:
        """Close if no bytes moved for `idle_timeout`, else set the timer again.

        So a message does not reset the timer: it only notes the time.
        """
        self._idle_timer = None
        if self._closing or self._loss is not None:
            return  # bounded by linger, or already ending
        due = self._idle_until()
        if self._clock() < due - 0.001:
            self._arm_idle_timer(due)
        else:
            self._end_idle()

    def _idle_until(self) -> float:
        """Return when the idle timeout expires if no more bytes move."""
        assert self._idle_timeout is not None
        unsent = self._link.unsent()
        if unsent != self._unsent_seen:  # the peer took bytes, or more were written
            self._unsent_seen = unsent
            self._last_activity = self._clock()
        return self._last_activity + self._idle_timeout

    def _end_idle(self) -> None:
        assert self._idle_timeout is not None
        self._end("idle_timeout", stream_errors.idle_timed_out(self._idle_timeout))

    def _end_for_limit(self, limit: str, error: OSError) -> None:
        """End the connection because of *limit*, unless it is ending already.

        For ``"memory_budget"``, discard its unread bytes, and reset it even if it lingers.
        """
        over_budget = limit == "memory_budget"
        if over_budget:
            self._incoming.clear()
            self._account()
        if self._closed:
            return
        if not (self._closing or self._loss is not None):
            self._end(limit, error)
        elif over_budget:  # it is lingering
            self._ended_by = limit
            self.abort()

    def _end(self, limit: str, error: OSError) -> None:
        """End the connection because of *limit*; reset it if the peer has not acknowledged all."""
        self._ended_by = limit
        self._loss = error
        self._writable = False
        if limit == "memory_budget" or self._acknowledged() < self._bytes_out:
            self._link.abort()
        else:
            self._link.close()
        self._wake_reader()
        self._wake_writers()

    # --------------------------------------------------------------- deadlines

    def _check_deadlines(self, now: float, deadlines: Deadlines) -> None:
        """End the connection if one of *deadlines* has passed at *now*.

        Called periodically. It uses only counters that are kept anyway, so that deadlines
        cost nothing when bytes move.
        """
        first_byte_timeout, read_deadline, receive_rate, send_rate, send_window = deadlines
        if self._closing or self._closed or self._loss is not None:
            return
        if self._accounted:
            self._account()
        if self._check_send_rate(now, send_rate, send_window):
            return
        unread = len(self._incoming)
        if self._waiter is None:
            self._partial = -1
        elif unread:
            taken = self._bytes_in - unread
            if taken != self._partial:
                self._partial, self._partial_since = taken, now
            elif now - self._partial_since >= read_deadline + unread / receive_rate:
                self._end(
                    "read_deadline", stream_errors.read_deadline_passed(unread, read_deadline)
                )
                return
        elif not (self._bytes_in or self._bytes_out or self._batch) and (
            now - self._opened_tick >= first_byte_timeout
        ):
            self._end("first_byte_timeout", stream_errors.first_byte_timed_out(first_byte_timeout))
            return
        if self._idle_swept and self._idle_timeout is not None and now >= self._idle_until():
            self._end_idle()

    def _check_send_rate(self, now: float, rate: float, window: float) -> bool:
        """Check the rate at which the peer takes bytes; return if that ended the connection."""
        written = self._bytes_out
        acked = written
        if rate and written != self._all_acked:
            acked = self._acknowledged()
        if acked >= written:
            self._all_acked = written
            self._window_acked = -1
            return False
        if self._window_acked >= 0 and acked < self._window_written:  # the window is open
            if now - self._window_start < window:
                return False
            if acked - self._window_acked < rate * (now - self._window_start):
                self._end("min_send_rate", stream_errors.send_rate_too_low(rate, window))
                return True
        self._window_acked, self._window_written, self._window_start = acked, written, now
        return False

    def _acknowledged(self) -> int:
        """Return how many of the written bytes the peer acknowledged."""
        return self._bytes_out - self._link.unsent() - self._link.in_flight()

    @property
    def _held_bytes(self) -> int:
        """Bytes held, unread and unsent, as reported to the budget."""
        return self._accounted

    @property
    def _client(self) -> bytes:
        """The peer's IP address as packed bytes (see `Gate`)."""
        return packed_ip(self._link.remote_sockaddr)

    # -------------------------------------------------------------- properties

    @property
    def is_alive(self) -> bool:
        return not self._closing and self._loss is None

    @property
    def _is_closing(self) -> bool:
        return self._closing

    @property
    def _is_closed(self) -> bool:
        return self._closed

    @property
    def _is_ended(self) -> bool:
        """Whether the peer finished sending."""
        return self._ended

    @property
    def _waits_for(self) -> str | None:
        """A description of what a reader or writer waits for; None if no task waits."""
        if self._waiter is not None:
            return stream_errors.describe_read(self._delimiter, self._wanted)
        if self._room_waiters:
            return stream_errors.describe_write(self.unsent_bytes)
        return None

    @property
    def unread_bytes(self) -> int:
        return len(self._incoming)

    @property
    def unsent_bytes(self) -> int:
        return self._batched + (0 if self._closed else self._link.unsent())

    @property
    def read_limit(self) -> int:
        return self._read_limit

    @read_limit.setter
    def read_limit(self, value: int) -> None:
        self._read_limit = size(value, "read_limit", least=1)
        if not self._closed:
            self._link.receive_at_most(value)
        if self._paused and len(self._incoming) < value:
            self._resume()
        else:
            self._control_flow()

    @property
    def max_unsent(self) -> int:
        return self._max_unsent

    @max_unsent.setter
    def max_unsent(self, value: int) -> None:
        self._max_unsent = size(value, "max_unsent", least=1)
        # Writers wait long before they are refused, so a task that awaits each write never is.
        high_water = min(HIGH_WATER, value // 2)
        if high_water != self._high_water:
            self._high_water = high_water
            if not self._closed:
                self._link.set_high_water(high_water)

    @property
    def linger(self) -> float:
        return self._linger

    @linger.setter
    def linger(self, value: float) -> None:
        self._linger = seconds(value, "linger")

    @property
    def _local_sockaddr(self) -> Any:
        return self._link.local_sockaddr

    @property
    def _remote_sockaddr(self) -> Any:
        return self._link.remote_sockaddr

    if TYPE_CHECKING:  # defined by Conn

        @property
        def remote_addr(self) -> str: ...

    @property
    def _counts(self) -> tuple[int, int]:
        """Bytes received, and bytes sent (not counting those that the link has queued)."""
        return self._bytes_in, self._bytes_out - (0 if self._closed else self._link.unsent())

    @property
    def _times(self) -> tuple[float, float]:
        """When the connection was opened and when bytes last moved (seconds since the epoch)."""
        return self._opened_at, self._opened_at + (self._last_activity - self._opened_tick)


def _wake_all(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
