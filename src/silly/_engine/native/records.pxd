from libc.stdint cimport uint8_t


cdef struct Wire:  # bytes to send, in memory that grows
    uint8_t *data
    size_t length
    size_t capacity


cdef class Records:
    cdef readonly bint is_ready
    cdef readonly bint is_ended
    cdef readonly object error

    cdef Py_ssize_t open_into(
        self, const uint8_t *wire, size_t size, uint8_t *place, size_t room, Wire *answer
    ) except -1
    cdef int seal_into(self, const uint8_t *plaintext, size_t size, Wire *sealed) except -1


cdef bint add_to(Wire *wire, const void *data, size_t size) noexcept nogil
cdef void free_wire(Wire *wire) noexcept nogil
