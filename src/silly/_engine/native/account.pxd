"""The types with which ``../account.py`` is compiled for this engine."""

from libc.stdint cimport int64_t


cdef class Account:
    cdef readonly int64_t held
    cdef public object limit
