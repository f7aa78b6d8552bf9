from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from silly._engine.native.linux cimport sockaddr_in6
from silly._engine.native.reactor cimport Source
from silly._engine.native.waiter cimport Waiter


cdef struct DeadlineState:  # as in silly._engine.stream
    int64_t partial, window_acked, window_written
    double partial_since, window_start


cdef class Stream(Source):
    cdef object __weakref__
    cdef object on_closed
    cdef object budget  # a silly._engine.interface.Budget; or None
    cdef size_t accounted  # bytes reported to it

    # receiving: the unread bytes are [in_start, in_end) of in_data
    cdef uint8_t *in_data
    cdef size_t in_start, in_end
    cdef size_t in_capacity  # 0: in_data is in the reactor's scratch buffer, or NULL
    cdef bytes piece  # owns in_data, if neither this stream nor the reactor does
    cdef bytes last_delimiter  # the delimiter of the last search ...
    cdef size_t searched  # ... and how many unread bytes are known not to start it
    cdef size_t max_unread  # the property read_limit
    cdef Read reader  # the read that waits; or None

    # sending: [out_start, out_end) of out_data; the last `batched` are the batch
    cdef uint8_t *out_data
    cdef size_t out_start, out_end
    cdef size_t out_capacity  # 0: out_data is in the reactor's send buffer, or NULL
    cdef size_t batched
    cdef size_t max_queued  # the property max_unsent
    cdef list room_waiters

    cdef uint16_t reads_in_a_row  # reads without waiting
    cdef uint8_t bulk  # the last receive was long
    cdef uint8_t paused
    cdef uint8_t flush_scheduled
    cdef uint8_t full  # above the high-water mark: writers wait
    cdef uint8_t call_when_empty
    cdef uint8_t finishing
    cdef uint8_t writable
    cdef uint8_t ended
    cdef uint8_t closing
    cdef uint8_t failed
    cdef uint8_t closed
    cdef uint8_t reader_notified, writer_notified  # whether the loss was raised
    cdef uint8_t idle_swept
    cdef uint8_t constructed, initialized
    cdef uint8_t ended_by  # index in LIMITS

    cdef object loss
    cdef double linger_time
    cdef object timer  # the linger timer if closing, else the idle timer
    cdef list close_waiters

    cdef int64_t bytes_in, bytes_out
    cdef int64_t all_acked  # bytes known to be acknowledged, if that is all of them
    cdef double opened, last_activity
    cdef double idle_time  # 0: no timeout
    cdef size_t unsent_seen

    cdef DeadlineState *deadline_state  # NULL: no deadline is in progress

    cdef sockaddr_in6 peer
    cdef object peer_name  # if `peer` is not an IP address
    cdef object local_name  # None: not known yet; for an IP socket, a sockaddr_in6 in bytes

    cdef Py_ssize_t find(self, bytes delimiter, size_t limit) except -2
    cdef Py_ssize_t match(self, Read read) except -2
    cdef bytes take(self, size_t count)
    cdef int free_incoming(self) except -1
    cdef bint reserve(self, size_t room) except -1
    cdef void account(self) noexcept
    cdef size_t receive_limit(self, size_t unread) noexcept
    cdef int discard_unread(self) except -1
    cdef int receive(self) except -1
    cdef ssize_t receive_piece(self, size_t most) except -2
    cdef int receive_end(self) except -1
    cdef int wake_reader(self) except -1
    cdef int control_flow(self) except -1
    cdef int resume(self) except -1
    cdef object reader_error(self, bytes delimiter, size_t wanted)
    cdef object loss_error(self, bint repeated)

    cdef size_t high_water(self) noexcept
    cdef bint put(self, const void *data, size_t length) except -1
    cdef bint append(self, const void *data, size_t length) except -1
    cdef int release_outgoing(self) except -1
    cdef object write_at_once(self, bytes data)
    cdef object drained_or_yield(self)
    cdef int flush(self) except -1
    cdef int send_queue(self) except -1
    cdef int fail(self, int error) except -1
    cdef object writer_error(self)
    cdef int wake_all(self, list waiters) except -1
    cdef int wake_writers(self) except -1
    cdef int has_room(self) except -1

    cdef int finish(self) except -1
    cdef int enter_closing(self) except -1
    cdef int close_sent(self) except -1
    cdef int start_linger(self) except -1
    cdef int close_link(self) except -1
    cdef int reset_link(self) except -1
    cdef int tear_down(self, object error) except -1
    cdef object query_local_name(self)
    cdef bint has_inet_peer(self) noexcept
    cdef int mark_closed(self, object error) except -1
    cdef int arm_idle_timer(self, double when) except -1
    cdef double idle_until(self) except -1
    cdef int end(self, int limit, object error) except -1
    cdef int64_t acknowledged(self) noexcept
    cdef bint check_send_rate(self, double now, double rate, double window) except -1
    cdef bint check_read_deadline(
        self, double now, double first_byte, double deadline, double rate
    ) except -1
    cdef DeadlineState *ensure_deadline_state(self) except NULL
    cdef int free_deadline_state(self) except -1
    cdef int stop_timer(self) except -1


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
