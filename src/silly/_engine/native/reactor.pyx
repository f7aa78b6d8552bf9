"""The reactor: one epoll set, nested in whatever asyncio loop runs.

The descriptor of the epoll set is itself watched by the loop (epoll(7): an
epoll descriptor is readable when one of its members is ready). One callback of
the loop then serves a whole batch of ready descriptors; tasks that were waiting
for their bytes are stepped inside it (waiter.pyx).

The rules it keeps:

- An event names a descriptor and a generation, never an object. It is given to
  the source that is registered for both now; events of one that was closed
  earlier in the same batch, or whose descriptor has been used anew, are
  dropped.
- A source is held by the table while it has a descriptor here, and by the
  caller while it is called: handlers may close, abort and forget any of them
  at any time.
- Sources receive in groups, each of a group behind the other in the scratch
  buffer; then each is handed its bytes, which steps its reader; then all that
  the readers wrote is sent. So each kind of work finds its code and its data in
  the processor's caches. What a reader left unread is moved to memory of its
  own before the scratch buffer is used again. Should others receive before that
  (a loop run inside a handler), all of the group take their bytes away.
- Whoever receives asks `Reactor.room` for the place. There is always room for
  the longest piece and what is moved in front of it, whatever happened before:
  where there is not, the group takes its bytes away first.
- After a fork the child disowns everything: it closes its copies of the
  descriptors and leaves the shared epoll set alone.
"""

from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EEXIST, errno
from libc.stdint cimport uint32_t, uint64_t

from silly._engine.native.linux cimport (
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    PyContext_Enter,
    PyContext_Exit,
    PyTypeObject,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    forbid_making,
    monotonic,
    pthread_atfork,
)

import asyncio
import os
import weakref

cdef enum:
    EVENTS = 256  # taken from the kernel at once; with as many served, the loop has its turn

cdef double SPIN = 20e-6  # seconds of busy polling before the loop has its turn ...
cdef double LONG_SPIN = 200e-6  # ... where it can be seen whether it has anything to do

cdef object _reactors = weakref.WeakSet()  # of the process
cdef bint _has_forked = False


cdef Reactor reactor_of(object loop):
    """Return the reactor of *loop*, which refers to it."""
    # An attribute, not an entry of a dictionary of ours: a reactor refers to its loop, so such
    # an entry would keep both forever.
    reactor = getattr(loop, "_silly_reactor", None)
    if reactor is None:
        reactor = loop._silly_reactor = Reactor.__new__(Reactor, loop)
        _reactors.add(reactor)
    return <Reactor?>reactor


cdef void _forking() noexcept nogil:
    global _has_forked
    _has_forked = True


def _forked():
    for reactor in list(_reactors):
        reactor.loop._silly_reactor = None
        (<Reactor>reactor).disown()
    _reactors.clear()


pthread_atfork(&_forking, NULL, NULL)
os.register_at_fork(after_in_child=_forked)


cdef class Source:
    """Whatever has a descriptor in a reactor; the base of `Stream` and `Server`."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        # Reached only without a reactor that still knows it: with its loop gone.
        if self.fd >= 0:
            close(self.fd)

    cdef int watch(self, uint32_t interest) except -1:
        """Be told of these events from now on; of none for 0."""
        cdef epoll_event event
        cdef int operation
        if interest == self.interest or self.fd < 0:
            return 0
        if interest == 0:
            # Not only an empty set of events: errors would still be told, again and again.
            operation = EPOLL_CTL_DEL
        elif self.interest == 0:
            operation = EPOLL_CTL_ADD
        else:
            operation = EPOLL_CTL_MOD
        event.events = interest
        event.data.u64 = (<uint64_t>self.generation << 32) | <uint32_t>self.fd
        if epoll_ctl(self.reactor.epoll, operation, self.fd, &event) < 0:
            if interest != 0:
                return self.not_watched(errno)
        self.interest = interest
        return 0

    cdef int not_watched(self, int error) except -1:
        """Cope with an epoll_ctl that failed."""
        raise OSError(error, f"epoll_ctl: {os.strerror(error)}")

    cdef int release(self) except -1:
        """Close the descriptor, which also takes it out of the epoll set."""
        cdef int fd = self.fd
        if fd >= 0:
            if _has_forked:  # a duplicate in another process would keep it in there (epoll(7))
                self.watch(0)
            self.interest = 0
            self.reactor.remove(self)
            self.fd = -1
            close(fd)
        return 0

    cdef int ready(self, uint32_t events) except -1:
        raise NotImplementedError

    cdef int try_receive(self) except -1:
        """Receive what is there, without having been told that anything is; tell whether it was."""
        return 0

    cdef int hand_out(self) except -1:
        """Step whoever waits for what was received."""
        return 0

    cdef int end_of_turn(self) except -1:
        """Send what was written in this turn, or take it off the stage."""
        return 0

    cdef int own(self) except -1:
        """Take what is unread out of the scratch buffer."""
        return 0

    cdef int disown(self) except -1:
        """Be gone, in a forked child, without a trace on the wire."""
        cdef int fd = self.fd
        self.fd = -1
        self.interest = 0
        if fd >= 0:
            close(fd)
        return 0


cdef class Reactor:
    """The epoll set of one event loop."""

    def __cinit__(self, loop):
        self.loop = loop
        self.epoll = self.arriving = -1
        self.table = []
        self.written = []
        self.received = []
        self.scratch = <uint8_t *>PyMem_RawMalloc(SCRATCH)
        self.stage = <uint8_t *>PyMem_RawMalloc(STAGE)
        if self.scratch == NULL or self.stage == NULL:
            raise MemoryError
        # glibc's malloc gives blocks of 128 KiB back to the system at once, until one larger
        # than that was freed (mallopt(3), M_MMAP_THRESHOLD): long pieces would be new pages.
        PyMem_RawFree(PyMem_RawMalloc(4 * RECEIVE))
        self.loop_queue = getattr(loop, "_ready", None)
        # A loop whose clock is not the system's (a virtual one) is asked for the time.
        time = getattr(type(loop), "time", None)
        self.own_clock = time is not asyncio.BaseEventLoop.time and not (
            type(loop).__module__.partition(".")[0] == "uvloop"
        )

    def __dealloc__(self):
        PyMem_RawFree(self.scratch)
        PyMem_RawFree(self.stage)
        if self.epoll >= 0:
            close(self.epoll)

    # ---------------------------------------------------------------- sources

    cdef int add(self, Source source) except -1:
        """Give *source*, which has its descriptor, a place in the table."""
        cdef int fd = source.fd
        if self.epoll < 0:
            self.open()
        while fd >= PyList_GET_SIZE(self.table):
            self.table.extend([None] * (PyList_GET_SIZE(self.table) + 64))
        if self.table[fd] is not None:
            raise OSError(EEXIST, f"descriptor {fd} belongs to another connection or listener")
        self.table[fd] = source
        self.generation += 1
        source.generation = self.generation
        source.reactor = self
        self.sources += 1
        return 0

    cdef int open(self) except -1:
        """Make the epoll set, and have the loop watch it."""
        cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
        if epoll < 0:
            raise OSError(errno, f"epoll_create1: {os.strerror(errno)}")
        try:
            self.loop.add_reader(epoll, self._on_ready)
        except BaseException:
            close(epoll)
            raise
        self.epoll = epoll
        try:
            self.context = self.loop._selector.get_key(epoll).data[0]._context
        except (AttributeError, IndexError, KeyError, TypeError):
            self.context = None
        return 0

    cdef int remove(self, Source source) except -1:
        cdef int fd = source.fd
        if fd >= PyList_GET_SIZE(self.table) or self.table[fd] is not source:
            return 0
        self.table[fd] = None
        self.sources -= 1
        if self.sources == 0 and self.epoll >= 0:
            if not self.loop.is_closed():
                self.loop.remove_reader(self.epoll)
            close(self.epoll)
            self.epoll = -1
            self.busy_poll = 0
        return 0

    # ------------------------------------------------------------------ batches

    cdef double now(self) except -1:
        """The loop's time."""
        if self.own_clock:
            return self.loop.time()
        if self.in_batch:
            return self.batch_time
        return monotonic()

    def _on_ready(self):
        # Out of the context that the loop calls this in, always the same: a loop that runs
        # inside a handler must be able to call this, too.
        cdef object context = self.context
        if context is not None:
            PyContext_Exit(context)
        try:
            self.batch()
        finally:
            if context is not None:
                PyContext_Enter(context)
        if self.busy_poll > 0 and not self.spinning:
            self.spinning = True
            self.loop.call_soon(self._spin)

    cdef int batch(self, step=None) except -1:
        """Call *step*, if there is one, and serve what is ready; return how many events that were."""
        cdef bint nested = self.in_batch
        cdef int served = 0
        self.begin_batch()
        try:
            if step is not None:
                self.batch_time = monotonic()
                step()
                if PyList_GET_SIZE(self.written) > 0:
                    self.flush()
            served = self.poll()
        finally:
            self.end_batch(nested)
        return served

    cdef int begin_batch(self) except -1:
        if self.in_batch:  # a loop that runs inside a handler
            self.direct = False
            self.take_away()
        else:
            self.direct = self.in_batch = True
        return 0

    cdef int end_batch(self, bint nested) except -1:
        self.direct = False  # of a nested one: a task runs around it
        self.in_batch = nested
        if PyList_GET_SIZE(self.received) > 0:  # left by an exception
            self.take_away()
            self.loop.call_soon(self._hand_out)
        if PyList_GET_SIZE(self.written) > 0 and not self.flushing:  # so is this
            self.flushing = True
            self.loop.call_soon(self._flush)
        return 0

    cdef int poll(self) except -1:
        cdef epoll_event events[EVENTS]
        cdef int count, i, served = 0
        cdef uint32_t fd
        cdef Source source
        cdef object entry
        # Looking again costs less than the loop's turn in between would.
        while served < EVENTS and self.epoll >= 0:
            count = epoll_wait(self.epoll, events, EVENTS, 0)
            if count <= 0:
                break
            served += count
            self.last_event = self.batch_time = monotonic()
            for i in range(count):
                fd = <uint32_t>events[i].data.u64
                if fd >= <uint32_t>PyList_GET_SIZE(self.table):
                    continue
                entry = <object>PyList_GET_ITEM(self.table, fd)
                if entry is None:
                    continue
                source = <Source>entry
                if source.generation == <uint32_t>(events[i].data.u64 >> 32):
                    if self.busy_poll > 0:
                        self.hot = source if count == 1 else None
                    source.ready(events[i].events)
                if PyList_GET_SIZE(self.received) >= GROUP or (
                    self.received_bytes >= GROUP_BYTES or self.scratch_used >= 2 * GROUP_BYTES
                ):
                    self.hand_out()
            if PyList_GET_SIZE(self.received) > 0:
                self.hand_out()
            if PyList_GET_SIZE(self.written) > 0:
                self.flush()
        return served

    # ------------------------------------------------------------------- groups

    cdef uint8_t *room(self) except NULL:
        """Return a place in the scratch buffer with room for HEADROOM + RECEIVE bytes."""
        if self.scratch_used > SCRATCH - HEADROOM - RECEIVE:
            self.take_away()
        return self.scratch + self.scratch_used

    cdef int hand_out(self) except -1:
        """Hand each of the group its bytes, and send what that made them write."""
        cdef list received = self.received
        cdef Source source
        cdef Py_ssize_t i = 0
        while i < PyList_GET_SIZE(received):  # a loop run inside a handler may do the rest
            source = <Source>PyList_GET_ITEM(received, i)
            source.hand_out()
            i += 1
        received.clear()
        self.scratch_used = self.received_bytes = 0
        if PyList_GET_SIZE(self.written) > 0:
            self.flush()
        return 0

    def _hand_out(self):
        self.hand_out()

    cdef int take_away(self) except -1:
        """Have nothing in the scratch buffer that is still needed."""
        for entry in self.received:
            (<Source>entry).own()
        self.scratch_used = 0
        return 0

    # ------------------------------------------------------------ ends of turns

    cdef int flush_later(self, Source source) except -1:
        """Call *source*'s end_of_turn before the loop goes on to something else."""
        if not self.in_batch and not self.flushing:
            self.flushing = True
            self.loop.call_soon(self._flush)
        self.written.append(source)
        return 0

    def _flush(self):
        self.flushing = False
        self.flush()

    cdef int flush(self) except -1:
        cdef list written = self.written
        self.written = []
        try:
            for entry in written:
                (<Source>entry).end_of_turn()
        except BaseException:
            self.written += written
            raise
        if PyList_GET_SIZE(self.written) == 0:  # nobody wrote meanwhile
            self.stage_used = 0
            self.on_stage = NULL
        return 0

    # -------------------------------------------------------------- busy polling

    def _spin(self):
        """Poll for a moment, then let the loop have its turn, until nothing came for long."""
        cdef double until = monotonic() + (SPIN if self.loop_queue is None else LONG_SPIN)
        cdef int turns = 0
        while self.epoll >= 0:
            if self.hot is None or turns & 7 == 7 or self.receive_hot() == 0:
                self.batch()
            turns += 1
            if monotonic() >= until or (self.loop_queue is not None and len(self.loop_queue) > 0):
                break
        if self.epoll >= 0 and monotonic() - self.last_event < self.busy_poll:
            self.loop.call_soon(self._spin)
        else:
            self.spinning = False
            self.hot = None

    cdef int receive_hot(self) except -1:
        """Try the one source that was ready last, without asking epoll; tell whether it was."""
        cdef bint nested = self.in_batch
        cdef int received = 0
        cdef Source hot = self.hot  # held while it is called, whatever its handler does
        self.begin_batch()
        self.batch_time = monotonic()
        try:
            received = hot.try_receive()
            if received:
                self.last_event = self.batch_time
                self.hand_out()
        finally:
            self.end_batch(nested)
        return received

    # --------------------------------------------------------------------- forks

    cdef int disown(self) except -1:
        """In a forked child: let go of everything that is the parent's."""
        cdef Source source
        if self.epoll >= 0:
            close(self.epoll)
            self.epoll = -1
        self.written = []
        self.received = []
        self.hot = None
        self.sources = 0
        table, self.table = self.table, []
        for entry in table:
            if entry is not None:
                source = <Source>entry
                source.disown()
        return 0


forbid_making(<PyTypeObject *>Reactor)


def spin(loop, step):
    """See `silly._engine.interface.Engine.spin`."""
    cdef Reactor reactor = reactor_of(loop)
    cdef double until = monotonic() + LONG_SPIN
    while True:
        reactor.batch(step)
        if reactor.loop_queue is None or len(reactor.loop_queue) > 0 or monotonic() >= until:
            break
