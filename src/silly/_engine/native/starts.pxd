"""The types with which ``../starts.py`` is compiled for this engine."""

cimport cython
from libc.stdint cimport int64_t

from silly._engine.native.ends cimport Ends


cdef class Starts(Ends):
    cdef public int64_t accepted
    cdef public bint is_auxiliary
    cdef public object _proxies, _loop, _make_conn, _handler, _start_task
    cdef public tuple _options
    cdef public tuple _prefaces, _observers
    cdef public list _registered_observers
    cdef public object _task_name, _on_handled, _handled_context
    cdef public object _sweep
    cdef public double _sweep_interval
    cdef public object _stepped
    cdef public dict prefacing
    cdef public set _late
    cdef public object _handshake_sweep
    cdef public double _handshake_interval
    cdef public object _on_preface_end

    cdef _preface(self, conn, tuple prefaces)
    @cython.locals(has_failed=bint)
    cpdef _end_preface(self, steps, refused, defect, bint is_cancelled)
    cpdef _let_in(self, conn)
    cpdef _handle(self, conn)
