"""The types with which ``../admission.py`` is compiled for this engine."""

cimport cython
from libc.stdint cimport int64_t

cdef bytes _V4_MAPPED


cdef class Admission:
    cdef readonly int64_t connections, peak
    cdef int64_t _max_connections, _max_per_client
    cdef readonly dict _clients
    cdef tuple _exempt4, _exempt6
    cdef object _proxies
    cdef readonly double _tokens
    cdef double _rate, _burst, _refilled

    @cython.locals(key=bytes, held=int64_t)
    cpdef bint enter(self, bytes client) except -1
    cpdef leave(self, bytes ticket)
    @cython.locals(key=bytes)
    cdef int _discharge(self, bytes ticket) except -1
    cdef bint _is_proxy(self, bytes client) except -1
    @cython.locals(now=double)
    cdef bint _take_token(self) except -1
    cdef bytes _key(self, bytes client)
