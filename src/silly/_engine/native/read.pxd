from libc.stdint cimport uint8_t

from silly._engine.native.receiving cimport Receiving
from silly._engine.native.waiter cimport Waiter

cdef enum:  # kinds of `Read`
    ALL = 0
    COUNT = 1
    DELIMITER = 2
    LINE = 3


cdef class Read:
    cdef Receiving stream
    cdef Waiter waiter
    cdef bytes delimiter
    cdef size_t wanted
    cdef object timeout
    cdef object timer
    cdef uint8_t kind
    cdef uint8_t state
    cdef uint8_t timed_out

    cdef object advance(self, object value)
    cdef int step(self, void **out) except -1
    cdef bint is_pending(self) noexcept
    cdef int suspend(self) except -1
    cdef int abandon(self) except -1
    cdef int finish(self) except -1


cdef class Lines(Read):
    pass


cdef Read new_read(Receiving stream, uint8_t kind)
cdef Lines new_lines(Receiving stream)
cdef raise_thrown(kind, value, traceback)
