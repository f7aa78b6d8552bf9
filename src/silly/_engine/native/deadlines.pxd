"""The types with which ``../deadlines.py`` is compiled for this engine."""

from libc.stdint cimport int64_t

from silly._engine.native.lifecycle cimport Lifecycle


cdef class DeadlineState:
    cdef int64_t partial, window_acked, window_written
    cdef double partial_since, window_start


cdef class Timed(Lifecycle):
    cdef int64_t _all_acked, _unsent_seen
    cdef DeadlineState _deadline_state
    cdef double _idle_timeout

    cdef int _arm_idle_timer(self, double when) except -1
    cdef double _idle_until(self) except -1
    cdef bint _check_send_rate(self, double now, double rate, double window) except -1
    cdef bint _check_read_deadline(
        self, double now, double first_byte, double deadline, double rate
    ) except -1
    cdef DeadlineState _get_deadline_state(self)
