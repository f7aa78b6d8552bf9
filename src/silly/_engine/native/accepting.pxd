"""The types with which ``../accepting.py`` is compiled for this engine."""

from silly._engine.native.admission cimport Admission
from silly._engine.native.reactor cimport Source

cdef int ACCEPT_BATCH, SOMAXCONN
cdef double BACK_OFF


cdef class Accepting(Source):
    cdef Admission _gate
    cdef int _reserve
    cdef object _timer
    cdef object _turned_away

    cdef int _begin(self, Admission gate) except -1
    cdef int _accept_one(self) except -1
    cdef int _turn_away_one(self) except -1
    cdef bint _is_listening(self) noexcept
    cdef int _watch_backlog(self, bint on) except -1
    cdef object _resume_later(self, double delay)

    cdef int _accept_some(self, int most) except -1
    cdef bint _shed(self, int error) except -1
    cdef int _hold_reserve(self) except -1
    cdef int _drop_reserve(self) except -1
    cdef int _back_off(self, int error) except -1
    cdef int _stop(self) except -1
