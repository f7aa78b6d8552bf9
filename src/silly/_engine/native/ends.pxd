"""The types with which ``../ends.py`` is compiled for this engine."""

cimport cython
from libc.stdint cimport int64_t

from silly._engine.native.admission cimport Admission
from silly._engine.native.filter cimport Filtered


cdef class Ends:
    cdef readonly dict handling
    cdef readonly set lingering
    cdef readonly int64_t past_bytes_in, past_bytes_out
    cdef readonly object changed
    cdef Admission _admission
    cdef public bint _is_draining
    cdef readonly dict _tickets, _observed
    cdef public dict _on_draining

    @cython.locals(conn=Filtered, log_it=bint, is_usual=bint)
    cpdef _handled(self, task)
    cpdef _linger(self, Filtered conn)
    @cython.locals(log_it=bint)
    cpdef conn_closed(self, Filtered conn)
    cdef _notify_if_over(self, conn)
