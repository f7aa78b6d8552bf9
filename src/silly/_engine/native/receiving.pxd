from libc.stdint cimport uint8_t, uint16_t, uint32_t

from silly._engine.native.filter cimport Filtered
from silly._engine.native.records cimport Records
from silly._engine.native.wanted cimport Wanted

cdef enum:
    LARGE = 16384  # bytes: longer pieces are received and sent without a copy
    LONG_READ = 32768  # bytes: longer reads receive into their result
    MAX_READS_IN_A_ROW = 1000  # reads without waiting, before other tasks run

cdef enum:  # results of `find` and `match` that are not numbers of bytes
    INCOMPLETE = 0
    TOO_LONG = -1


cdef class Receiving(Filtered):
    # the unread bytes are [in_start, in_end) of in_data
    cdef uint8_t *in_data
    cdef size_t in_start, in_end
    # 0: in_data is in the reactor's scratch buffer, or in a `piece` that is complete, or NULL
    cdef size_t in_capacity
    cdef bytes piece  # what in_data is in, if it is in an object
    cdef bytes last_delimiter  # the delimiter of the last search ...
    cdef size_t searched  # ... and how many unread bytes are known not to start it
    cdef size_t max_unread  # the property read_limit
    cdef Wanted reader  # the read that waits; or None
    cdef uint16_t reads_in_a_row  # reads without waiting
    cdef uint8_t bulk  # the last receive was long
    cdef uint8_t fin_received
    cdef uint32_t receive_threshold  # with fewer unread bytes, receiving needs no further check

    cdef Py_ssize_t find(self, bytes delimiter, size_t limit) except -2
    cdef Py_ssize_t match(self, Wanted read) except -2
    cdef bytes take(self, size_t count)
    cdef size_t take_more(self, Wanted read, list taken, size_t most) except? 0
    cdef int free_incoming(self) except -1
    cdef bint reserve(self, size_t room) except -1
    cdef bint is_long_read(self, size_t unread) noexcept
    cdef bint reserve_result(self) except -1
    cdef size_t receive_limit(self, size_t unread) noexcept
    cdef int receive(self) except -1
    cdef ssize_t receive_piece(self, size_t most) except -2
    cdef int receive_end(self) except -1
    cdef int receive_ciphertext(self, size_t unread) except -1
    cdef int open_records(self, Records records, size_t size) except -1
    cdef int send_early(self) except -1
    cdef int send_sealed(self) except -1
    cdef int tell_consumer(self) except -1
    cdef int control_flow(self) except -1
    cdef int set_thresholds(self) noexcept
    cdef int fail(self, int error) except -1


cdef size_t capped(value) except? 0
