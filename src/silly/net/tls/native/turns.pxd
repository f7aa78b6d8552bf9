"""The types with which ``../turns.py`` is compiled for the native engine."""

cimport cython
from libc.stdint cimport int64_t


cdef class Turns:
    cdef object _loop, _most
    cdef readonly dict _running, _waiting, _ready
    cdef bint _is_due
    cdef readonly int64_t put_off

    @cython.locals(key=bytes, may_run=bint)
    cpdef wait(self, bytes client, turn)
    @cython.locals(key=bytes)
    cpdef end(self, bytes client, turn)
    cdef bint _may_run(self, bytes key) except -1
    cdef _be_ready(self, bytes key)
    @cython.locals(turns=dict)
    cdef bint _forget(self, bytes key, turn) except -1


cdef bytes _network(bytes client)
