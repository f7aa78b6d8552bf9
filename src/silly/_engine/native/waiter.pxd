from cpython.ref cimport PyObject

from silly._engine.native.linux cimport PyMethodDef
from silly._engine.native.reactor cimport Reactor

cdef enum:
    PENDING = 0
    WOKEN = 1
    CANCELLED = 2


cdef class ForeignFuture:
    cdef object loop
    cdef object callback  # steps the waiting task ...
    cdef object context  # ... in this context; after cancellation, its message
    cdef unsigned char state
    # of a trampoline (trampoline.pyx); here, they take no memory
    cdef unsigned char outcome_kind
    cdef unsigned char running
    cdef unsigned char ending
    cdef public bint _asyncio_future_blocking

    cdef int wait(self) except -1
    cdef bint is_pending(self) noexcept
    cdef int wake(self, Reactor reactor) except -1
    cdef int call_back(self, Reactor reactor) except -1
    cdef int call_when_done(self, object callback, object context) except -1
    cdef object take_callback(self)
    cdef void fetch_coroutine(self) noexcept
    cdef int call_later(self, object callback, object context) except -1


cdef bint call_directly(
    Reactor reactor,
    object callback,
    PyObject *argument,
    object context,
    PyMethodDef *method=*,
) except -1
cpdef Waiter new_waiter(object loop)
cdef Waiter spare_waiter(Reactor reactor)


cdef class Waiter(ForeignFuture):
    cdef object purpose  # the waiting read, for repr ...
    cdef bint serves_read  # ... which is a `Wanted`
    cdef ForeignFuture trampoline  # waits on this instead of a task (trampoline.pyx)
