from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t

from silly._engine.native.receiving cimport Receiving


cdef class Sending(Receiving):
    # [out_start, out_end) of out_data; the last `batched` are the batch
    cdef uint8_t *out_data
    cdef size_t out_start, out_end
    cdef size_t out_capacity  # 0: out_data is in the reactor's send buffer, or NULL
    cdef bytes out_piece  # what out_data is in, if it is in an object
    cdef size_t batched
    cdef size_t max_queued  # the property max_unsent
    cdef uint8_t flush_scheduled
    cdef uint8_t call_when_empty
    cdef uint8_t finishing
    cdef uint32_t batch_threshold  # a larger batch is not left to grow

    cdef size_t high_water(self) noexcept
    cdef bint put(self, const void *data, size_t length) except -1
    cdef bint put_pieces(self, PyObject **pieces, Py_ssize_t count) except -1
    cdef int schedule_flush(self) except -1
    cdef bint find_place(self, size_t length) noexcept
    cdef bint append(self, const void *data, size_t length) except -1
    cdef int release_outgoing(self) except -1
    cdef object write_bytes(self, bytes data)
    cdef object write_buffer(self, object data)
    cdef object write_at_once(self, bytes owner, const uint8_t *data, size_t length)
    cdef bint send_first(self, bytes owner, const uint8_t *data, size_t length) except -1
    cdef bint write_if_empty(self, bytes data, bint at_once, size_t limit) except -1
    cdef object write_plaintext(self, bytes data)
    cdef int flush_plaintext(self) except -1
    cdef int send_now(self, const uint8_t *data, size_t length) except -1
    cdef object drained_or_yield(self)
    cdef int send_batch(self, int flags) except -1
    cdef int send_queue(self, int flags) except -1
