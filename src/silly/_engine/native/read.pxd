from libc.stdint cimport uint8_t

from silly._engine.native.receiving cimport Receiving
from silly._engine.native.wanted cimport Wanted


cdef class Read(Wanted):
    cdef object advance(self, object value)
    cdef int step(self, void **out) except -1
    cdef int suspend(self) except -1
    cdef int abandon(self) except -1
    cdef int finish(self) except -1


cdef class Lines(Read):
    pass


cdef Read new_read(Receiving stream, uint8_t kind)
cdef Lines new_lines(Receiving stream)
cdef raise_thrown(kind, value, traceback)
