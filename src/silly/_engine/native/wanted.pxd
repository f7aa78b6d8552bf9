from libc.stdint cimport uint8_t

from silly._engine.native.waiter cimport Waiter

cdef enum:  # kinds of `Wanted`
    ALL = 0
    COUNT = 1
    DELIMITER = 2
    LINE = 3

cdef enum:  # states of a `Wanted`
    NEW = 0
    WAITING = 1
    DONE = 2


cdef class Wanted:
    cdef object stream  # a `Receiving`
    cdef Waiter waiter
    cdef bytes delimiter
    cdef size_t wanted
    cdef uint8_t kind
    cdef uint8_t state
    cdef object timeout
    cdef object timer
    cdef uint8_t timed_out

    cdef bint is_pending(self) noexcept
