from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t

from silly._engine.native.linux cimport sockaddr_in6

cdef enum:
    RECEIVE = 131072  # bytes received at once, at most
    HEADROOM = 16384  # unread bytes that are moved to where the next ones arrive, at most
    GROUP = 32  # sources that receive before the first of them is handed its bytes
    GROUP_BYTES = 65536  # received by a group, at which it is handed them: more leaves the cache
    SCRATCH = 2 * GROUP_BYTES + HEADROOM + RECEIVE  # for what a group received
    STAGE = 131072  # for what handlers write until it is sent


cdef class Source:
    cdef Reactor reactor
    cdef int fd  # -1: closed
    cdef uint32_t generation  # tells this registration from others of the same descriptor
    cdef uint32_t interest  # the events it is registered for; 0: not registered

    cdef int watch(self, uint32_t interest) except -1
    cdef int not_watched(self, int error) except -1
    cdef int release(self) except -1
    cdef int ready(self, uint32_t events) except -1
    cdef int try_receive(self) except -1
    cdef int hand_out(self) except -1
    cdef int end_of_turn(self) except -1
    cdef int own(self) except -1
    cdef int disown(self) except -1


cdef class Reactor:
    cdef object __weakref__
    cdef readonly object loop
    cdef int epoll  # its descriptor; -1: none
    cdef object context  # in which the loop calls us; None: it does not tell
    cdef list table  # sources by descriptor
    cdef int sources
    cdef uint32_t generation

    cdef bint direct  # in a batch, and no task is running: waiters may be woken at once
    cdef bint in_batch
    cdef double batch_time
    cdef bint own_clock

    cdef list written  # sources with end_of_turn to come
    cdef bint flushing  # ... which is scheduled

    cdef list received  # the group: sources whose bytes were not handed out yet
    cdef size_t received_bytes  # how many these are
    cdef uint8_t *scratch  # where these bytes are
    cdef size_t scratch_used
    cdef uint8_t *stage  # what the sources in `written` are to send
    cdef size_t stage_used
    cdef PyObject *on_stage  # the last of them, which can add to it

    # the connection that is being handed over: until a stream takes it, it is the giver's
    cdef int arriving  # its descriptor; -1: none
    cdef bint arriving_known  # its peer and its local name are the next two
    cdef sockaddr_in6 arriving_peer
    cdef object arriving_name

    cdef double busy_poll
    cdef double last_event
    cdef bint spinning
    cdef Source hot  # while spinning: the one source that was ready last
    cdef object loop_queue  # what the loop will call next; None: it does not tell

    cdef double now(self) except -1
    cdef int open(self) except -1
    cdef int add(self, Source source) except -1
    cdef int remove(self, Source source) except -1
    cdef int flush_later(self, Source source) except -1
    cdef int flush(self) except -1
    cdef int batch(self, step=*) except -1
    cdef int begin_batch(self) except -1
    cdef int end_batch(self, bint nested) except -1
    cdef int poll(self) except -1
    cdef int receive_hot(self) except -1
    cdef uint8_t *room(self) except NULL
    cdef int hand_out(self) except -1
    cdef int take_away(self) except -1
    cdef int disown(self) except -1


cdef Reactor reactor_of(object loop)
