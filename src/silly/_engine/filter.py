"""Filters between a connection and its socket, which change the bytes that pass: encryption.

A `Filter` (see interface.py) does no I/O: it takes bytes and returns bytes. The stream passes
each received piece to `open`, and delivers the result. It passes everything that the program
writes in one turn to `seal`, and sends the result. The filter's own messages (a handshake, an
alert, its last message) are sent ahead of that.

Otherwise, the connection stays the same. Reads, unread bytes and `Conn.stats` count the
program's bytes (plaintext); `unsent_bytes`, `max_unsent`, the minimum send rate and the
first-byte timeout count the bytes on the wire.

As `lifecycle`, this file is compiled a second time for the native engine.
"""

from __future__ import annotations

import asyncio
import functools
import os
from typing import Any, Final

from silly._engine import stream_errors
from silly._engine.interface import UNSENT_IN_KERNEL, Budget, Filter, Owner
from silly._engine.lifecycle import OPEN

from .deadlines import Timed  # relative: each engine has a base of its own

__all__ = ["NO_ROOM", "UNABLE", "Filtered"]

NO_ROOM, UNABLE = -1, -2  # see `Filtered._send_file`
IN_ONE_PACKET: Final = 64 * 1024  # bytes of a file that go with what was written before, its head
# With a smaller window, packets are small, too: thousands, if the kernel took all of a long file.
WIDE: Final = 16 * 1024  # bytes
_sendfile: Any = getattr(os, "sendfile", None)  # Linux, macOS and others


class FilterState:
    """A stream's filter, and what the stream keeps for it."""

    __slots__ = (
        "answered",
        "early",
        "filter",
        "held",
        "held_size",
        "plain_in",
        "plain_out",
        "waiter",
    )

    def __init__(self, filter: Filter, plain_in: int, plain_out: int) -> None:  # noqa: A002
        self.filter = filter
        self.held: list[bytes] = []  # plaintext written before the filter was ready ...
        self.held_size = 0  # ... and its length
        self.plain_in = plain_in
        self.plain_out = plain_out
        self.answered = 0  # bytes that the filter answered since the queue was last empty
        self.waiter: asyncio.Future[None] | None = None  # of the task that waits until it is ready
        self.early: bytes | None = None  # is sent ahead of what is sent next (native engine)


class Filtered(Timed):
    """The part of a stream that deals with its filter. Without one, none of it is called."""

    __slots__ = ("_filter",)

    _filter: FilterState | None

    def _begin(
        self,
        owner: Owner,
        budget: Budget | None,
        linger: float,
        idle_timeout: float,
        idle_swept: bool,
    ) -> None:
        """Set the state of a new connection, that of the classes below included."""
        self._state = OPEN
        self._is_closed = False
        self._ended = self._truncated = self._failed = self._paused = self._full = False
        self._expects_more = False
        self._loss = None
        self._reader_notified = self._writer_notified = False
        self._ended_by = None
        self._owner = owner
        self._addresses = None
        self._consumer = None
        self._budget = budget
        self._accounted = self._retained = 0
        self._linger = linger
        self._timer = None
        self._bytes_in = self._bytes_out = 0
        self._opened = self._last_activity = self._now()
        self._room_waiters = self._close_waiters = None
        # deadlines.py
        self._all_acked = self._unsent_seen = 0
        self._deadline_state = None
        self._idle_timeout = idle_timeout
        # this file
        self._has_filter = False
        self._filter = None
        if idle_timeout and not idle_swept:
            self._arm_idle_timer(self._last_activity + idle_timeout)

    # ----------------------------------------------------- implemented by each engine

    def _take_unread(self) -> bytes:
        """Remove and return all unread bytes."""
        raise NotImplementedError

    def _use_filter(self) -> None:
        """From now on, pass received bytes to `_receive_wire`, and the batch to `_seal`."""
        raise NotImplementedError

    def _feed(self, plaintext: bytes) -> None:
        """Deliver *plaintext* as if it had been received."""
        raise NotImplementedError

    def _send_wire(self, data: bytes) -> None:
        """Send *data* after the queue."""
        raise NotImplementedError

    def _send_early(self, wire: bytes) -> None:
        """Send *wire*, of the filter, together with what the program may write now."""
        self._send_from_filter(wire)

    def _new_waiter(self) -> asyncio.Future[None]:
        """Return a future that one task awaits (`Engine.new_waiter`)."""
        raise NotImplementedError

    @property
    def max_unsent(self) -> int:
        """See `silly.net.conn.Conn.max_unsent`."""
        raise NotImplementedError

    # ------------------------------------------------------------------------- the filter

    def _put_filter(self, filter: Filter, received: bytes = b"") -> None:  # noqa: A002 - its name
        """Use *filter* from now on.

        What was written before is sent unchanged. The filter gets the bytes *received*, which
        were read already, and those that have arrived but were not read. Plaintext that is
        written before the filter is ready is sent when it is; closing the connection before
        that discards it.

        Raises:
            RuntimeError: the connection has a filter already.
            ConcurrentRead: a task is waiting in a read.
            ConnectionClosed, OSError: the connection is closed, half-closed or lost.
        """
        if self._filter is not None:
            raise RuntimeError("the connection has a filter already")
        if not self._is_open():
            raise self._writer_error()
        if self._has_reader():
            raise stream_errors.concurrent_read(self)
        self._flush()
        received += self._take_unread()
        self._has_filter = True
        self._filter = FilterState(filter, self._bytes_in - len(received), self._bytes_out)
        self._use_filter()
        self._send_from_filter(filter.pending())
        if received:
            self._receive_wire(received)

    def _send_file(self, file: int, offset: int, count: int) -> int:
        """Have the kernel send *count* bytes of a file's descriptor, from *offset* on, at once.

        Return how many it has taken: 0 at the end of the file; -1 if it takes none now: `_drain`
        waits until it does; -2 if they must be written in the usual way: the connection is
        encrypted, or ended, or earlier bytes are queued, or the file is none that it can send.
        """
        if self._filter is not None or _sendfile is None or not self._is_open():
            return UNABLE
        if count <= IN_ONE_PACKET:
            self._flush_ahead()
        else:
            self._flush()
        target = self._direct_descriptor()
        if self._failed or self._unsent() or target < 0:
            return UNABLE
        is_whole = count > UNSENT_IN_KERNEL and self._peer_window() >= WIDE
        try:
            if is_whole:  # at once: what the kernel holds of a file is in its cache already
                self._allow_unsent(count)
            sent: int = _sendfile(target, file, offset, count)
        except BlockingIOError:
            self._call_when_writable()
            return NO_ROOM
        except OSError:  # of the file, or the connection is lost, which the usual way reports
            return UNABLE
        finally:
            if is_whole:
                self._allow_unsent(UNSENT_IN_KERNEL)
        self._bytes_out += sent
        self._last_activity = self._now()
        return sent

    @property
    def _filter_info(self) -> Any:
        """What the filter tells about itself; None if there is none, or it is not ready."""
        return None if self._filter is None else self._filter.filter.info

    async def _wait_ready(self) -> None:
        """Wait until the filter's handshake is complete.

        Raises:
            OSError: the connection was lost, or the handshake failed.
        """
        while not self._is_ready(waiter := self._new_waiter()):
            await waiter

    def _is_ready(self, waiter: asyncio.Future[None]) -> bool:
        """Return whether the filter's handshake is complete; if not, *waiter* is woken later.

        Call it again then. It raises what `_wait_ready` raises.
        """
        state = self._filter
        assert state is not None
        if state.filter.is_ready:
            return True
        if not self._is_open():
            raise self._writer_error()
        if self._ended:
            raise stream_errors.no_handshake(self)
        state.waiter = waiter
        return False

    def _read_now(self) -> bytes:
        """Return what has arrived, without waiting; ``b""`` if nothing has, but may.

        Raises:
            EndOfStream, OSError: nothing will, as a read raises it.
        """
        if not self._unread() and (self._ended or not self._is_active()):
            raise self._reader_error(None, 0)
        return self._take_unread()

    @property
    def _waits_for_filter(self) -> bool:
        """Whether a task is in `_wait_ready`."""
        state = self._filter
        return state is not None and state.waiter is not None and not state.waiter.done()

    def _wake_writers(self) -> None:
        Timed._wake_writers(self)
        if self._filter is not None and self._filter.waiter is not None:
            self._wake_handshake()

    def _wake_handshake(self) -> None:
        """Wake the task that is in `_wait_ready`."""
        state = self._filter
        assert state is not None
        waiter, state.waiter = state.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _open_wire(self, wire: bytes) -> bytes:
        """Return the plaintext of *wire*; send the filter's answer."""
        state = self._filter
        assert state is not None
        opener = state.filter
        if self._ended or not self._is_active():
            return b""
        was_ready = opener.is_ready
        try:
            plaintext = opener.open(wire)
        except BaseException:  # a defect of the filter
            self._fail_by_filter(stream_errors.filter_failed())
            raise
        answer = opener.pending()
        if answer:
            # The handshake was completed: its end can go with the first reply.
            if plaintext and state.waiter is not None and opener.error is None:
                self._send_early(answer)
            else:
                self._send_from_filter(answer)
            self._count_answer(len(answer))
        state.plain_in += len(plaintext)
        if not was_ready and opener.is_ready:
            self._release_held()
        return plaintext

    def _count_answer(self, size: int) -> None:
        """Bound what the peer makes the filter send, but does not take; *size* more was sent."""
        state = self._filter
        assert state is not None
        state.answered = state.answered + size if self._unsent() else 0
        if state.answered > self.max_unsent:
            self._fail_by_filter(stream_errors.answers_not_taken(state.answered))

    def _seal(self, plaintext: bytes) -> bytes:
        """Return the bytes to send for *plaintext*; if the filter is not ready, hold it."""
        state = self._filter
        assert state is not None
        if state.filter.is_ready:
            state.plain_out += len(plaintext)
            try:
                return state.filter.seal(plaintext)
            except OSError as error:  # fails later, after all callers
                self._call_later(0.0, functools.partial(self._fail_by_filter, error))
                return b""
        state.held.append(plaintext)
        state.held_size += len(plaintext)
        self._full = True  # writers wait for the handshake
        self._account()
        return b""

    def _release_held(self) -> None:
        """Send the plaintext that was held until the filter was ready."""
        state = self._filter
        assert state is not None
        held, state.held = state.held, []
        state.held_size = 0
        self._full = False
        if held:
            self._send_from_filter(self._seal(b"".join(held)))
            self._account()
        self._wake_writers()

    def _send_from_filter(self, wire: bytes) -> None:
        """Send bytes that the filter returned."""
        if wire:
            self._bytes_out += len(wire)
            self._send_wire(wire)

    def _finish_filter(self) -> None:
        state = self._filter
        if state is not None and state.filter.is_ready and not self._failed:
            try:
                last = state.filter.finish()
            except OSError:
                last = b""  # closing goes on without it
            self._send_from_filter(last)

    def _fail_by_filter(self, error: OSError) -> None:
        """End the connection because of *error*; what is queued (an alert) is still sent."""
        if not self._is_active():
            return
        self._fail_by(error)
        try:
            if not self._failed and self._unsent():
                self._start_linger()
                self._call_when_empty()
            elif not self._failed:
                self._close_sent()
        finally:
            self._wake_writers()
            self._wake_reader()

    def _receive_wire(self, wire: bytes) -> None:
        """Deliver the plaintext of *wire*."""
        plaintext = self._open_wire(wire)
        if plaintext:
            self._feed(plaintext)
        self._heed_filter()

    def _heed_filter(self) -> None:
        """End the connection if its filter failed, or the stream if the peer's has announced it."""
        state = self._filter
        if state is not None:
            if state.filter.error is not None:
                self._fail_by_filter(state.filter.error)
            elif state.filter.is_ended and not self._ended:
                self._end_of_stream()

    def _handle_fin(self) -> None:
        """Handle the peer's FIN."""
        state = self._filter
        if state is not None and not self._ended:
            self._truncated = not state.filter.is_ended
            self._wake_writers()  # `_wait_ready` is one of them
        self._end_of_stream()

    def _received(self) -> int:
        return self._bytes_in if self._filter is None else self._filter.plain_in

    def _sent(self) -> int:
        if self._filter is None:
            return self._bytes_out - self._unsent()
        # The queue is ciphertext: it counts with its length on the wire.
        return max(0, self._filter.plain_out - self._unsent())

    def _written(self) -> int:
        if self._filter is None:
            return self._bytes_out + self._batched_bytes()
        return self._filter.plain_out + self._filter.held_size + self._batched_bytes()

    def _unfinished(self) -> int:
        return self._unread() + (0 if self._filter is None else self._filter.filter.unopened)

    def _held_size(self) -> int:
        """Return the length of the plaintext that is held until the filter is ready."""
        return 0 if self._filter is None else self._filter.held_size

    @property
    def unsent_bytes(self) -> int:
        return self._batched_bytes() + self._held_size() + self._unsent()

    @property
    def _counts(self) -> tuple[int, int]:
        """The program's bytes: received, and written ones that the operating system took."""
        return self._received(), self._sent()
