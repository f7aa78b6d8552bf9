"""The types with which ``../lifecycle.py`` is compiled for this engine."""

from libc.stdint cimport int64_t, uint8_t

from silly._engine.native.reactor cimport Source

cdef int OPEN, FINISHED, FAILED, LOST, CLOSING, CLOSED
cdef bytes _ENDS_WRITING, _CLOSES, _FAILS, _IS_GONE


cdef class Lifecycle(Source):
    cdef uint8_t _state
    cdef uint8_t _ended
    cdef uint8_t _truncated
    cdef uint8_t _failed
    cdef uint8_t _paused
    cdef uint8_t _full
    cdef uint8_t _reader_notified
    cdef uint8_t _writer_notified
    cdef readonly object _loss
    cdef readonly object _ended_by
    cdef object _owner
    cdef object _addresses
    cdef public object _consumer
    cdef object _budget
    cdef int64_t _accounted, _retained
    cdef double _linger
    cdef object _timer
    cdef int64_t _bytes_in, _bytes_out
    cdef double _opened, _last_activity
    cdef list _room_waiters, _close_waiters

    cdef double _now(self) except -1
    cdef object _call_later(self, double delay, object callback)
    cdef object _new_future(self)
    cdef int64_t _unread(self) noexcept
    cdef object _peek(self)
    cdef int _discard_unread(self) except -1
    cdef bint _has_reader(self) noexcept
    cdef bint _is_read_pending(self) noexcept
    cdef int _wake_reader(self) except -1
    cdef int _resume(self) except -1
    cdef int64_t _batched_bytes(self) noexcept
    cdef int64_t _unsent(self) noexcept
    cdef int64_t _in_flight(self) noexcept
    cdef int _flush(self) except -1
    cdef int _flush_ahead(self) except -1
    cdef int _discard_batch(self) except -1
    cdef int _call_when_empty(self) except -1
    cdef int _direct_descriptor(self) noexcept
    cdef int64_t _peer_window(self) noexcept
    cdef int _allow_unsent(self, int size) noexcept
    cdef int _call_when_writable(self) except -1
    cdef bint _has_unread_in_kernel(self) noexcept
    cdef int _send_fin(self) except -1
    cdef int _close_socket(self) except -1
    cdef int _reset_socket(self) except -1
    cdef int _release(self) except -1
    cdef object _peer_sockaddr(self)
    cdef object _own_sockaddr(self)
    cdef bytes _peer_ip(self)
    cdef bytes _packed_client(self)
    cdef int _finish_filter(self) except -1
    cdef int64_t _received(self) noexcept
    cdef int64_t _sent(self) noexcept
    cdef int64_t _written(self) noexcept
    cdef int64_t _unfinished(self) except -1
    cdef int _notify_owner(self, object owner) except -1

    cdef object _reader_error(self, bytes delimiter, int64_t wanted)
    cdef object _writer_error(self)
    cdef object _room_waiter(self)
    cdef int _wake_writers(self) except -1
    cdef int _has_room(self) except -1
    cpdef close(self)
    cdef bint _is_open(self) noexcept
    cdef bint _is_active(self) noexcept
    cdef bint _is_lingering(self) noexcept
    cdef int _start_closing(self) except -1
    cdef object _close_sent(self)
    cdef int _start_linger(self) except -1
    cdef int _end_of_stream(self) except -1
    cdef object _tear_down(self, object error)
    cdef int _mark_closed(self, object error) except -1
    cdef int _stop_timer(self) except -1
    cdef int _fail_by(self, object error) except -1
    cdef int _end(self, object limit, object error) except -1
    cpdef int _retain(self, int64_t count) except -1
    cdef int64_t _acknowledged(self) noexcept
    cdef int _account(self) except -1


cdef int _wake_all(list waiters) except -1
