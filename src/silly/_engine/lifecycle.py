"""The states of a connection, and the code that depends on them: once for both engines.

A connection's state has two parts: whether the peer has finished sending (`_ended`), and
one of the states below, which never goes back:

=========  ==========================================================================
state      what it means
=========  ==========================================================================
OPEN       neither side has closed it
FINISHED   `close_write()` was called: FIN follows the queue; reading still works
FAILED     a limit or the filter ended it; its socket is being closed
LOST       the peer, the network, a limit or the filter ended it; its socket is closed
CLOSING    `close()` or `abort()` was called; the queue is still being sent
CLOSED     `close()` or `abort()` was called; its socket is closed
=========  ==========================================================================

The tables below have the transitions. The state decides what later calls do:

=========  ==============================================  ===========================
state      reads that the unread bytes do not satisfy      writes
=========  ==============================================  ===========================
OPEN       wait; `EndOfStream` once the peer has finished  are queued
FINISHED   the same                                        `ConnectionClosed`
FAILED,    `EndOfStream` if the peer had finished, else    the error (a timeout only
LOST       the error (a timeout only the first time)       the first time)
CLOSING,   `ConnectionClosed`; unread bytes are discarded  `ConnectionClosed`
CLOSED
=========  ==============================================  ===========================

Closing is not finished when the kernel has the whole queue: if a socket is closed with
unread bytes, the kernel sends RST and drops data that the peer has not acknowledged
(RFC 2525, section 2.17). So if the peer is still sending, FIN is sent first, and the
peer's bytes are discarded until it finishes or `linger` seconds have passed.

The portable engine runs this file, and the others beside it, as they are. The native
engine compiles some of them a second time, with the types in ``native/*.pxd``, as the
bases of its own classes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from silly._engine import stream_errors
from silly._engine.interface import Budget, Consumer, Owner, packed_ip
from silly._values.arguments import seconds

__all__ = ["CLOSED", "CLOSING", "FAILED", "FINISHED", "LOST", "OPEN", "Lifecycle"]

OPEN: Final = 0  # in this order, so that one comparison tests for several states
FINISHED: Final = 1
FAILED: Final = 2
LOST: Final = 3
CLOSING: Final = 4
CLOSED: Final = 5

# What moves it on, and the state that then follows each of the states:
#                    from OPEN      FINISHED  FAILED   LOST    CLOSING  CLOSED
_ENDS_WRITING: Final = bytes((FINISHED, FINISHED, FAILED, LOST, CLOSING, CLOSED))  # close_write()
_CLOSES: Final = bytes((CLOSING, CLOSING, CLOSING, CLOSED, CLOSING, CLOSED))  # close(), abort()
_FAILS: Final = bytes((FAILED, FAILED, FAILED, LOST, CLOSING, CLOSED))  # a limit ends it
_IS_GONE: Final = bytes((LOST, LOST, LOST, LOST, CLOSED, CLOSED))  # its socket is closed


class Lifecycle:
    """The base of each engine's `Stream`: its state, and what changes it."""

    __slots__ = (
        "_accounted",
        "_addresses",
        "_budget",
        "_bytes_in",
        "_bytes_out",
        "_close_waiters",
        "_consumer",
        "_ended",
        "_ended_by",
        "_expects_more",
        "_failed",
        "_full",
        "_has_filter",
        "_is_closed",
        "_last_activity",
        "_linger",
        "_loss",
        "_opened",
        "_owner",
        "_paused",
        "_reader_notified",
        "_retained",
        "_room_waiters",
        "_state",
        "_timer",
        "_truncated",
        "_writer_notified",
    )

    _state: int
    _is_closed: bool  # its socket is closed: the state is LOST or CLOSED
    _has_filter: bool  # see filter.py
    _ended: bool  # the peer sent FIN
    _truncated: bool  # ... but its filter's end was missing (filter.py)
    _expects_more: bool  # the peer is probably still sending
    _failed: bool  # the socket failed; it is closed in the loop's next turn
    _paused: bool  # receiving is paused
    _full: bool  # the queue is above its high-water mark: writers wait
    _loss: OSError | None  # the error that ended it, if this side did not close it ...
    _reader_notified: bool  # ... and whether a reader ...
    _writer_notified: bool  # ... and a writer got it
    _ended_by: str | None  # the limit that ended it
    _owner: Owner | None
    # The peer's and the local one, and what came with them, if a preface set them:
    _addresses: tuple[Any, Any, Any] | None
    _consumer: Consumer | None
    _budget: Budget | None
    _accounted: int  # bytes reported to the budget
    _retained: int  # bytes that a protocol above has read, and keeps
    _linger: float
    _timer: Any  # the linger timer if closing, else the idle timer
    _bytes_in: int
    _bytes_out: int  # including the queue
    _opened: float
    _last_activity: float
    _room_waiters: list[asyncio.Future[None]] | None
    _close_waiters: list[asyncio.Future[None]] | None

    # ----------------------------------------------------- implemented by each engine

    def _now(self) -> float:
        """Return the loop's time."""
        raise NotImplementedError

    def _call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        raise NotImplementedError

    def _new_future(self) -> asyncio.Future[None]:
        raise NotImplementedError

    def _unread(self) -> int:
        """Return the number of unread bytes."""
        raise NotImplementedError

    def _peek(self) -> bytes:
        """Return the unread bytes without removing them."""
        raise NotImplementedError

    def _discard_unread(self) -> None:
        raise NotImplementedError

    def _has_reader(self) -> bool:
        """Return whether a task is in a read that had to wait."""
        raise NotImplementedError

    def _is_read_pending(self) -> bool:
        """Return whether that read waits for more bytes."""
        raise NotImplementedError

    def _wake_reader(self) -> None:
        """Wake the waiting read, or tell the consumer. A task may be stepped meanwhile."""
        raise NotImplementedError

    def _resume(self) -> None:
        """Resume receiving."""
        raise NotImplementedError

    def _batched_bytes(self) -> int:
        """Return the size of the batch: written bytes that no send was tried for."""
        raise NotImplementedError

    def _unsent(self) -> int:
        """Return the size of the queue: bytes that the operating system did not accept yet."""
        raise NotImplementedError

    def _in_flight(self) -> int:
        """Return how many sent bytes the peer has not acknowledged; 0 if unknown."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Send the batch."""
        raise NotImplementedError

    def _flush_ahead(self) -> None:
        """Send the batch; what is sent next, at once, may be in the same packet."""
        self._flush()

    def _discard_batch(self) -> None:
        raise NotImplementedError

    def _call_when_empty(self) -> None:
        """Call `_has_room` once the queue is empty, and not before."""
        raise NotImplementedError

    def _direct_descriptor(self) -> int:
        """Return the socket's descriptor, if bytes may be sent past the queue; else -1."""
        raise NotImplementedError

    def _peer_window(self) -> int:
        """Return how many bytes the peer said last that it can receive; 0: unknown."""
        raise NotImplementedError

    def _allow_unsent(self, size: int) -> None:
        """Let the kernel accept up to *size* bytes that it cannot send yet."""
        raise NotImplementedError

    def _call_when_writable(self) -> None:
        """Be full until the kernel takes bytes again. Only called while the queue is empty."""
        raise NotImplementedError

    def _has_unread_in_kernel(self) -> bool:
        raise NotImplementedError

    def _send_fin(self) -> None:
        """Send FIN once the queue is empty."""
        raise NotImplementedError

    def _close_socket(self) -> None:
        """Close the socket; the kernel sends its data, then FIN."""
        raise NotImplementedError

    def _reset_socket(self) -> None:
        """Close the socket with a reset; the queue is dropped."""
        raise NotImplementedError

    def _release(self) -> None:
        """Release the socket, and the memory of the queue."""
        raise NotImplementedError

    def _peer_sockaddr(self) -> Any:
        """Return the peer's address, in the form that the `socket` module uses."""
        raise NotImplementedError

    def _own_sockaddr(self) -> Any:
        raise NotImplementedError

    def _peer_ip(self) -> bytes:
        """Return the peer's IP address as packed bytes; empty if it has none."""
        raise NotImplementedError

    def _account(self) -> None:
        """Report the change in the memory that this connection holds to the budget."""
        raise NotImplementedError

    # ------------------------------------------------------------ implemented by `Filtered`

    def _finish_filter(self) -> None:
        """Send the filter's last message."""
        raise NotImplementedError

    def _received(self) -> int:
        """Return how many bytes were received for the program."""
        raise NotImplementedError

    def _written(self) -> int:
        """Return how many bytes the program has written."""
        raise NotImplementedError

    def _sent(self) -> int:
        """Return how many of the program's bytes the operating system took."""
        raise NotImplementedError

    def _unfinished(self) -> int:
        """Return how many bytes of the incomplete read have arrived."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------

    def _notify_owner(self, owner: Owner) -> None:
        owner.conn_closed(self)

    # ---------------------------------------------------------------------------- addresses

    def _set_sockaddrs(self, remote: Any, local: Any, proxy: Any = None) -> None:
        """Report these addresses from now on, and *proxy*, which says where they are from."""
        self._addresses = (remote, local, proxy)

    def _discount(self, count: int) -> None:
        """Do not count *count* of the bytes that were read: they were not for the program."""
        self._bytes_in -= count

    @property
    def _remote_sockaddr(self) -> Any:
        return self._peer_sockaddr() if self._addresses is None else self._addresses[0]

    @property
    def _local_sockaddr(self) -> Any:
        return self._own_sockaddr() if self._addresses is None else self._addresses[1]

    @property
    def _proxy(self) -> Any:
        return None if self._addresses is None else self._addresses[2]

    @property
    def _host(self) -> str | None:
        return None if self._owner is None else self._owner.host

    @property
    def _client(self) -> bytes:
        return self._packed_client()

    def _packed_client(self) -> bytes:
        return self._peer_ip() if self._addresses is None else packed_ip(self._addresses[0])

    def on_draining(self, callback: Callable[[], object] | None) -> None:
        owner = self._owner
        if owner is not None:
            owner.on_draining(self, callback)

    @property
    def _count_handshake(self) -> Callable[[Any, str, str | None], object] | None:
        return None if self._owner is None else self._owner.count_handshake

    # ------------------------------------------------------------------------------- errors

    def _reader_error(self, delimiter: bytes | None, wanted: int) -> Exception:
        """Return the error that this read raises in the present state."""
        if self._state >= CLOSING:
            return stream_errors.closed(self)
        if self._has_reader():
            return stream_errors.concurrent_read(self)
        if self._ended or self._loss is None:
            return stream_errors.end_of_stream(
                self, delimiter, wanted, self._peek(), self._truncated
            )
        repeated, self._reader_notified = self._reader_notified, True
        return stream_errors.connection_lost(self, self._loss, repeated=repeated)

    def _writer_error(self) -> Exception:
        """Return the error that a write raises in the present state."""
        if self._state >= CLOSING:
            return stream_errors.closed(self)
        if self._loss is not None:
            repeated, self._writer_notified = self._writer_notified, True
            return stream_errors.connection_lost(self, self._loss, repeated=repeated)
        return stream_errors.half_closed(self)

    # ----------------------------------------------------------------------------- writers

    async def _drain(self) -> None:
        if not self._full:
            await asyncio.sleep(0)  # let other tasks run
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
        if waiters is not None:
            self._room_waiters = None
            _wake_all(waiters)

    def _has_room(self) -> None:
        """Wake waiting writers, or continue closing."""
        self._full = False
        if self._state < FAILED:
            self._wake_writers()
        elif not self._is_closed:
            self._close_sent()

    # ----------------------------------------------------------------------------- closing

    def close_write(self) -> None:
        if self._state != OPEN:
            return
        self._flush()
        self._finish_filter()
        self._state = _ENDS_WRITING[self._state]
        self._wake_writers()
        self._send_fin()

    def close(self) -> None:
        if self._state >= CLOSING:
            return
        if self._state == OPEN:
            self._flush()
            if self._has_filter:
                self._finish_filter()
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

    def _is_active(self) -> bool:
        """Return whether neither side closed the connection and nothing ended it."""
        return self._state < FAILED

    def _is_lingering(self) -> bool:
        return self._state == CLOSING

    def _start_closing(self) -> None:
        if self._timer is not None and self._state < CLOSING:
            self._stop_timer()
        self._state = _CLOSES[self._state]
        self._discard_unread()
        if self._has_filter or self._room_waiters is not None:
            self._wake_writers()

    def _close_sent(self) -> None:
        """Continue closing: the kernel has the whole queue."""
        if self._ended or not (self._expects_more or self._paused or self._has_unread_in_kernel()):
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
        if self._is_closed or self._failed:
            return
        if self._state == CLOSING and self._unsent():
            self._ended_by = "linger"
            self.abort()
        elif self._unsent():
            self._reset_socket()
        else:
            self._close_socket()

    async def wait_closed(self) -> None:
        if not self._is_closed:
            waiter = self._new_future()
            if self._close_waiters is None:
                self._close_waiters = []
            self._close_waiters.append(waiter)
            await waiter

    # -------------------------------------------------------------------------------- loss

    def _end_of_stream(self) -> None:
        """Handle the end of the peer's stream."""
        if self._state != FAILED:  # else reads report why it failed
            self._ended = True
        if self._state < FAILED:
            self._wake_reader()
        elif self._unsent() == 0:
            self._close_socket()

    def _tear_down(self, error: OSError | None) -> None:
        """Release everything: closed by this side (None), or because of *error*."""
        if self._is_closed:
            return
        self._mark_closed(error)
        self._release()
        if self._has_filter or self._room_waiters is not None:
            self._wake_writers()
        waiters = self._close_waiters
        if waiters is not None:
            self._close_waiters = None
            _wake_all(waiters)
        owner = self._owner
        self._owner = None
        try:
            if owner is not None:
                self._notify_owner(owner)
        finally:
            self._wake_reader()  # last: this may step the reader, which may raise

    def _mark_closed(self, error: OSError | None) -> None:
        if self._loss is None and self._state < CLOSING:
            self._loss = stream_errors.cause_of_loss(error)
        self._state = _IS_GONE[self._state]
        self._is_closed = True
        self._full = False
        self._discard_batch()
        if self._timer is not None:
            self._stop_timer()
        if self._retained:
            Lifecycle._retain(self, 0)

    def _stop_timer(self) -> None:
        timer = self._timer
        self._timer = None
        if timer is not None:
            timer.cancel()

    def _fail_by(self, error: OSError) -> None:
        """Record that *error* ends the connection, before its socket is closed."""
        self._stop_timer()
        self._loss = error
        self._state = _FAILS[self._state]

    def _end(self, limit: str, error: OSError) -> None:
        """End the connection because of *limit*; reset it if the peer has not acknowledged all."""
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

    def _note_limit(self, limit: str) -> None:
        """Note that *limit*, which a protocol enforces, is what ends the connection."""
        if self._ended_by is None:
            self._ended_by = limit

    def _expect_more(self) -> None:
        """Note that the peer is probably still sending, although that will not be read.

        Closing then waits for its end, up to the linger time: a reset could discard what it
        has not read yet (RFC 9112, section 9.6).
        """
        self._expects_more = True

    def _retain(self, count: int) -> None:
        """Note that a protocol keeps *count* of the bytes that it has read: they count as held."""
        count = 0 if self._is_closed else count
        if count != self._retained:
            self._retained = count
            self._account()

    def _acknowledged(self) -> int:
        """Return how many of the written bytes the peer acknowledged."""
        return self._bytes_out - self._unsent() - self._in_flight()

    # -------------------------------------------------------------------------- properties

    @property
    def is_alive(self) -> bool:
        return self._state < FAILED

    @property
    def _is_closing(self) -> bool:
        return self._state >= CLOSING

    @property
    def _is_ended(self) -> bool:
        """Whether the peer finished sending."""
        return bool(self._ended)  # it is an integer when compiled

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
    def _wire_counts(self) -> tuple[int, int]:
        """Bytes received from, and accepted by, the operating system."""
        return self._bytes_in, self._bytes_out - self._unsent()

    @property
    def _age(self) -> float:
        """Seconds since it was opened."""
        return self._now() - self._opened

    @property
    def _times(self) -> tuple[float, float]:
        """When it was opened and when bytes last moved: seconds since the epoch."""
        offset = time.time() - self._now()
        return self._opened + offset, self._last_activity + offset


def _wake_all(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
