from libc.stdint cimport int64_t, uint8_t, uint16_t

from silly._engine.native.filter cimport Filtered
from silly._engine.native.linux cimport sockaddr_in6
from silly._engine.native.waiter cimport Waiter


cdef class Stream(Filtered):
    cdef object __weakref__

    # receiving: the unread bytes are [in_start, in_end) of in_data
    cdef uint8_t *in_data
    cdef size_t in_start, in_end
    cdef size_t in_capacity  # 0: in_data is in the reactor's scratch buffer, or NULL
    cdef bytes piece  # owns in_data, if neither this stream nor the reactor does
    cdef bytes last_delimiter  # the delimiter of the last search ...
    cdef size_t searched  # ... and how many unread bytes are known not to start it
    cdef size_t max_unread  # the property read_limit
    cdef size_t receive_threshold  # with fewer unread bytes, receiving needs no further check
    cdef Read reader  # the read that waits; or None

    # sending: [out_start, out_end) of out_data; the last `batched` are the batch
    cdef uint8_t *out_data
    cdef size_t out_start, out_end
    cdef size_t out_capacity  # 0: out_data is in the reactor's send buffer, or NULL
    cdef size_t batched
    cdef size_t batch_threshold  # a larger batch is not left to grow
    cdef size_t max_queued  # the property max_unsent
    cdef list plaintext  # with a filter: the batch, which is sealed as a whole; or None

    cdef uint16_t reads_in_a_row  # reads without waiting
    cdef uint8_t bulk  # the last receive was long
    cdef uint8_t flush_scheduled
    cdef uint8_t call_when_empty
    cdef uint8_t finishing
    cdef uint8_t constructed, initialized

    cdef sockaddr_in6 peer
    cdef object peer_name  # if `peer` is not an IP address
    cdef object local_name  # None: not known yet; for an IP socket, a sockaddr_in6 in bytes

    cdef Py_ssize_t find(self, bytes delimiter, size_t limit) except -2
    cdef Py_ssize_t match(self, Read read) except -2
    cdef bytes take(self, size_t count)
    cdef int free_incoming(self) except -1
    cdef bint reserve(self, size_t room) except -1
    cdef size_t receive_limit(self, size_t unread) noexcept
    cdef int receive(self) except -1
    cdef ssize_t receive_piece(self, size_t most) except -2
    cdef int receive_end(self) except -1
    cdef int receive_wire(self, size_t unread) except -1
    cdef int control_flow(self) except -1
    cdef int set_thresholds(self) noexcept

    cdef size_t high_water(self) noexcept
    cdef bint put(self, const void *data, size_t length) except -1
    cdef bint append(self, const void *data, size_t length) except -1
    cdef int release_outgoing(self) except -1
    cdef object write_at_once(self, bytes data)
    cdef object write_plaintext(self, bytes data)
    cdef int flush_plaintext(self) except -1
    cdef object drained_or_yield(self)
    cdef int send_queue(self) except -1
    cdef int fail(self, int error) except -1

    cdef object query_local_name(self)
    cdef bint has_inet_peer(self) noexcept


cdef class Read:
    cdef Stream stream
    cdef Waiter waiter
    cdef bytes delimiter
    cdef size_t wanted
    cdef object timeout
    cdef object timer
    cdef uint8_t kind
    cdef uint8_t state
    cdef uint8_t timed_out

    cdef object advance(self, object value)
    cdef int step(self, void **out) except -1
    cdef bint is_pending(self) noexcept
    cdef int suspend(self) except -1
    cdef int abandon(self) except -1
    cdef int finish(self) except -1


cdef bytes raw_local_name(int fd)
