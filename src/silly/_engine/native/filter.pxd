"""The types with which ``../filter.py`` is compiled for this engine."""

cimport cython
from libc.stdint cimport int64_t

from silly._engine.native.deadlines cimport Timed
from silly._engine.native.records cimport Records


cdef int64_t NO_ROOM, UNABLE, IN_ONE_PACKET, WIDE, UNSENT_IN_KERNEL


cdef class FilterState:
    cdef object filter
    cdef list held
    cdef int64_t held_size
    cdef int64_t answered
    cdef int64_t plain_in, plain_out
    cdef object waiter
    cdef bytes early
    cdef list plaintext  # the batch, which is sealed as a whole
    cdef Records records  # the filter, if it is one


cdef class Filtered(Timed):
    cdef FilterState _filter

    cdef int _begin(
        self, object owner, object budget, double linger, double idle_timeout, bint idle_swept
    ) except -1
    cdef object _take_unread(self)
    cdef int _use_filter(self) except -1
    cdef int _feed(self, bytes plaintext) except -1
    cdef int _send_wire(self, bytes data) except -1
    cdef int _send_early(self, bytes wire) except -1
    cdef object _new_waiter(self)

    cdef int _wake_handshake(self) except -1
    cdef object _open_wire(self, bytes wire)
    cdef int _count_answer(self, int64_t size) except -1
    cdef object _seal(self, bytes plaintext)
    cdef int _release_held(self) except -1
    cdef int _send_from_filter(self, object wire) except -1
    cdef int _receive_wire(self, bytes wire) except -1
    cdef int _heed_filter(self) except -1
    cdef int _handle_fin(self) except -1
    cdef int64_t _held_size(self) noexcept
    @cython.locals(target=int, is_whole=bint, sent=int64_t)
    cpdef int64_t _send_file(self, int file, int64_t offset, int64_t count) except? -3
