from libc.stdint cimport int64_t


cdef class Descriptor:
    cdef readonly int number


cdef class OpenFile:
    cdef Descriptor descriptor  # None: it is closed
    cdef public int64_t modified  # nanoseconds since 1970

    cdef Descriptor open(self)
    cdef int shut(self) except -1


cdef class FilePart:
    cdef readonly OpenFile file
    cdef public int64_t at, left
    cdef readonly int64_t size
    cdef public bint is_begun
    cdef int64_t cold_until

    cdef int64_t send_some(self, conn) except? -3
