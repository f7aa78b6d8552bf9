from libc.stdint cimport uint8_t

from silly._engine.native.receiving cimport Receiving
from silly._engine.native.wanted cimport Wanted


cdef class Read(Wanted):
    cdef object advance(self, object value)
    cdef int step(self, void **out) except -1
    cdef Py_ssize_t matched(self) except -2
    cdef Py_ssize_t last_item(self) noexcept
    cdef int suspend(self) except -1
    cdef int wait(self, void **out) except -1
    cdef int abandon(self) except -1
    cdef int finish(self) except -1


cdef class Lines(Read):
    pass


cdef class Batches(Lines):
    cdef size_t most  # items in a batch
    # The last two batches, if they are short: when the handler has dropped one, it is used again.
    cdef list last, spare


cdef Read new_read(Receiving stream, uint8_t kind)
cdef Lines new_lines(Receiving stream)
cdef Batches new_batches(
    Receiving stream, bytes delimiter, size_t size, size_t most, object timeout
)
cdef raise_thrown(kind, value, traceback)
