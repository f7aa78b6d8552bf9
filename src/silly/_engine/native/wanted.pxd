from libc.stdint cimport uint8_t

from silly._engine.native.waiter cimport ForeignFuture

cdef enum:  # kinds of `Wanted`
    ALL = 0
    COUNT = 1
    DELIMITER = 2
    LINE = 3

cdef enum:  # states of a `Wanted`
    NEW = 0
    WAITING = 1
    DONE = 2

cdef enum:  # results of a step, beside 0 (it returned) and 1 (it waits)
    ENDED = 2  # the iteration is over
    FAILED = 3  # with the exception that is given


cdef class Wanted:
    cdef object stream  # a `Receiving`
    cdef ForeignFuture waiter  # while it waits: a `Waiter`, or a trampoline
    cdef bytes delimiter
    cdef size_t wanted
    cdef uint8_t kind
    cdef uint8_t state
    cdef uint8_t timed_out
    cdef object timeout
    cdef object timer

    cdef bint is_pending(self) noexcept
