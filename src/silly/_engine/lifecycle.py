"""A connection's life, from open to gone: one source for both engines.

Two things make up the state of a connection. One is whether the peer has finished
sending (`_ended`). The other is one of the states below; it only ever goes on:

=========  ==========================================================================
state      what it means
=========  ==========================================================================
OPEN       neither end closed it
FINISHED   `close_write()`: this end sent FIN, or will; reading goes on
FAILED     a limit ended it; its socket is being closed
LOST       the peer or the network ended it, or a limit; its socket is closed
CLOSING    `close()` or `abort()`; what is queued is still being sent
CLOSED     the same, and its socket is closed
=========  ==========================================================================

What moves it on is in `_NEXT`. What later calls say follows from the state:

=========  ==============================================  ===========================
state      reads, once the unread bytes do not suffice     writes
=========  ==============================================  ===========================
OPEN       wait; `EndOfStream` once the peer has finished  are queued
FINISHED   the same                                        `ConnectionClosed`
FAILED,    `EndOfStream` if the peer had finished, else    the error (a timeout only
LOST       the error (a timeout only the first time)       the first time)
CLOSING,   `ConnectionClosed`; nothing stays unread        `ConnectionClosed`
CLOSED
=========  ==============================================  ===========================

Closing is not over when the queue is in the kernel's hands: a socket closed while it
holds unread bytes answers with RST, and the kernel then drops what the peer has not
acknowledged (RFC 2525, section 2.17). So where the peer is still talking, FIN is sent
first and its bytes are thrown away until it finishes or `linger` runs out.

Deadlines are kept without a timer for each connection and without a note for each
message: every so often a sweep calls `_check_deadlines`, which compares counters that
are kept anyway with those of the last time.

This file is run as it is by the portable engine. The native engine compiles it a second
time, with the types in ``native/lifecycle.pxd``, as the base of its own stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from silly._engine import stream_errors
from silly._engine.interface import Budget, Deadlines, Owner, packed_ip
from silly._values.arguments import positive_seconds, seconds

__all__ = ["CLOSED", "CLOSING", "FAILED", "FINISHED", "LOST", "OPEN", "Lifecycle"]

OPEN: Final = 0  # in this order: comparing two of them is the quickest way to ask
FINISHED: Final = 1
FAILED: Final = 2
LOST: Final = 3
CLOSING: Final = 4
CLOSED: Final = 5

_ENDS_WRITING: Final = 0  # close_write()
_CLOSES: Final = 1  # close(), abort()
_FAILS: Final = 2  # a limit ends it
_IS_CLOSED: Final = 3  # its socket is closed

#        from OPEN      FINISHED  FAILED   LOST    CLOSING  CLOSED
_NEXT: Final = (
    bytes((FINISHED, FINISHED, FAILED, LOST, CLOSING, CLOSED)),  # _ENDS_WRITING
    bytes((CLOSING, CLOSING, CLOSING, CLOSED, CLOSING, CLOSED)),  # _CLOSES
    bytes((FAILED, FAILED, FAILED, LOST, CLOSING, CLOSED)),  # _FAILS
    bytes((LOST, LOST, LOST, LOST, CLOSED, CLOSED)),  # _IS_CLOSED
)


class DeadlineState:
    """What `Lifecycle._check_deadlines` saw the last time."""

    __slots__ = ("partial", "partial_since", "window_acked", "window_start", "window_written")

    def __init__(self) -> None:
        self.partial = -1  # bytes read before those of the read that waits; -1: none waits
        self.partial_since = 0.0
        self.window_acked = -1  # bytes acknowledged when the window began; -1: all were
        self.window_written = 0  # bytes written when it began
        self.window_start = 0.0


class Lifecycle:
    """The base of each engine's `Stream`: the state, what changes it, and the deadlines."""

    __slots__ = (
        "_accounted",
        "_addresses",
        "_all_acked",
        "_budget",
        "_bytes_in",
        "_bytes_out",
        "_close_waiters",
        "_deadline_state",
        "_ended",
        "_ended_by",
        "_failed",
        "_full",
        "_idle_swept",
        "_idle_timeout",
        "_last_activity",
        "_linger",
        "_loss",
        "_opened",
        "_owner",
        "_paused",
        "_reader_notified",
        "_room_waiters",
        "_state",
        "_timer",
        "_truncated",
        "_unsent_seen",
        "_writer_notified",
    )

    _state: int
    _ended: bool  # the peer sent FIN
    _truncated: bool  # ... but its filter's end was missing (filter.py)
    _failed: bool  # the socket is of no use any more; the loss is noted in the loop's next turn
    _paused: bool  # receiving is
    _full: bool  # the queue is above its high-water mark: writers wait
    _loss: OSError | None  # why it ended, if this end did not close it ...
    _reader_notified: bool  # ... and whether a reader ...
    _writer_notified: bool  # ... and a writer were given it
    _ended_by: str | None  # the limit that ended it
    _owner: Owner | None
    _addresses: tuple[Any, Any] | None  # the peer's and the local one, if a preface set them
    _budget: Budget | None
    _accounted: int  # bytes that the budget was told of
    _linger: float
    _timer: Any  # for idleness; once closing, for lingering
    _idle_timeout: float  # 0: none
    _idle_swept: bool  # `_check_deadlines` sees to idleness, not a timer
    _bytes_in: int
    _bytes_out: int  # those that are still queued included
    _all_acked: int  # of _bytes_out: this many the peer is known to have
    _unsent_seen: int
    _opened: float
    _last_activity: float
    _deadline_state: DeadlineState | None
    _room_waiters: list[asyncio.Future[None]] | None
    _close_waiters: list[asyncio.Future[None]] | None

    def _begin(
        self,
        owner: Owner,
        budget: Budget | None,
        linger: float,
        idle_timeout: float,
        idle_swept: bool,
    ) -> None:
        """Set the state of a new connection."""
        self._state = OPEN
        self._ended = self._truncated = self._failed = self._paused = self._full = False
        self._loss = None
        self._reader_notified = self._writer_notified = False
        self._ended_by = None
        self._owner = owner
        self._addresses = None
        self._budget = budget
        self._accounted = 0
        self._linger = linger
        self._timer = None
        self._idle_timeout = idle_timeout
        self._idle_swept = idle_swept
        self._bytes_in = self._bytes_out = self._all_acked = self._unsent_seen = 0
        self._opened = self._last_activity = self._now()
        self._deadline_state = None
        self._room_waiters = self._close_waiters = None
        if idle_timeout and not idle_swept:
            self._arm_idle_timer(self._last_activity + idle_timeout)

    # ----------------------------------------------------- what each engine does its own way

    def _now(self) -> float:
        """Return the loop's time."""
        raise NotImplementedError

    def _call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        raise NotImplementedError

    def _new_future(self) -> asyncio.Future[None]:
        raise NotImplementedError

    def _unread(self) -> int:
        """Return how many bytes have arrived and were not read."""
        raise NotImplementedError

    def _peek(self) -> bytes:
        """Return the unread bytes, and leave them."""
        raise NotImplementedError

    def _discard_unread(self) -> None:
        raise NotImplementedError

    def _has_reader(self) -> bool:
        """Return whether a task is inside a read that had to wait."""
        raise NotImplementedError

    def _is_read_pending(self) -> bool:
        """Return whether that read waits for more bytes."""
        raise NotImplementedError

    def _wake_reader(self) -> None:
        """Have a read that waits go on. The task may be stepped before this returns."""
        raise NotImplementedError

    def _resume(self) -> None:
        """Receive again."""
        raise NotImplementedError

    def _batched_bytes(self) -> int:
        """Return how many written bytes were not even tried to be sent."""
        raise NotImplementedError

    def _unsent(self) -> int:
        """Return how many written bytes the operating system has not taken, but for the batch."""
        raise NotImplementedError

    def _in_flight(self) -> int:
        """Return how many bytes the operating system took that the peer has not acknowledged."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Send the batch."""
        raise NotImplementedError

    def _discard_batch(self) -> None:
        raise NotImplementedError

    def _call_when_empty(self) -> None:
        """Call `_has_room` when nothing is queued any more, and not before."""
        raise NotImplementedError

    def _has_unread_in_kernel(self) -> bool:
        raise NotImplementedError

    def _send_fin(self) -> None:
        """Send FIN when nothing is queued any more."""
        raise NotImplementedError

    def _close_socket(self) -> None:
        """Close the socket; what was sent is the kernel's, which sends FIN behind it."""
        raise NotImplementedError

    def _reset_socket(self) -> None:
        """Close the socket with a reset; what is queued is dropped."""
        raise NotImplementedError

    def _release(self) -> None:
        """Let go of the socket and of the memory for what is queued."""
        raise NotImplementedError

    def _peer_sockaddr(self) -> Any:
        """Return the peer's address, in the form that the `socket` module uses."""
        raise NotImplementedError

    def _own_sockaddr(self) -> Any:
        raise NotImplementedError

    def _peer_ip(self) -> bytes:
        """Return the peer's IP address as packed bytes; empty if it has none."""
        raise NotImplementedError

    # The next three are as they are without a filter (filter.py).

    def _say_last(self) -> None:
        """Send what comes between the last bytes written and FIN."""

    def _received(self) -> int:
        """Return how many bytes were received for the program."""
        return self._bytes_in

    def _unfinished(self) -> int:
        """Return how many bytes there are of what a read waits to complete."""
        return self._unread()

    def _notify_owner(self, owner: Owner) -> None:
        owner.conn_closed(self)

    # ---------------------------------------------------------------------------- addresses

    def _set_sockaddrs(self, remote: Any, local: Any) -> None:
        """Have the connection go by other addresses from now on."""
        self._addresses = (remote, local)

    @property
    def _remote_sockaddr(self) -> Any:
        return self._peer_sockaddr() if self._addresses is None else self._addresses[0]

    @property
    def _local_sockaddr(self) -> Any:
        return self._own_sockaddr() if self._addresses is None else self._addresses[1]

    @property
    def _client(self) -> bytes:
        return self._peer_ip() if self._addresses is None else packed_ip(self._addresses[0])

    def on_draining(self, callback: Callable[[], object] | None) -> None:
        owner = self._owner
        if owner is not None:
            owner.on_draining(self, callback)

    # ------------------------------------------------------------------------------- errors

    def _reader_error(self, delimiter: bytes | None, wanted: int) -> Exception:
        """Return why such a read cannot be completed, in the present state."""
        if self._state >= CLOSING:
            return stream_errors.closed(self)
        if self._has_reader():
            return stream_errors.concurrent_read(self)
        if self._ended or self._loss is None:
            return stream_errors.end_of_stream(
                self, delimiter, wanted, self._peek(), truncated=self._truncated
            )
        repeated, self._reader_notified = self._reader_notified, True
        return stream_errors.connection_lost(self, self._loss, repeated=repeated)

    def _writer_error(self) -> Exception:
        """Return why nothing can be written, in the present state."""
        if self._state >= CLOSING:
            return stream_errors.closed(self)
        if self._loss is not None:
            repeated, self._writer_notified = self._writer_notified, True
            return stream_errors.connection_lost(self, self._loss, repeated=repeated)
        return stream_errors.half_closed(self)

    # ----------------------------------------------------------------------------- writers

    async def _drain(self) -> None:
        if not self._full:
            await asyncio.sleep(0)  # others have their turn
        while self._full and self._state == OPEN:
            await self._room_waiter()
        if self._state >= FAILED:
            raise self._writer_error()

    def _room_waiter(self) -> asyncio.Future[None]:
        """Return a future that `_wake_writers` completes."""
        waiter = self._new_future()
        if self._room_waiters is None:
            self._room_waiters = []
        self._room_waiters.append(waiter)
        return waiter

    def _wake_writers(self) -> None:
        waiters = self._room_waiters
        self._room_waiters = None
        _wake_all(waiters)

    def _has_room(self) -> None:
        """Let waiting writers go on, or closing."""
        self._full = False
        if self._state < FAILED:
            self._wake_writers()
        elif not self._socket_is_closed():
            self._close_sent()

    # ----------------------------------------------------------------------------- closing

    def close_write(self) -> None:
        if self._state != OPEN:
            return
        self._flush()
        self._say_last()
        self._move_on(_ENDS_WRITING)
        self._wake_writers()
        self._send_fin()

    def close(self) -> None:
        if self._state >= CLOSING:
            return
        if self._state == OPEN:
            self._flush()
            self._say_last()
        self._start_closing()
        try:
            if self._state == CLOSED or self._failed:
                pass
            elif self._unsent() == 0:
                self._close_sent()
            elif self._linger == 0:
                self.abort()
            else:
                self._start_linger()
                self._full = True
                self._call_when_empty()
        finally:
            self._wake_reader()

    def abort(self) -> None:
        self._discard_batch()
        self._start_closing()
        try:
            if self._state == CLOSING:
                self._bytes_out -= self._unsent()
                self._reset_socket()
        finally:
            self._wake_reader()

    def _is_open(self) -> bool:
        return self._state == OPEN

    def _move_on(self, event: int) -> None:
        self._state = _NEXT[event][self._state]

    def _start_closing(self) -> None:
        if self._state < CLOSING:
            self._stop_timer()
        self._move_on(_CLOSES)
        self._discard_unread()
        self._wake_writers()

    def _close_sent(self) -> None:
        """Go on with closing: all that was queued is in the kernel's hands."""
        if self._ended or not (self._paused or self._has_unread_in_kernel()):
            self._close_socket()
            return
        self._send_fin()
        if self._paused:
            self._resume()
        if self._timer is None:
            self._start_linger()

    def _start_linger(self) -> None:
        self._timer = self._call_later(self._linger, self._end_linger)

    def _end_linger(self) -> None:
        self._timer = None
        if self._socket_is_closed() or self._failed:
            return
        if self._state == CLOSING and self._unsent():
            self._ended_by = "linger"
            self.abort()
        elif self._unsent():
            self._reset_socket()
        else:
            self._close_socket()

    async def wait_closed(self) -> None:
        if not self._socket_is_closed():
            waiter = self._new_future()
            if self._close_waiters is None:
                self._close_waiters = []
            self._close_waiters.append(waiter)
            await waiter

    # -------------------------------------------------------------------------------- loss

    def _peer_ended(self) -> None:
        """Note that the peer finished sending."""
        self._ended = True
        if self._state < FAILED:
            self._wake_reader()
        elif self._unsent() == 0:
            self._close_socket()

    def _tear_down(self, error: OSError | None) -> None:
        """Note that the socket is closed: as asked (None), or for *error*."""
        if self._socket_is_closed():
            return
        self._mark_closed(error)
        self._release()
        self._wake_writers()
        waiters = self._close_waiters
        self._close_waiters = None
        _wake_all(waiters)
        owner = self._owner
        self._owner = None
        try:
            if owner is not None:
                self._notify_owner(owner)
        finally:
            self._wake_reader()  # at last: this may step its task, and what that raises is raised

    def _socket_is_closed(self) -> bool:
        """Return whether the socket is closed."""
        return self._state == LOST or self._state == CLOSED  # noqa: PLR1714 - no set when compiled

    def _mark_closed(self, error: OSError | None) -> None:
        if self._loss is None and self._state < CLOSING:
            self._loss = stream_errors.cause_of_loss(error)
        self._move_on(_IS_CLOSED)
        self._full = False
        self._discard_batch()
        self._stop_timer()

    def _stop_timer(self) -> None:
        timer = self._timer
        self._timer = None
        if timer is not None:
            timer.cancel()

    # ---------------------------------------------------------------------- ended by limits

    def _end_for_limit(self, limit: str, error: OSError) -> None:
        """End the connection because of *limit*, if it is not at its end already.

        For ``"memory_budget"`` it is ended in any state, and what is unread is dropped.
        """
        over_budget = limit == "memory_budget"
        if over_budget:
            self._discard_unread()
        if self._socket_is_closed() or self._failed:
            return
        if self._state < FAILED:
            self._end(limit, error)
        elif over_budget and self._state == CLOSING:  # it lingers
            self._ended_by = limit
            self.abort()

    def _fail_by(self, error: OSError) -> None:
        """Note that *error* ends the connection, before its socket is closed."""
        self._stop_timer()
        self._loss = error
        self._move_on(_FAILS)

    def _end(self, limit: str, error: OSError) -> None:
        """End the connection because of *limit*; reset it if the peer has not taken all."""
        self._ended_by = limit
        self._fail_by(error)
        try:
            if self._failed:
                pass
            elif limit == "memory_budget" or self._acknowledged() < self._bytes_out:
                self._reset_socket()
            else:
                self._close_socket()
        finally:
            self._wake_writers()
            self._wake_reader()

    # ---------------------------------------------------------------------------- idleness

    @property
    def idle_timeout(self) -> float | None:
        return self._idle_timeout or None

    @idle_timeout.setter
    def idle_timeout(self, value: float | None) -> None:
        value = positive_seconds(value, "idle_timeout")
        self._idle_timeout = 0.0 if value is None else value
        self._idle_swept = False
        if self._state >= FAILED:
            return  # bounded by linger
        self._stop_timer()
        if self._idle_timeout:
            self._arm_idle_timer(self._last_activity + self._idle_timeout)

    def _arm_idle_timer(self, when: float) -> None:
        self._timer = self._call_later(when - self._now(), self._check_idle)

    def _check_idle(self) -> None:
        """Close if nothing moved for `idle_timeout`, else look again when that could be.

        One timer that looks back, instead of one that every message resets.
        """
        self._timer = None
        if self._state >= FAILED:
            return
        due = self._idle_until()
        if self._now() < due - 0.001:
            self._arm_idle_timer(due)
        else:
            self._end("idle_timeout", stream_errors.idle_timed_out(self._idle_timeout))

    def _idle_until(self) -> float:
        """Return when it will have been idle for `idle_timeout`, as far as can be told now."""
        unsent = self._unsent()
        if unsent != self._unsent_seen:  # the peer took some, or there is more for it
            self._unsent_seen = unsent
            self._last_activity = self._now()
        return self._last_activity + self._idle_timeout

    # --------------------------------------------------------------------------- deadlines

    def _check_deadlines(self, now: float, deadlines: Deadlines) -> None:
        """End the connection if one of *deadlines* has passed. Called every so often."""
        first_byte, read_deadline, receive_rate, send_rate, send_window = deadlines
        if self._state >= FAILED or self._failed:
            return
        self._account()
        if self._check_send_rate(now, send_rate, send_window):
            return
        if self._check_read_deadline(now, first_byte, read_deadline, receive_rate):
            return
        state = self._deadline_state
        if state is not None and state.window_acked < 0 and state.partial < 0:
            self._deadline_state = None
        if self._idle_swept and self._idle_timeout and now >= self._idle_until():
            self._end("idle_timeout", stream_errors.idle_timed_out(self._idle_timeout))

    def _check_send_rate(self, now: float, rate: float, window: float) -> bool:
        """Check that the peer takes unacknowledged bytes fast enough; return whether it ended."""
        written = self._bytes_out
        acked = written
        if rate and written != self._all_acked:
            acked = self._acknowledged()
        state = self._deadline_state
        if acked >= written:
            self._all_acked = written
            if state is not None:
                state.window_acked = -1
            return False
        state = self._get_deadline_state()
        if state.window_acked >= 0 and acked < state.window_written:  # the window is open
            if now - state.window_start < window:
                return False
            if acked - state.window_acked < rate * (now - state.window_start):
                self._end("min_send_rate", stream_errors.send_rate_too_low(rate, window))
                return True
        state.window_acked = acked
        state.window_written = written
        state.window_start = now
        return False

    def _check_read_deadline(
        self, now: float, first_byte: float, deadline: float, rate: float
    ) -> bool:
        """Check the waiting read; return whether the connection was ended."""
        unread = self._unfinished()
        pending = self._is_read_pending()
        if not pending or unread == 0:
            if self._deadline_state is not None:
                self._deadline_state.partial = -1
            if (
                pending
                and now - self._opened >= first_byte
                and not (self._bytes_in or self._bytes_out or self._batched_bytes())
            ):
                self._end("first_byte_timeout", stream_errors.first_byte_timed_out(first_byte))
                return True
            return False
        taken = self._received() - self._unread()
        state = self._get_deadline_state()
        if state.partial != taken:
            state.partial = taken
            state.partial_since = now
        elif now - state.partial_since >= deadline + unread / rate:
            self._end("read_deadline", stream_errors.read_deadline_passed(unread, deadline))
            return True
        return False

    def _get_deadline_state(self) -> DeadlineState:
        state = self._deadline_state
        if state is None:
            state = self._deadline_state = DeadlineState()
        return state

    def _acknowledged(self) -> int:
        """Return how many of the written bytes the peer has."""
        return self._bytes_out - self._unsent() - self._in_flight()

    def _account(self) -> None:
        """Tell the budget how much this connection holds now."""
        raise NotImplementedError

    # -------------------------------------------------------------------------- properties

    @property
    def is_alive(self) -> bool:
        return self._state < FAILED

    @property
    def _is_closing(self) -> bool:
        return self._state >= CLOSING

    @property
    def _is_closed(self) -> bool:
        return self._socket_is_closed()

    @property
    def _is_ended(self) -> bool:
        """True once the peer finished sending."""
        return bool(self._ended)  # it is an integer when compiled

    @property
    def _lost_by(self) -> OSError | None:
        """Why it ended, if this end did not close it."""
        return self._loss

    @property
    def linger(self) -> float:
        return self._linger

    @linger.setter
    def linger(self, value: float) -> None:
        self._linger = seconds(value, "linger")

    @property
    def unread_bytes(self) -> int:
        return self._unread()

    @property
    def unsent_bytes(self) -> int:
        return self._batched_bytes() + self._unsent()

    @property
    def _wire_counts(self) -> tuple[int, int]:
        """Bytes that the operating system gave, and bytes that it took."""
        return self._bytes_in, self._bytes_out - self._unsent()

    @property
    def _times(self) -> tuple[float, float]:
        """When it was opened and when bytes last moved: seconds since the epoch."""
        offset = time.time() - self._now()
        return self._opened + offset, self._last_activity + offset


def _wake_all(waiters: list[asyncio.Future[None]] | None) -> None:
    if waiters is not None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
