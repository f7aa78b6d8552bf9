from silly._engine.native.reactor cimport Reactor

cdef enum:
    PENDING = 0
    WOKEN = 1
    CANCELLED = 2


cdef class Waiter:
    cdef object loop
    cdef object callback  # what steps the waiting task ...
    cdef object context  # ... and the context to do it in
    cdef object purpose  # for repr: whom a task waits for
    cdef object cancel_message
    cdef Waiter trampoline  # what waits instead of a task (trampoline.pyx)
    cdef unsigned char state
    cdef public bint _asyncio_future_blocking

    cdef int wait(self) except -1
    cdef bint is_pending(self) noexcept
    cdef int wake(self, Reactor reactor) except -1
    cdef int call_back(self, Reactor reactor) except -1
