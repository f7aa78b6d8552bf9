"""One connection's reading and writing, over any link.

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

How a connection ends, and what later calls then do, is in ``../lifecycle.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from silly._engine import stream_errors
from silly._engine.drain import DRAINED, Draining
from silly._engine.filter import Filtered
from silly._engine.interface import (
    BATCH,
    LINGER,
    MAX_UNSENT,
    READ_LIMIT,
    Budget,
    Drain,
    Owner,
)
from silly._engine.lifecycle import CLOSING, FAILED, LOST, OPEN
from silly._engine.portable import trampoline
from silly._engine.portable.link import RECEIVED, Link
from silly._engine.portable.receive_buffer import INCOMPLETE, TOO_LONG, ReceiveBuffer
from silly._engine.portable.socket_link import SocketLink
from silly._engine.portable.trampoline import PARKING, Trampoline, current_task
from silly._engine.portable.turn import Turn, turns
from silly._engine.stream_errors import Buffer
from silly._values.arguments import seconds_or_none, size

__all__ = ["Stream"]

HIGH_WATER: Final = 64 * 1024  # bytes: a larger batch is sent at once
MAX_READS_IN_A_ROW: Final = 1000  # reads without waiting, before other tasks run ...
_LARGE_WRITE_COST: Final = 50  # ... and how many of them a large write counts as

_EMPTY: Final = ReceiveBuffer()  # of all connections that have not kept anything yet

_ALL: Final = 0  # the wanted count of `read()`: any bytes that are there


class Stream(Filtered):
    """One connection's reading, writing and closing; `silly.net.conn.Conn` documents them."""

    __slots__ = (
        "__weakref__",
        "_batch",
        "_batched",
        "_clock",
        "_delimiter",
        "_direct_piece",
        "_flush_scheduled",
        "_high_water",
        "_incoming",
        "_link",
        "_loop",
        "_max_unsent",
        "_read_limit",
        "_reading",
        "_reads_in_a_row",
        "_turn",
        "_waiter",
        "_wanted",
    )

    def __init__(  # noqa: PLR0917 - see `interface.Stream`
        self,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        owner: Owner,
        read_limit: int = READ_LIMIT,
        max_unsent: int = MAX_UNSENT,
        linger: float = LINGER,
        idle_timeout: float | None = None,
        idle_swept: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self._link = link
        self._loop = loop
        self._turn: Turn | None = None  # of the loop, once it is needed
        self._clock = link.clock

        self._incoming = _EMPTY  # until something must be kept
        self._read_limit = read_limit
        self._reading = False  # a task is in a read that had to wait
        self._waiter: asyncio.Future[None] | Trampoline | None = None  # what the reader waits on
        self._delimiter: bytes | None = None  # it wants this delimiter within _wanted bytes ...
        self._wanted = _ALL  # ... or, without a delimiter, this many bytes
        self._reads_in_a_row = 0  # reads without waiting
        self._direct_piece: bytes | None = None  # a piece that bypasses the buffer

        self._batch: list[bytes] = []
        self._batched = 0
        self._flush_scheduled = False
        self._max_unsent = max_unsent
        self._high_water = HIGH_WATER

        self._begin(owner, budget, linger, idle_timeout or 0.0, idle_swept)
        if max_unsent < 2 * HIGH_WATER:
            self.max_unsent = max_unsent
        link.attach(self)
        if read_limit < RECEIVED:
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
        self,
        delimiter: bytes | None,
        wanted: int,
        timeout: float | None = None,
        *,
        iterating: bool = False,
    ) -> bytes:
        if self._reads_in_a_row >= MAX_READS_IN_A_ROW:
            self._reads_in_a_row = 0
            await asyncio.sleep(0)
        if self._reading or self._state >= CLOSING:
            raise self._reader_error(delimiter, wanted)
        taken = self._take(delimiter, wanted)
        self._reads_in_a_row += 1
        if taken is None:
            if self._ended or self._state >= FAILED:
                return self._last_item(delimiter, wanted, iterating=iterating)
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
                if self._ended or self._state >= FAILED:
                    return self._last_item(delimiter, wanted, iterating=iterating)
                assert timeout is not None
                raise stream_errors.read_timed_out(self, delimiter, wanted, timeout)
        return taken

    _read.__qualname__ = "Conn.read"  # for Python's "was never awaited" warning

    async def _read_nothing(self) -> bytes:
        if self._reading or self._state >= CLOSING:
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
        if self._reading or self._state >= CLOSING:
            raise self._reader_error(b"\n", limit)
        if self._incoming.data and (taken := self._take(b"\n", limit)) is not None:
            self._reads_in_a_row += 1
            return taken
        taken = None
        if not (self._ended or self._state >= FAILED):
            try:
                await self._suspend(b"\n", limit)
                taken = self._direct_piece
                self._direct_piece = None
                if taken is None and self._incoming.data:
                    taken = self._take(b"\n", limit)
            finally:
                self._reading = False
                self._waiter = None
                if taken is None and self._incoming.data:
                    self._control_flow()
        if taken is not None:
            return taken
        if self._ended and not (self._incoming.data or self._truncated or self._state >= CLOSING):
            raise StopAsyncIteration  # as `_last_item` does
        return self._last_item(b"\n", limit, iterating=True)

    def _last_item(self, delimiter: bytes | None, wanted: int, *, iterating: bool) -> bytes:
        """Return what an incomplete read returns at the end of the stream, or raise."""
        if not iterating or not self._ended or self._truncated or self._state >= CLOSING:
            raise self._reader_error(delimiter, wanted)
        if not self._incoming.data:
            raise StopAsyncIteration
        if delimiter is None:
            raise self._reader_error(delimiter, wanted)
        taken = self._incoming.take(len(self._incoming))
        self._after_taking()
        return taken

    def batches(
        self, until: bytes | int = b"\n", *, most: int = BATCH, timeout: float | None = None
    ) -> AsyncIterator[list[bytes]]:
        delimiter, frame, timeout = stream_errors.batch_arguments(until, most, timeout)
        return _Batches(self, delimiter, frame, most, timeout)

    async def _read_batch(
        self, delimiter: bytes | None, frame: int, most: int, timeout: float | None
    ) -> list[bytes]:
        """Read an item, and take what more reads would return without waiting."""
        wanted = frame if delimiter is None else self._read_limit
        taken = [await self._read(delimiter, wanted, timeout, iterating=True)]
        if delimiter is not None:
            wanted = self._read_limit
        while len(taken) < most:
            count = self._find(delimiter, wanted)
            if count <= 0:
                break
            taken.append(self._incoming.take(count))
        self._reads_in_a_row += len(taken)  # other tasks get their turn as often as in single reads
        self._after_taking()
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
        if delimiter is None:
            count = self._find(delimiter, wanted)
        else:
            count = incoming.find(delimiter, wanted)
        if count == INCOMPLETE:
            return None
        if count == TOO_LONG:
            assert delimiter is not None
            self._control_flow()
            raise stream_errors.limit_exceeded(self, delimiter, wanted)
        taken = incoming.take(count)
        if self._accounted or self._paused:
            self._after_taking()
        return taken

    def _after_taking(self) -> None:
        if self._accounted:
            self._account()
        if self._paused and len(self._incoming) <= self._read_limit // 2:
            self._resume()

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
        running = trampoline.running
        if running is not None and running.task is current_task(self._loop):
            self._waiter = running
            return PARKING
        self._waiter = future = self._loop.create_future()
        return future

    def _wake_reader(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if isinstance(waiter, Trampoline):
                waiter.wake()
            elif not waiter.done():
                waiter.set_result(None)
        elif self._consumer is not None:
            self._consumer._consume()

    # ----------------------------------------------------------- flow control

    def _control_flow(self) -> None:
        """Pause the link if `read_limit` bytes are unread and no read waits for more."""
        incoming = self._incoming
        if (
            len(incoming.data) >= self._read_limit  # in C
            and len(incoming) >= self._read_limit
            and self._waiter is None
            and not (self._paused or self._ended or self._state >= LOST)
        ):
            self._paused = True
            self._link.pause()

    def _resume(self) -> None:
        self._paused = False
        if not (self._ended or self._is_closed):
            self._link.resume()

    def _account(self) -> None:
        """Report the change in unread and unsent bytes to the budget."""
        if self._budget is not None:
            held = self._retained
            if self._incoming.data:
                held += len(self._incoming)
            if self._bytes_out and not self._is_closed:
                held += self._link.unsent()
            if self._has_filter:
                held += self._held_size()
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
        if self._state != OPEN:
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
                turn = self._turn
                if turn is None:
                    turn = self._turn = turns.of(self._loop)
                turn.add(self, self._loop)
        return DRAINED

    def _write_at_once(self, pieces: list[bytes], length: int) -> Drain:
        """Send now, because the queue or the batch is long: there is no point in batching."""
        self._flush()
        unsent = self._link.unsent() + self._held_size()
        # A nearly empty queue takes a write of any length. Otherwise a large write could
        # never be sent, and a task that awaits each write could be refused.
        if unsent + length > self._max_unsent and unsent > self._high_water:
            raise stream_errors.queue_full(self, unsent, length, self._max_unsent)
        self._batch += pieces
        self._batched = length
        self._last_activity = self._clock()
        self._flush()
        if self._full:
            return Draining(self._drain)
        # The peer accepts everything at once, or the link is lost and reports it only in the
        # loop's next turn: let other tasks run after some writes.
        self._reads_in_a_row += _LARGE_WRITE_COST
        if self._reads_in_a_row < MAX_READS_IN_A_ROW:
            return DRAINED
        self._reads_in_a_row = 0
        return Draining(self._drain)

    def _flush(self) -> None:
        batch = self._batch
        if not batch:
            return
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        batch.clear()
        self._batched = 0
        if self._filter is not None:
            self._send_from_filter(self._seal(data))
            return
        self._bytes_out += len(data)
        self._link.send(data)

    def end_of_turn(self) -> None:
        """Send the batch (called by `Turn`)."""
        self._flush_scheduled = False
        if self._batch:
            self._flush()

    # ------------------------------------------------------ calls from the link

    def received(self, piece: bytes) -> None:
        """Take *piece*, and step the reader if it completes its read."""
        self._bytes_in += len(piece)
        self._last_activity = self._clock()
        waiter = self._waiter
        if waiter is None:
            if self._state < CLOSING:
                self._keep(piece)
                if self._consumer is not None:
                    self._consumer._consume()
                self._control_flow()
                self._account()
            return
        delimiter, wanted = self._delimiter, self._wanted
        if not self._incoming.data and (
            wanted in (_ALL, len(piece))
            if delimiter is None
            else piece.endswith(delimiter)
            and piece.find(delimiter, 0, wanted) + len(delimiter) == len(piece)
        ):
            self._direct_piece = piece  # exactly what the reader waits for
        else:
            self._keep(piece)
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
                self._keep(self._direct_piece)
                self._direct_piece = None
            self._waiter = waiter
            self._wake_reader()
        elif self._batch and not scheduled:
            self._flush()
        if self._incoming.data:
            self._control_flow()
            self._account()

    def _keep(self, piece: bytes) -> None:
        if self._incoming is _EMPTY:
            self._incoming = ReceiveBuffer(piece)
        else:
            self._incoming.feed(piece)

    ended = Filtered._handle_fin

    def full(self) -> None:
        """Make writers wait."""
        self._full = True
        self._account()

    def has_room(self) -> None:
        """Wake waiting writers, or continue closing."""
        if self._accounted:
            self._account()
        self._has_room()

    def lost(self, error: OSError | None) -> None:
        """Handle the end of the link."""
        if error is not None:
            error.__traceback__ = None  # which refers to the link, and so to this
        self._tear_down(error)

    # ------------------------------------------------------------ see lifecycle.py

    def _now(self) -> float:
        return self._clock()

    def _call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)

    def _new_future(self) -> asyncio.Future[None]:
        return self._loop.create_future()

    def _unread(self) -> int:
        return len(self._incoming)

    def _peek(self) -> bytes:
        return self._incoming.peek()

    def _discard_unread(self) -> None:
        if self._incoming.data:
            self._incoming.clear()
        if self._accounted:
            self._account()

    def _has_reader(self) -> bool:
        return self._reading

    def _is_read_pending(self) -> bool:
        return self._waiter is not None

    def _batched_bytes(self) -> int:
        return self._batched

    def _unsent(self) -> int:
        return 0 if self._is_closed else self._link.unsent()

    def _in_flight(self) -> int:
        return self._link.in_flight()

    def _discard_batch(self) -> None:
        self._batch.clear()
        self._batched = 0

    def _call_when_empty(self) -> None:
        self._link.call_when_empty()

    def _direct_descriptor(self) -> int:
        link = self._link
        return link.fileno() if isinstance(link, SocketLink) and not link._is_lost else -1

    def _peer_window(self) -> int:
        assert isinstance(self._link, SocketLink)
        return self._link.peer_window()

    def _allow_unsent(self, size: int) -> None:
        assert isinstance(self._link, SocketLink)
        self._link.allow_unsent(size)

    def _call_when_writable(self) -> None:
        assert isinstance(self._link, SocketLink)
        self._link.call_when_writable()

    def _has_unread_in_kernel(self) -> bool:
        return self._link.has_unread()

    def _send_fin(self) -> None:
        self._link.finish()

    def _close_socket(self) -> None:
        self._link.close()

    def _reset_socket(self) -> None:
        self._link.abort()

    def _release(self) -> None:
        if self._accounted:
            self._account()
        if self._waiter is not None or self._consumer is not None:
            self._wake_reader()  # scheduled ahead of the tasks that wait for the end

    def _peer_sockaddr(self) -> Any:
        return self._link.remote_sockaddr

    def _own_sockaddr(self) -> Any:
        return self._link.local_sockaddr

    def _peer_ip(self) -> bytes:
        return self._link.remote_ip

    def _enter(self) -> None:
        pass  # the loop decides what is served first

    # --------------------------------------------------------------- see filter.py

    def _take_unread(self) -> bytes:
        unread = self._incoming.peek()
        self._discard_unread()
        return unread

    def _use_filter(self) -> None:
        self._link.attach(_WireEvents(self))

    def _feed(self, plaintext: bytes) -> None:
        self._bytes_in -= len(plaintext)  # which `received` counts; on the wire it was counted
        self.received(plaintext)

    def _send_wire(self, data: bytes) -> None:
        self._link.send(data)

    def _new_waiter(self) -> asyncio.Future[None]:
        return self._new_future()

    # ------------------------------------------------------------------ properties

    @property
    def _held_bytes(self) -> int:
        """Bytes held, unread and unsent, as reported to the budget."""
        return self._accounted

    @property
    def _waits_for(self) -> str | None:
        """A description of what a reader or writer waits for; None if no task waits."""
        if self._waiter is not None:
            return stream_errors.describe_read(self._delimiter, self._wanted)
        if self._waits_for_filter:
            return stream_errors.HANDSHAKE
        if self._room_waiters:
            return stream_errors.describe_write(self.unsent_bytes)
        return None

    @property
    def _fileno(self) -> int:
        return -1 if self._is_closed else self._link.fileno()

    @property
    def read_limit(self) -> int:
        return self._read_limit

    @read_limit.setter
    def read_limit(self, value: int) -> None:
        self._read_limit = size(value, "read_limit", least=1)
        if not self._is_closed:
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
            if not self._is_closed:
                self._link.set_high_water(high_water)


class _Batches:
    """The iterator of `batches`."""

    __slots__ = ("_arguments", "_stream")

    def __init__(self, stream: Stream, *arguments: Any) -> None:
        self._stream = stream
        self._arguments = arguments

    def __aiter__(self) -> _Batches:
        return self

    def __anext__(self) -> Coroutine[Any, Any, list[bytes]]:
        return self._stream._read_batch(*self._arguments)


class _WireEvents:
    """The events of a link whose stream has a filter."""

    __slots__ = ("_stream", "ended", "full", "has_room", "lost")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.ended = stream.ended
        self.full = stream.full
        self.has_room = stream.has_room
        self.lost = stream.lost

    def received(self, piece: bytes) -> None:
        stream = self._stream
        stream._bytes_in += len(piece)
        stream._last_activity = stream._clock()
        stream._receive_wire(piece)
