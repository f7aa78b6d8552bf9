from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from silly._engine.native.linux cimport sockaddr_in6
from silly._engine.native.reactor cimport Source
from silly._engine.native.waiter cimport Waiter


cdef struct Marks:  # see silly._engine.stream
    int64_t partial, acked, owed
    double partial_since, acked_since


cdef class Stream(Source):
    cdef object __weakref__
    cdef object on_gone
    cdef object budget  # see silly._engine.interface.Budget; or None
    cdef size_t accounted  # what that was told of

    # receiving: the unread bytes are [in_start, in_end) of in_data
    cdef uint8_t *in_data
    cdef size_t in_start, in_end
    cdef size_t in_capacity  # 0: in_data is in the reactor's scratch buffer, or NULL
    cdef bytes piece  # what in_data is in, if that is neither our own nor the reactor's
    cdef bytes sought  # the delimiter of the last search ...
    cdef size_t searched  # ... and how many unread bytes cannot begin it
    cdef size_t limit_of_reads
    cdef Read reader  # which is waiting

    # sending: [out_start, out_end) of out_data; the last `batched` were not tried yet
    cdef uint8_t *out_data
    cdef size_t out_start, out_end
    cdef size_t out_capacity  # 0: out_data is on the reactor's stage, or NULL
    cdef size_t batched
    cdef size_t limit_of_queue
    cdef list wake_on_room

    cdef uint16_t in_a_row  # reads that did not wait
    cdef uint8_t bulk  # the last piece was long
    cdef uint8_t paused
    cdef uint8_t in_turn
    cdef uint8_t full  # above the high-water mark: writers wait
    cdef uint8_t call_when_empty
    cdef uint8_t finishing
    cdef uint8_t writable
    cdef uint8_t ended
    cdef uint8_t closing
    cdef uint8_t failed
    cdef uint8_t gone
    cdef uint8_t reader_told, writer_told  # of the loss
    cdef uint8_t idle_swept
    cdef uint8_t is_made, is_begun
    cdef uint8_t ended_by  # a limit of LIMITS

    cdef object loss
    cdef double linger_time
    cdef object timer  # for lingering, once closing; before that for idleness
    cdef list wake_on_gone

    cdef int64_t bytes_in, bytes_out
    cdef int64_t all_acked  # of bytes_out: so many the peer is known to have
    cdef double opened, last_activity
    cdef double idle_time  # 0: no timeout
    cdef size_t unsent_seen

    cdef Marks *marks  # what _look_back saw last; NULL: nothing to remember

    cdef sockaddr_in6 peer
    cdef object peer_name  # where `peer` cannot tell: of a Unix socket
    cdef object local_name  # if known, and once closed; of an IP socket a sockaddr_in6 in bytes

    cdef Py_ssize_t find(self, bytes delimiter, size_t limit) except -2
    cdef Py_ssize_t match(self, Read read) except -2
    cdef bytes take(self, size_t count)
    cdef int drop_memory(self) except -1
    cdef bint reserve(self, size_t room) except -1
    cdef void account(self) noexcept
    cdef size_t most(self, size_t unread) noexcept
    cdef int forget_incoming(self) except -1
    cdef int receive(self) except -1
    cdef ssize_t receive_piece(self, size_t most) except -2
    cdef int receive_end(self) except -1
    cdef int wake_reader(self) except -1
    cdef int control_flow(self) except -1
    cdef int resume(self) except -1
    cdef object reader_error(self, bytes delimiter, size_t wanted)
    cdef object loss_error(self, bint told)

    cdef size_t high_water(self) noexcept
    cdef bint put(self, const void *data, size_t length) except -1
    cdef bint append(self, const void *data, size_t length) except -1
    cdef int release_outgoing(self) except -1
    cdef object write_at_once(self, bytes data)
    cdef object has_room_for_now(self)
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
    cdef int lose(self, object error) except -1
    cdef object ask_local_name(self)
    cdef bint has_inet_peer(self) noexcept
    cdef int mark_lost(self, object error) except -1
    cdef int arm_idle_timer(self, double when) except -1
    cdef double idle_until(self) except -1
    cdef int end(self, int limit, object error) except -1
    cdef int64_t acknowledged(self) noexcept
    cdef bint look_at_sending(self, double now, double rate, double window) except -1
    cdef bint look_at_reading(
        self, double now, double first_byte, double deadline, double rate
    ) except -1
    cdef Marks *remember(self) except NULL
    cdef int forget_marks(self) except -1
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
    cdef int leave(self) except -1
    cdef int finish(self) except -1


cdef bytes raw_local_name(int fd)
