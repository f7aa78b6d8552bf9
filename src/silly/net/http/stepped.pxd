cdef class Stepped:
    cdef object advance(self)
    cdef int step(self, void **out) except -1
