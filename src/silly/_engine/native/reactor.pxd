from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t

from silly._engine.native.alarm cimport Alarm
from silly._engine.native.linux cimport sockaddr_in6
from silly._engine.native.records cimport Wire

cdef extern from *:
    ctypedef bint flag "unsigned char"  # True or False to Python, in a byte

cdef enum:
    RECEIVE = 131072  # bytes per receive, at most
    HEADROOM = 16384  # at most this many unread bytes are moved in front of the next receive
    GROUP = 32  # sources that receive before bytes are delivered to the first of them
    GROUP_BYTES = 65536  # a group is delivered after this much: more would leave the cache
    SCRATCH = 2 * GROUP_BYTES + HEADROOM + RECEIVE  # size of the scratch buffer, for a group
    STREAM = 448  # bytes of a stream, about
    ITEMS = 16  # results of reads that a reactor remembers
    SEND_BUFFER = 131072  # size of the send buffer, for the bytes that handlers write


cdef class Source:
    cdef Reactor reactor
    cdef int fd  # -1: closed
    cdef uint32_t generation  # distinguishes this registration from others of the same descriptor
    cdef uint32_t interest  # the events it is registered for; 0: not registered
    cdef uint8_t is_entering  # it is registered in the entrance
    # of a stream (lifecycle.py); here, they take no memory
    cdef readonly flag _is_closed, _has_filter
    cdef uint8_t _expects_more

    cdef int watch(self, uint32_t interest) except -1
    cdef int watch_failed(self, int error) except -1
    cdef int enter(self) except -1
    cdef int release(self) except -1
    cdef int ready(self, uint32_t events) except -1
    cdef int try_receive(self) except -1
    cdef void fetch_reader(self) noexcept
    cdef void fetch_handler(self) noexcept
    cdef int deliver(self) except -1
    cdef int end_of_turn(self) except -1
    cdef int save_unread(self) except -1
    cdef int disown(self) except -1


cdef class Reactor:
    cdef object __weakref__
    cdef readonly object loop
    cdef dict loop_attributes
    cdef int epoll  # its descriptor; -1: none
    cdef int entrance  # that of the set of connections that are being set up; -1: none ...
    cdef bint entrance_is_ready  # ... and whether it was ready in this poll
    cdef object selector  # the loop's, if the reactor waits inside it; None: nested
    cdef bint loop_is_ready  # ... and whether the loop's own set was ready in this wait
    cdef list timers  # ... and the heap of the loop's timers
    cdef object next_timer  # ... the first of them, if its time is known ...
    cdef double next_time  # ... which is this
    cdef Alarm alarm  # ... and what tells that it is due
    cdef object context  # the context that the loop calls the reactor in; None: unknown
    cdef list table  # sources by descriptor
    cdef int sources
    cdef uint32_t generation

    cdef bint direct  # in a batch, and no task is running: waiters may be woken at once
    cdef bint in_batch
    cdef double batch_time
    cdef int weight  # events that datagrams count as, each, in this batch
    cdef bint custom_clock  # the loop has its own clock

    cdef list written  # sources whose end_of_turn is to be called ...
    cdef Py_ssize_t written_count  # ... are the first so many ...
    cdef Py_ssize_t flushed  # ... without the first so many, for which that was done
    cdef bint flushing  # ... by a scheduled callback

    cdef list last  # callbacks for when all that is ready has been served ...
    cdef bint serving_last  # ... by a scheduled callback

    cdef list received  # the group: sources whose bytes were not delivered yet
    cdef size_t received_bytes  # how many bytes that is
    cdef object spare  # a waiter that no read uses (waiter.pyx); or None
    cdef uint8_t *scratch  # holds those bytes
    cdef size_t scratch_used
    cdef list items  # what short reads returned last; used again if nobody refers to it
    cdef Py_ssize_t last_item
    cdef PyObject *matching  # the read being woken, which ...
    cdef Py_ssize_t matched  # ... will return this many bytes, unless it finds less
    cdef uint8_t *send_buffer  # holds what the sources in `written` will send
    cdef size_t send_buffer_used
    cdef PyObject *send_buffer_tail  # the source whose bytes are last in it, and can be appended to
    cdef uint8_t *wire  # of streams with a filter: what was received, for a moment ...
    cdef Wire sealed  # ... and what will be sent

    # the connection being set up: until a stream takes it, the server or `adopt` owns it
    cdef int arriving  # its descriptor; -1: none
    cdef bint arriving_last  # whether it goes through the entrance
    cdef bint arriving_known  # whether the next two are known
    cdef sockaddr_in6 arriving_peer
    cdef object arriving_name
    # its handler's task, if it may be started as soon as it is set up
    cdef bint starts_directly
    cdef object first_step, first_context  # of the task
    cdef dict task_options  # of the last task that was started without a context ...
    cdef object task_name  # ... and had this name
    cdef object done  # a future that is done, without a result; or None (trampoline.pyx)

    cdef double busy_poll
    cdef double last_event
    cdef bint spinning
    cdef Source hot  # while spinning: the source that was ready last, if it was only one
    cdef object loop_queue  # callbacks that the loop will call next; None: unknown

    cdef double now(self) except -1
    cdef int open(self) except -1
    cdef int add(self, Source source) except -1
    cdef int remove(self, Source source) except -1
    cdef int flush_later(self, Source source) except -1
    cdef int schedule_flush(self) except -1
    cdef int queue_flush(self, Source source) except -1
    cdef int flush(self) except -1
    cdef int batch(self, step=*) except -1
    cdef int begin_batch(self) except -1
    cdef int end_batch(self, bint nested) except -1
    cdef int poll(self, int milliseconds) except -1
    cdef int open_entrance(self) except -1
    cdef int serve_entrance(self) except -1
    cdef int schedule_last(self) except -1
    cdef int do_last(self) except -1
    cdef int include_loop(self, int epoll) except -1
    cdef int serve(self, double seconds) except -1
    cdef double time_left(self, double until) except? -1
    cdef int leave(self) noexcept
    cdef int spin(self, double seconds) except -1
    cdef int receive_hot(self) except -1
    cdef uint8_t *scratch_space(self) except NULL
    cdef uint8_t *wire_space(self) except NULL
    cdef int deliver(self) except -1
    cdef int save_all_unread(self) except -1
    cdef int disown(self) except -1


cdef Reactor reactor_of(object loop)
cdef int wait_inside(object kind) except -1
cdef int allow_instances(object kind) except -1
