"""One connection's bytes: what reading, writing and closing mean, over any link.

Reading
    Arrived bytes wait in a `ReceiveBuffer`. A read that they satisfy returns at
    once; else the reader suspends, and each piece that arrives is matched
    against what it wants, so it wakes once, when its read is complete. Bytes
    leave the buffer only in the step in which the reader returns them: whatever
    ends a read early (timeout, cancellation, limit, end of stream) loses none.
    A piece that comes while nothing is unread and is all that the reader wants
    does not go through the buffer: if the reader can be stepped there and then
    (trampoline.py), it is handed the piece itself. Only one task may wait at a
    time.

Flow control
    The link is paused only while `read_limit` bytes are unread and no read waits
    for more; it is resumed when half of that was read or a read waits.

Writing
    Writes gather in a batch that leaves as one send (turn.py). While the link
    is full, `await write()` waits. What would take the queue past
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
reset, network error,   that error (a timeout    likewise
timeout                 only the first time)
======================  =======================  ================================

Closing is not over when the queue is in the kernel's hands: a socket closed
while it holds unread bytes answers with RST, and the kernel then drops what the
peer has not acknowledged (RFC 2525, section 2.17). So where the peer is still
talking, FIN is sent first and its bytes are thrown away until it finishes or
`linger` runs out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from typing import TYPE_CHECKING, Any, Final

from silly._arguments import positive_seconds, seconds, seconds_or_none, size
from silly._engine import complaints
from silly._engine.complaints import Buffer
from silly._engine.interface import Budget, Deadlines, Link, Room, packed
from silly._engine.receive_buffer import INCOMPLETE, TOO_LONG, ReceiveBuffer
from silly._engine.trampoline import PARKING, Trampoline, parking
from silly._engine.turn import Turn

__all__ = ["LINGER", "MAX_UNSENT", "READ_LIMIT", "Stream"]

READ_LIMIT: Final = 1024 * 1024  # bytes
MAX_UNSENT: Final = 16 * 1024 * 1024  # bytes
LINGER: Final = 10.0  # seconds
HIGH_WATER: Final = 64 * 1024  # bytes: a batch this large leaves at once
IN_A_ROW: Final = 1000  # reads that need not wait, until others have their turn ...
_LARGE_WRITE: Final = 50  # ... and for how many of these a large write counts

_ALL: Final = 0  # the wanted count of `read()`: whatever is there


class _HasRoom(Room):
    """What `write` returns when there is room: awaiting it does not suspend."""

    __slots__ = ()
    __await__ = staticmethod(().__iter__)  # type: ignore[assignment]

    def send(self, value: Any) -> Any:  # noqa: ARG002
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        return (None for _ in ()).throw(*error)

    def close(self) -> None:
        pass


_HAS_ROOM: Final = _HasRoom()


class _Room(Room):
    """What `write` returns when the link is full: awaiting it waits for room."""

    __slots__ = ("_stream", "_waiting")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting: Coroutine[Any, Any, None] | None = None  # what a task made of it steps

    def __await__(self) -> Generator[Any, None, None]:
        return self._stream._wait_for_room().__await__()

    def send(self, value: Any) -> Any:
        if self._waiting is None:
            self._waiting = self._stream._wait_for_room()
        return self._waiting.send(value)

    def throw(self, *error: Any) -> Any:
        if self._waiting is None:
            self._waiting = self._stream._wait_for_room()
        return self._waiting.throw(*error)

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.close()


class Stream:
    """One connection's reading, writing and closing, as `silly.net.conn.Conn` says."""

    __slots__ = (
        "__weakref__",
        "_accounted",
        "_acked",
        "_acked_since",
        "_all_acked",
        "_batch",
        "_batched",
        "_budget",
        "_bytes_in",
        "_bytes_out",
        "_clock",
        "_closing",
        "_delimiter",
        "_ended",
        "_ended_by",
        "_full",
        "_gone",
        "_handed",
        "_high_water",
        "_idle_swept",
        "_idle_timeout",
        "_idle_timer",
        "_in_a_row",
        "_in_turn",
        "_incoming",
        "_last_activity",
        "_linger",
        "_linger_timer",
        "_link",
        "_loop",
        "_loss",
        "_max_unsent",
        "_on_gone",
        "_opened_at",
        "_opened_tick",
        "_owed",
        "_partial",
        "_partial_since",
        "_paused",
        "_read_limit",
        "_reader_told",
        "_reading",
        "_turn",
        "_unsent_seen",
        "_waiter",
        "_wake_on_gone",
        "_wake_on_room",
        "_wanted",
        "_writable",
        "_writer_told",
    )

    def __init__(  # noqa: PLR0915 - it says what there is
        self,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        on_gone: Callable[[Any], None],
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
        self._on_gone = on_gone
        self._turn = Turn.of(loop)
        self._clock = loop.time

        # receiving
        self._incoming = ReceiveBuffer()
        self._read_limit = read_limit
        self._paused = False
        self._reading = False  # a task is inside a read that had to wait
        self._waiter: asyncio.Future[None] | Trampoline | None = None  # what it waits on
        self._delimiter: bytes | None = None  # what it wants: this, within _wanted bytes ...
        self._wanted = _ALL  # ... or, without a delimiter, this many bytes
        self._in_a_row = 0  # reads that did not wait
        self._handed: bytes | None = None  # it, from `received` straight to the reader

        # the end
        self._writable = True  # neither closed, nor half-closed, nor lost
        self._ended = False  # the peer sent FIN
        self._closing = False  # close() or abort() was called
        self._loss: OSError | None = None  # why it ended, if this side did not close it ...
        self._reader_told = self._writer_told = False  # ... and who was told
        self._gone = False  # the link is gone
        self._linger = linger
        self._linger_timer: asyncio.TimerHandle | None = None
        self._wake_on_gone: list[asyncio.Future[None]] | None = None

        # sending
        self._batch: list[bytes] = []
        self._batched = 0
        self._in_turn = False
        self._full = False
        self._max_unsent = max_unsent
        self._high_water = HIGH_WATER
        if max_unsent < 2 * HIGH_WATER:
            self.max_unsent = max_unsent
        self._wake_on_room: list[asyncio.Future[None]] | None = None

        # the record
        self._bytes_in = 0
        self._bytes_out = 0
        self._opened_at = time.time()
        self._last_activity = self._opened_tick = self._clock()
        self._unsent_seen = 0
        self._idle_timeout: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_swept = idle_swept  # `_look_back` sees to it, not a timer
        if idle_swept:
            self._idle_timeout = idle_timeout
        elif idle_timeout is not None:
            self.idle_timeout = idle_timeout

        # what `_look_back` saw last
        self._partial = -1  # bytes read before those that a reader waits to complete; or -1
        self._partial_since = 0.0
        self._all_acked = 0  # of _bytes_out: so many the peer is known to have
        self._acked = -1  # bytes that the peer had, when it did not have all; or -1 ...
        self._owed = 0  # ... and how many had been written then
        self._acked_since = 0.0
        self._ended_by: str | None = None  # the limit that ended it

        self._budget = budget
        self._accounted = 0  # bytes that the budget was told of
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
                raise complaints.limit_without_delimiter()
            return self._read(None, _ALL, timeout)
        if type(until) is bytes or isinstance(until, Buffer):
            delimiter = until if type(until) is bytes else bytes(until)
            if not delimiter:
                raise complaints.empty_delimiter()
            if limit is None:
                limit = self._read_limit
            else:
                size(limit, "limit", least=1)
            return self._read(delimiter, limit, timeout)
        if limit is not None:
            raise complaints.limit_without_delimiter()
        if isinstance(until, bool) or not isinstance(until, int):
            raise complaints.until_of_wrong_type(until)
        count = size(until, "until")
        return self._read(None, count, timeout) if count else self._read_nothing()

    async def _read(
        self, delimiter: bytes | None, wanted: int, timeout: float | None = None
    ) -> bytes:
        if self._in_a_row >= IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)
        if self._reading or self._closing:
            raise self._reader_error(delimiter, wanted)
        taken = self._take(delimiter, wanted)
        self._in_a_row += 1
        if taken is None:
            if self._ended or self._loss is not None:
                raise self._reader_error(delimiter, wanted)
            timer = None
            if timeout is not None:
                timer = self._loop.call_later(timeout, self._wake_reader)
            try:
                await self._waiting_for(delimiter, wanted)
                taken = self._handed
                self._handed = None
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
                raise complaints.read_timed_out(delimiter, wanted, timeout, self.remote_addr)
        return taken

    _read.__qualname__ = "Conn.read"  # as a program calls it: Python names what was not awaited

    async def _read_nothing(self) -> bytes:
        if self._reading or self._closing:
            raise self._reader_error(None, 0)
        return b""

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        # `_read` again, without what a line does not need: most programs spend their time here.
        if self._in_a_row >= IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)
        limit = self._read_limit
        if self._reading or self._closing:
            raise self._reader_error(b"\n", limit)
        taken = self._take(b"\n", limit) if self._incoming.data else None
        self._in_a_row += 1
        if taken is None and not (self._ended or self._loss is not None):
            try:
                await self._waiting_for(b"\n", limit)
                taken = self._handed
                self._handed = None
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
        """How many unread bytes such a read would return now (as `ReceiveBuffer.find`)."""
        if delimiter is not None:
            return self._incoming.find(delimiter, wanted)
        held = len(self._incoming)
        if wanted == _ALL:
            return held
        return wanted if held >= wanted else INCOMPLETE

    def _take(self, delimiter: bytes | None, wanted: int) -> bytes | None:
        """Take what such a read returns; None: it is not all there."""
        incoming = self._incoming
        count = self._find(delimiter, wanted)
        if count == INCOMPLETE:
            return None
        if count == TOO_LONG:
            assert delimiter is not None
            self._control_flow()
            raise complaints.limit_exceeded(self, delimiter, wanted)
        taken = incoming.take(count)
        if self._accounted:
            self._account()
        if self._paused and len(incoming) <= self._read_limit // 2:
            self._resume()
        return taken

    def _waiting_for(self, delimiter: bytes | None, wanted: int) -> Awaitable[None]:
        """Return what suspends the reader until such a read is complete, or never will be."""
        if self._batch:
            self._flush()
        if self._paused:
            self._resume()
        self._delimiter = delimiter
        self._wanted = wanted
        self._reading = True
        self._in_a_row = 0
        trampoline = parking(self._loop)
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
        """Why such a read cannot be, in the state that this stream is in."""
        if self._closing:
            return complaints.closed(self)
        if self._reading:
            return complaints.concurrent_read(self.remote_addr)
        if self._ended or self._loss is None:
            unread = self._incoming.peek()
            return complaints.end_of_stream(self, delimiter, wanted, unread)
        told, self._reader_told = self._reader_told, True
        return complaints.loss(self, self._loss, told=told)

    # ----------------------------------------------------------- flow control

    def _control_flow(self) -> None:
        """Pause the link if it brought as much as may stay unread, and no read waits for more."""
        incoming = self._incoming
        if (
            incoming.data
            and self._waiter is None
            and len(incoming) >= self._read_limit
            and not (self._paused or self._closing or self._ended or self._gone)
        ):
            self._paused = True
            self._link.pause()

    def _resume(self) -> None:
        self._paused = False
        if not (self._ended or self._gone):
            self._link.resume()

    def _account(self) -> None:
        """Tell the budget how many bytes are held now, unread and unsent."""
        if self._budget is not None:
            held = len(self._incoming) + (0 if self._gone else self._link.unsent())
            change = held - self._accounted
            if change:
                self._accounted = held
                self._budget.change(change)

    # ---------------------------------------------------------------- writing

    def write(self, data: Buffer | Iterable[Buffer]) -> Room:
        pieces: list[bytes] | None = None
        if type(data) is bytes:
            length = len(data)
        else:
            pieces = complaints.as_pieces(data)
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
            if not self._in_turn:
                self._in_turn = True
                self._last_activity = self._clock()
                self._turn.add(self, self._loop)
        return _HAS_ROOM

    def _write_at_once(self, pieces: list[bytes], length: int) -> Room:
        """Write where the queue is long, or becomes so: no point in waiting for more."""
        self._flush()
        unsent = self._link.unsent()
        # A queue that is nearly empty takes a write of any length: else a large
        # one could never leave, and who awaits each write could be refused.
        if unsent + length > self._max_unsent and unsent > self._high_water:
            raise complaints.queue_full(self, unsent, length, self._max_unsent)
        self._batch += pieces
        self._batched = length
        self._last_activity = self._clock()
        self._flush()
        if self._full:
            return _Room(self)
        # A peer that takes all at once, or a link that is lost and does not say so before the
        # loop's next turn: others have a turn after some writes.
        self._in_a_row += _LARGE_WRITE
        if self._in_a_row < IN_A_ROW:
            return _HAS_ROOM
        self._in_a_row = 0
        return _Room(self)

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
        """Send what was written in this turn (called by `Turn`)."""
        self._in_turn = False
        if self._batch:
            self._flush()

    async def _wait_for_room(self) -> None:
        if not self._full:
            await asyncio.sleep(0)  # others have their turn
        while self._full and self._writable:
            waiter = self._loop.create_future()
            if self._wake_on_room is None:
                self._wake_on_room = []
            self._wake_on_room.append(waiter)
            await waiter
        if self._closing or self._loss is not None:
            raise self._writer_error()

    def _writer_error(self) -> Exception:
        if self._closing:
            return complaints.closed(self)
        if self._loss is not None:
            told, self._writer_told = self._writer_told, True
            return complaints.loss(self, self._loss, told=told)
        return complaints.half_closed(self)

    def _wake_writers(self) -> None:
        waiters, self._wake_on_room = self._wake_on_room, None
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
        if self._gone:
            return
        if self._link.unsent() == 0:
            self._close_sent()
        elif self._linger == 0:
            self.abort()
        else:
            self._start_linger()
            self._full = True  # until the link says that the queue is empty
            self._link.call_when_empty()

    def abort(self) -> None:
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
        if self._accounted:
            self._account()
        if self._waiter is not None:
            self._wake_reader()
        if self._wake_on_room is not None:
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
        if self._link.unsent():
            self._ended_by = "linger"
            self.abort()
        else:
            self._link.close()

    async def wait_closed(self) -> None:
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
            self._handed = piece  # from end to end what the reader waits for
        else:
            incoming.feed(piece)
            if self._find(delimiter, wanted) == INCOMPLETE:
                self._account()
                return
        self._waiter = None
        # What the reader writes is sent below: without a visit to the loop's queue.
        in_turn, self._in_turn = self._in_turn, True
        stepped = type(waiter) is Trampoline and waiter.step()
        self._in_turn = in_turn
        if not stepped:
            if self._handed is not None:
                incoming.feed(self._handed)
                self._handed = None
            if not waiter.done():
                waiter.set_result(None)
        elif self._batch and not in_turn:
            self._flush()
        if incoming.data:
            self._control_flow()
            self._account()

    def ended(self) -> None:
        """Note that the peer finished sending."""
        self._ended = True
        if not self._closing:
            self._wake_reader()
        elif self._link.unsent() == 0:
            self._link.close()

    def full(self) -> None:
        """Have writers wait."""
        self._full = True
        self._account()

    def has_room(self) -> None:
        """Let waiting writers go on, or closing."""
        self._full = False
        if self._accounted:
            self._account()
        if not self._closing:
            self._wake_writers()
        elif not self._gone:
            self._close_sent()

    def lost(self, error: OSError | None) -> None:
        """Note that the link is gone."""
        self._mark_lost(error)
        if self._accounted:
            self._account()
        self._wake_reader()
        self._wake_writers()
        waiters, self._wake_on_gone = self._wake_on_gone, None
        if waiters is not None:
            _wake_all(waiters)
        self._on_gone(self)

    def _mark_lost(self, error: OSError | None) -> None:
        if self._loss is None and not self._closing:
            self._loss = complaints.lost(error)
        self._gone = True
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
        if value is not None and not self._gone:
            self._arm_idle_timer(self._last_activity + value)

    def _arm_idle_timer(self, when: float) -> None:
        self._idle_timer = self._loop.call_at(when, self._check_idle)

    def _check_idle(self) -> None:
        """Close if nothing moved for `idle_timeout`, else look again when that could be.

        One timer that looks back, instead of one that every message resets.
        """
        self._idle_timer = None
        if self._closing or self._loss is not None:
            return  # bounded by linger, or on its way out
        due = self._idle_until()
        if self._clock() < due - 0.001:
            self._arm_idle_timer(due)
        else:
            self._end_idle()

    def _idle_until(self) -> float:
        """When it will have been idle for `idle_timeout`, as far as can be told now."""
        assert self._idle_timeout is not None
        unsent = self._link.unsent()
        if unsent != self._unsent_seen:  # the peer took some, or there is more for it
            self._unsent_seen = unsent
            self._last_activity = self._clock()
        return self._last_activity + self._idle_timeout

    def _end_idle(self) -> None:
        assert self._idle_timeout is not None
        self._end("idle_timeout", complaints.idle(self._idle_timeout))

    def _end_for(self, limit: str, error: OSError) -> None:
        """End the connection because of *limit*, if it is not at its end already.

        For ``"memory_budget"`` it is whatever its state, and what is unread is dropped.
        """
        over_budget = limit == "memory_budget"
        if over_budget:
            self._incoming.clear()
            self._account()
        if self._gone:
            return
        if not (self._closing or self._loss is not None):
            self._end(limit, error)
        elif over_budget:  # it lingers
            self._ended_by = limit
            self.abort()

    def _end(self, limit: str, error: OSError) -> None:
        """End the connection because of *limit*; reset it if the peer has not taken all."""
        self._ended_by = limit
        self._loss = error
        self._writable = False
        if limit == "memory_budget" or self._acknowledged() < self._bytes_out:
            self._link.abort()
        else:
            self._link.close()
        self._wake_reader()
        self._wake_writers()

    # ------------------------------------------------------------ looking back

    def _look_back(self, now: float, deadlines: Deadlines) -> None:
        """End the connection if one of *deadlines* has passed.

        Called every so often. What it compares is counted anyway: nothing is
        noted down when bytes move.
        """
        first_byte_timeout, read_deadline, receive_rate, send_rate, send_window = deadlines
        if self._closing or self._gone or self._loss is not None:
            return
        if self._accounted:
            self._account()
        if self._looked_at_sending(now, send_rate, send_window):
            return
        unread = len(self._incoming)
        if self._waiter is None:
            self._partial = -1
        elif unread:
            taken = self._bytes_in - unread
            if taken != self._partial:
                self._partial, self._partial_since = taken, now
            elif now - self._partial_since >= read_deadline + unread / receive_rate:
                self._end("read_deadline", complaints.unfinished(unread, read_deadline))
                return
        elif not (self._bytes_in or self._bytes_out or self._batch) and (
            now - self._opened_tick >= first_byte_timeout
        ):
            self._end("first_byte_timeout", complaints.no_first_byte(first_byte_timeout))
            return
        if self._idle_swept and self._idle_timeout is not None and now >= self._idle_until():
            self._end_idle()

    def _looked_at_sending(self, now: float, rate: float, window: float) -> bool:
        """See to bytes that wait to be taken, here or in the kernel; tell if that ended it."""
        written = self._bytes_out
        acked = written
        if rate and written != self._all_acked:
            acked = self._acknowledged()
        if acked >= written:
            self._all_acked = written
            self._acked = -1
            return False
        if self._acked >= 0 and acked < self._owed:  # of what was owed then, some still is
            if now - self._acked_since < window:
                return False
            if acked - self._acked < rate * (now - self._acked_since):
                self._end("min_send_rate", complaints.not_taken(rate, window))
                return True
        self._acked, self._owed, self._acked_since = acked, written, now
        return False

    def _acknowledged(self) -> int:
        """How many of the written bytes the peer has."""
        return self._bytes_out - self._link.unsent() - self._link.in_flight()

    @property
    def _held(self) -> int:
        """Bytes that it holds, unread and unsent, as the budget was told."""
        return self._accounted

    @property
    def _client(self) -> bytes:
        """The peer's address as a `Gate` takes it."""
        return packed(self._link.remote_sockaddr)

    # -------------------------------------------------------------- properties

    @property
    def is_alive(self) -> bool:
        return not self._closing and self._loss is None

    @property
    def _is_closing(self) -> bool:
        return self._closing

    @property
    def _is_gone(self) -> bool:
        return self._gone

    @property
    def _is_ended(self) -> bool:
        """True once the peer finished sending."""
        return self._ended

    @property
    def _lost_by(self) -> OSError | None:
        """Why it ended, if this side did not close it."""
        return self._loss

    @property
    def _waits_for(self) -> str | None:
        """What its reader or its writers wait for, in words; None: nobody waits."""
        if self._waiter is not None:
            return complaints.waits_for_bytes(self._delimiter, self._wanted)
        if self._wake_on_room:
            return complaints.waits_for_room(self.unsent_bytes)
        return None

    @property
    def unread_bytes(self) -> int:
        return len(self._incoming)

    @property
    def unsent_bytes(self) -> int:
        return self._batched + (0 if self._gone else self._link.unsent())

    @property
    def read_limit(self) -> int:
        return self._read_limit

    @read_limit.setter
    def read_limit(self, value: int) -> None:
        self._read_limit = size(value, "read_limit", least=1)
        if not self._gone:
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
        # Writers wait long before they are refused: who awaits each write never is.
        high_water = min(HIGH_WATER, value // 2)
        if high_water != self._high_water:
            self._high_water = high_water
            if not self._gone:
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

    if TYPE_CHECKING:  # Conn has it

        @property
        def remote_addr(self) -> str: ...

    @property
    def _counts(self) -> tuple[int, int]:
        """Bytes received, and bytes that the link took and has not queued."""
        return self._bytes_in, self._bytes_out - (0 if self._gone else self._link.unsent())

    @property
    def _times(self) -> tuple[float, float]:
        """When it was opened and when bytes last moved: seconds since the epoch."""
        return self._opened_at, self._opened_at + (self._last_activity - self._opened_tick)


def _wake_all(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
