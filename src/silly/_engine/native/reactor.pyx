"""The reactor: one epoll set, beside that of the running asyncio loop.

It serves a whole batch of ready descriptors at a time, and steps the tasks that wait for
their bytes (waiter.pyx). There are two ways to wait for them; epoll(7): an epoll set is
readable when one of its members is ready.

- Inside: the loop's set is a member of the reactor's. The loop's selector is ours
  (selector.py), and waits in `Reactor.wait`.
- Nested: the reactor's set is a member of the loop's, in a loop of any other kind. A
  callback of the loop serves a batch.

Invariants:

- An event names a descriptor and a generation, never an object. It goes to the source
  that is now registered with both. Events for a source that was closed earlier in the
  same batch, or whose descriptor was reused, are dropped.
- The table references a source while it has a descriptor here, and callers reference
  it while they call it: handlers may close, abort and forget any source at any time.
- Sources receive in groups, one after the other in the scratch buffer. Then each
  source's bytes are delivered, which steps its reader. Then everything that the readers
  wrote is sent. So each kind of work finds its code and data in the processor's caches.
  (In a group of one, what was written is sent when the reader waits again.)
  Bytes left unread are moved to memory of the stream's own before the scratch buffer is
  used again. If other sources receive before that (a loop run inside a handler), all of
  the group save their bytes first.
- A source receives where `Reactor.scratch_space` tells it to. There is always room for
  the longest receive and the bytes moved in front of it: if necessary, the group saves
  its bytes first.
- Connections that are being set up (a handshake is to come) are in a set of their own, the
  entrance, which is a member of the reactor's. They are served when all others that were ready
  have been: a few each time that the reactor asks what is ready.
- What is to be done last (`call_last`) is done after that: one callback each time.
- Nested, a batch ends after either, so that the loop can run its other callbacks.
- After a fork, the child closes its copies of the descriptors and leaves the shared
  epoll set alone.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EEXIST, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t

from silly._engine.native.alarm cimport new_alarm
from silly._engine.native.linux cimport (
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLIN,
    PyContext_Enter,
    PyContext_Exit,
    PyTypeObject,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    fetch,
    forbid_instantiation,
    monotonic,
    pthread_atfork,
)

from silly._engine.native.records cimport free_wire

import asyncio
import os
import weakref

from silly._engine.selector import Selector

cdef enum:
    EVENTS = 256  # per epoll_wait; after serving this many, the loop runs its other callbacks
    ENTERING = 4  # of the entrance, at a time

cdef double SPIN = 20e-6  # seconds of busy polling before the loop runs its callbacks ...
cdef double LONG_SPIN = 200e-6  # ... if its queue can be checked meanwhile

cdef uint64_t LOOP = <uint64_t>-1  # the event of the loop's own epoll set
cdef uint64_t ENTRANCE = <uint64_t>-2  # that of the entrance
cdef uint64_t ALARM = <uint64_t>-3  # that of the alarm; others are less
cdef double NEVER = 1e6  # seconds that the loop waits if it has no timer
cdef double DAY = 86400  # seconds of one wait, at most
cdef frozenset INSIDE = frozenset(("_ready", "_scheduled"))  # tell when to leave it


class WaitError(OSError):
    """The reactor cannot wait: someone closed its epoll set. So it ends the loop, as any would."""


cdef object _reactors = weakref.WeakSet()  # in this process
cdef bint _has_forked = False


cdef Reactor _serving = None  # the one that serves a batch: `reactor_of` is called most for its loop


cdef Reactor reactor_of(object loop):
    """Return the reactor of *loop*; create it if there is none."""
    if _serving is not None and _serving.loop is loop:
        return _serving
    # An attribute of the loop, not a dictionary by loop: the reactor refers to its loop, so a
    # dictionary would keep both alive forever.
    reactor = getattr(loop, "_silly_reactor", None)
    if reactor is None:
        reactor = loop._silly_reactor = Reactor.__new__(Reactor, loop)
        _reactors.add(reactor)
    return <Reactor?>reactor


cdef void _forking() noexcept nogil:
    global _has_forked
    _has_forked = True


def _forked():
    global _serving
    _serving = None
    for reactor in list(_reactors):
        reactor.loop._silly_reactor = None
        (<Reactor>reactor).disown()
    _reactors.clear()


pthread_atfork(&_forking, NULL, NULL)
os.register_at_fork(after_in_child=_forked)


cdef object _tells_of_stops = ()  # the kind of loop that calls `leave` when it is stopped


cdef int wait_inside(object kind) except -1:
    """Let reactors wait inside loops of this *kind*."""
    global _tells_of_stops
    _tells_of_stops = kind
    return 0


cdef tuple _concrete = ()  # the kinds of sources that are whole
cdef object _last_made = None  # ... or derive from one: the last of which an instance was made


cdef int allow_instances(object kind) except -1:
    """Let sources of *kind*, and of its subclasses, be made."""
    global _concrete
    _concrete = (*_concrete, kind)
    return 0


cdef class Source:
    """An object with a descriptor in a reactor; the base of `Stream` and `Server`."""

    def __cinit__(self):
        global _last_made
        self.fd = -1
        if type(self) is not _last_made:
            if not isinstance(self, _concrete):  # a part of one: it would lack the rest
                raise TypeError(f"cannot create '{type(self).__name__}' instances")
            _last_made = type(self)

    def __dealloc__(self):
        # Still open only if its loop was collected, and its reactor with it.
        if self.fd >= 0:
            close(self.fd)

    @property
    def _fileno(self):
        return self.fd

    cdef int watch(self, uint32_t interest) except -1:
        """Watch for these events from now on; 0: for none."""
        cdef epoll_event event
        cdef int operation
        if interest == self.interest or self.fd < 0:
            return 0
        if interest == 0:
            # Removed, because epoll reports errors even for an empty set of events.
            operation = EPOLL_CTL_DEL
        elif self.interest == 0:
            operation = EPOLL_CTL_ADD
        else:
            operation = EPOLL_CTL_MOD
        event.events = interest
        event.data.u64 = (<uint64_t>self.generation << 32) | <uint32_t>self.fd
        if self.is_entering and self.reactor.entrance < 0:
            self.reactor.open_entrance()
        if epoll_ctl(
            self.reactor.entrance if self.is_entering else self.reactor.epoll,
            operation, self.fd, &event,
        ) < 0:
            if interest != 0:
                return self.watch_failed(errno)
        self.interest = interest
        return 0

    cdef int watch_failed(self, int error) except -1:
        """Handle a failure of epoll_ctl."""
        raise OSError(error, f"epoll_ctl: {os.strerror(error)}")

    cdef int enter(self) except -1:
        """Leave the entrance: serve it as any other from now on."""
        cdef uint32_t interest = self.interest
        if self.is_entering:
            self.watch(0)
            self.is_entering = False
            self.watch(interest)
        return 0

    cdef int release(self) except -1:
        """Close the descriptor, which also removes it from the epoll set."""
        cdef int fd = self.fd
        if fd >= 0:
            if _has_forked:  # a duplicate in another process keeps it registered (epoll(7))
                self.watch(0)
            self.interest = 0
            self.reactor.remove(self)
            self.fd = -1
            close(fd)
        return 0

    cdef int ready(self, uint32_t events) except -1:
        raise NotImplementedError

    cdef int try_receive(self) except -1:
        """Receive without a preceding event; return whether there was anything."""
        return 0

    cdef void fetch_reader(self) noexcept:
        """Fetch into the processor's caches what waits for the received bytes ..."""

    cdef void fetch_handler(self) noexcept:
        """... and, later, what that will step."""

    cdef int deliver(self) except -1:
        """Step the reader that waits for the received bytes."""
        raise NotImplementedError

    cdef int end_of_turn(self) except -1:
        """Send what was written in this turn; move the rest out of the send buffer."""
        raise NotImplementedError

    cdef int save_unread(self) except -1:
        """Move unread bytes out of the scratch buffer."""
        raise NotImplementedError

    cdef int disown(self) except -1:
        """Close the descriptor in a forked child, without sending anything."""
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
        self.loop_attributes = getattr(loop, "__dict__", {})
        self.epoll = self.entrance = self.arriving = -1
        self.alarm = new_alarm()
        self.table = []
        self.written = []
        self.received = []
        self.last = []
        self.items = [None] * ITEMS
        self.scratch = <uint8_t *>PyMem_RawMalloc(SCRATCH)
        self.send_buffer = <uint8_t *>PyMem_RawMalloc(SEND_BUFFER)
        if self.scratch == NULL or self.send_buffer == NULL:
            raise MemoryError
        # glibc's malloc maps blocks of 128 KiB or more, and unmaps them when they are freed,
        # until one larger than the threshold is freed (mallopt(3), M_MMAP_THRESHOLD). It also
        # returns twice that much free memory to the kernel. Without this, each long piece
        # would take new pages from the kernel.
        PyMem_RawFree(PyMem_RawMalloc(64 * RECEIVE))
        self.loop_queue = getattr(loop, "_ready", None)
        selector = getattr(loop, "_selector", None)
        if (
            isinstance(selector, Selector)
            and isinstance(loop, _tells_of_stops)
            and INSIDE <= self.loop_attributes.keys()
        ):
            self.selector = selector
        # A loop with its own clock (a virtual one, for example) is asked for the time.
        time = getattr(type(loop), "time", None)
        self.custom_clock = time is not asyncio.BaseEventLoop.time and not (
            type(loop).__module__.partition(".")[0] == "uvloop"
        )

    def __dealloc__(self):
        PyMem_RawFree(self.scratch)
        PyMem_RawFree(self.send_buffer)
        PyMem_RawFree(self.wire)
        free_wire(&self.sealed)
        if self.epoll >= 0:
            close(self.epoll)
        if self.entrance >= 0:
            close(self.entrance)

    # ---------------------------------------------------------------- sources

    cdef int add(self, Source source) except -1:
        """Enter *source*, which has its descriptor already, in the table."""
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
        """Create the epoll set, and make the loop watch it."""
        cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
        if epoll < 0:
            raise OSError(errno, f"epoll_create1: {os.strerror(errno)}")
        try:
            if self.selector is None:
                self.loop.add_reader(epoll, self._on_ready)
            else:
                self.include_loop(epoll)
        except BaseException:
            close(epoll)
            raise
        self.epoll = epoll
        try:
            self.context = self.loop._selector.get_key(epoll).data[0]._context
        except (AttributeError, IndexError, KeyError, TypeError):
            self.context = None
        return 0

    cdef int include_loop(self, int epoll) except -1:
        """Make the loop's set a member of *epoll*, and the loop wait here."""
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = LOOP
        if epoll_ctl(epoll, EPOLL_CTL_ADD, self.selector.fileno(), &event) < 0:
            raise OSError(errno, f"epoll_ctl: {os.strerror(errno)}")
        self.selector.reactor = self
        return 0

    cdef int open_entrance(self) except -1:
        """Create the entrance, as a member of the epoll set."""
        cdef epoll_event event
        cdef int entrance = epoll_create1(EPOLL_CLOEXEC)
        if entrance < 0:
            raise OSError(errno, f"epoll_create1: {os.strerror(errno)}")
        event.events = EPOLLIN
        event.data.u64 = ENTRANCE
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, entrance, &event) < 0:
            error = errno
            close(entrance)
            raise OSError(error, f"epoll_ctl: {os.strerror(error)}")
        self.entrance = entrance
        return 0

    cdef int remove(self, Source source) except -1:
        cdef int fd = source.fd
        if fd >= PyList_GET_SIZE(self.table) or self.table[fd] is not source:
            return 0
        self.table[fd] = None
        self.sources -= 1
        if self.sources == 0 and self.epoll >= 0:
            if self.selector is not None:
                self.selector.reactor = None
                if self.written_count > 0 and not (self.in_batch or self.flushing):
                    self.schedule_flush()
            elif not self.loop.is_closed():
                self.loop.remove_reader(self.epoll)
            close(self.epoll)
            self.epoll = -1
            self.alarm.close()
            if self.entrance >= 0:
                close(self.entrance)
                self.entrance = -1
            self.busy_poll = 0
            while self.last:
                self.loop.call_soon(self.last.pop(0))
        return 0

    # ------------------------------------------------------------------ batches

    cdef double now(self) except -1:
        """Return the loop's time."""
        if self.custom_clock:
            return self.loop.time()
        if self.in_batch:
            return self.batch_time
        return monotonic()

    def _on_ready(self):
        # Leave the context of this callback, which is always the same: a nested loop, run by a
        # handler, must be able to enter it for its own call.
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
        """Call *step*, if given, and serve ready descriptors; return the number of events."""
        cdef bint nested = self.in_batch
        cdef int count, served = 0
        self.begin_batch()
        try:
            if step is not None:
                self.batch_time = monotonic()
                step()
                if self.written_count > 0:
                    self.flush()
            # Polling again costs less than an iteration of the loop.
            while served < EVENTS and self.epoll >= 0:
                count = self.poll(0)
                if count == 0:
                    break
                served += count + self.weight
        finally:
            self.end_batch(nested)
        return served

    cdef int begin_batch(self) except -1:
        global _serving
        _serving = self
        if self.in_batch:  # a nested loop, run by a handler
            self.direct = False
            self.save_all_unread()
        else:
            self.direct = self.in_batch = True
        return 0

    cdef int end_batch(self, bint nested) except -1:
        global _serving
        _serving = None
        self.direct = False  # if nested, a task is running outside
        self.in_batch = nested
        if PyList_GET_SIZE(self.received) > 0:  # left over after an exception
            self.save_all_unread()
            self.loop.call_soon(self._deliver)
        if self.written_count > 0 and not self.flushing:  # likewise
            self.schedule_flush()
        if PyList_GET_SIZE(self.last) > 0 and self.selector is None:
            self.schedule_last()
        return 0

    cdef int poll(self, int milliseconds) except -1:
        """Serve what gets ready within *milliseconds* (-1: for ever); return how many were.

        Sets `loop_is_ready` if the loop's own set is ready. A signal ends the wait.
        """
        cdef epoll_event events[EVENTS]
        cdef int count, i, served
        cdef Source source
        self.weight = 0
        self.entrance_is_ready = False
        if milliseconds == 0:
            count = epoll_wait(self.epoll, events, EVENTS, 0)
        else:
            with nogil:
                count = epoll_wait(self.epoll, events, EVENTS, milliseconds)
        if count <= 0:
            if count < 0 and errno != EINTR:
                raise WaitError(errno, f"epoll_wait: {os.strerror(errno)}")
            if count < 0 and milliseconds != 0:
                self.batch_time = monotonic()
                PyErr_CheckSignals()
                if self.written_count > 0:  # by a signal handler
                    self.flush()
            if PyList_GET_SIZE(self.last) > 0:
                self.do_last()
            return 0
        served = count
        self.batch_time = monotonic()
        for i in range(count):
            if events[i].data.u64 >= ALARM:
                if events[i].data.u64 == ENTRANCE:
                    self.entrance_is_ready = True
                    continue
                served -= 1
                if events[i].data.u64 == ALARM:
                    self.alarm.forget()
                else:
                    self.loop_is_ready = True
                continue
            if i + 1 < count:
                fetch_source(self, events[i + 1].data.u64)
            source = source_of(self, events[i].data.u64)
            if source is not None:
                if self.busy_poll > 0:
                    self.hot = source if count == 1 else None
                source.ready(events[i].events)
            if PyList_GET_SIZE(self.received) >= GROUP or (
                self.received_bytes >= GROUP_BYTES or self.scratch_used >= 2 * GROUP_BYTES
            ):
                self.deliver()
        if served > 0:
            self.last_event = self.batch_time
        if PyList_GET_SIZE(self.received) > 0:
            self.deliver()
        if self.written_count > 0:
            self.flush()
        if self.entrance_is_ready:
            self.serve_entrance()
        if PyList_GET_SIZE(self.last) > 0:
            self.do_last()
        return served

    cdef int serve_entrance(self) except -1:
        """Serve a few of the connections that are being set up."""
        cdef epoll_event events[ENTERING]
        cdef int count, i
        cdef Source source
        self.weight = EVENTS
        if self.entrance < 0:  # closed by what was served before
            return 0
        count = epoll_wait(self.entrance, events, ENTERING, 0)
        for i in range(count):
            source = source_of(self, events[i].data.u64)
            if source is not None:
                source.ready(events[i].events)
        if PyList_GET_SIZE(self.received) > 0:
            self.deliver()
        if self.written_count > 0:
            self.flush()
        return 0

    cdef int schedule_last(self) except -1:
        if not self.serving_last:
            self.serving_last = True
            self.loop.call_soon(self._serve_last, context=self.context)
        return 0

    def _serve_last(self):
        self.serving_last = False
        self._on_ready()

    cdef int do_last(self) except -1:
        """Do the first of the things that are to be done last."""
        self.weight = EVENTS
        self.batch_time = monotonic()
        self.last.pop(0)()
        if PyList_GET_SIZE(self.received) > 0:
            self.deliver()
        if self.written_count > 0:
            self.flush()
        return 0

    # ------------------------------------------------------------ waiting inside

    def wait(self, timeout):
        """Serve connections until the loop has something to do (see selector.py)."""
        if self.selector is None:
            raise RuntimeError("this loop does not wait in the reactor")
        self.loop_is_ready = False
        try:
            self.serve(NEVER if timeout is None else <double>timeout)
        except (SystemExit, KeyboardInterrupt, WaitError):
            raise
        except BaseException as error:
            self.loop.call_exception_handler(
                {"message": "connections could not be served", "exception": error}
            )
        return self.loop_is_ready

    cdef int serve(self, double seconds) except -1:
        """Serve for *seconds*, or until the loop has something to do."""
        cdef bint nested = self.in_batch
        cdef double now = monotonic(), until = now + seconds, left = seconds
        cdef bint spins
        self.timers = self.loop._scheduled  # a pass of the loop may have replaced it
        self.batch_time = now
        self.begin_batch()
        try:
            if self.written_count > 0:  # by tasks that the loop stepped
                self.flush()
                left = self.time_left(until)  # it may have stepped others
            spins = left > 0 and now - self.last_event < self.busy_poll
            while self.epoll >= 0 and not spins:
                if PyList_GET_SIZE(self.last) > 0:
                    self.poll(0)
                elif left >= NEVER:
                    self.poll(-1)
                else:
                    self.poll(<int>(min(max(left, 0), DAY) * 1e3 + 0.999))
                if left <= 0:
                    break
                left = self.time_left(until)
                if left <= 0:
                    break
                spins = self.busy_poll > 0 and monotonic() - self.last_event < self.busy_poll
        finally:
            self.next_timer = None  # it may be done, and what it holds is not ours to keep
            self.end_batch(nested)
        if spins:
            self.spin(min(left, LONG_SPIN))
        return 0

    cdef double time_left(self, double until) except? -1:
        """Return how many seconds to wait; `NEVER` if the loop has no timer, or the alarm is set.

        Not more than *until*; 0 if the loop has something to do.
        """
        cdef object timer
        cdef double due = until
        if self.loop_is_ready or len(self.loop_queue) > 0:
            return 0
        if PyList_GET_SIZE(self.timers) > 0:
            timer = <object>PyList_GET_ITEM(self.timers, 0)
            if timer is not self.next_timer:
                self.next_timer = timer
                self.next_time = timer._when
            if self.custom_clock:
                return min(until - monotonic(), self.next_time - self.loop.time())
            due = min(until, self.next_time)
        if due <= self.batch_time:
            return 0
        if due - self.batch_time > DAY or self.alarm.moment <= due:
            return NEVER
        return NEVER if self.alarm.set(self.epoll, ALARM, due) else due - self.batch_time

    cdef int leave(self) noexcept:
        """Let the loop run: it is to stop."""
        self.loop_is_ready = True
        return 0

    # ------------------------------------------------------------------- groups

    cdef uint8_t *scratch_space(self) except NULL:
        """Return a place in the scratch buffer with room for HEADROOM + RECEIVE bytes."""
        if self.scratch_used > SCRATCH - HEADROOM - RECEIVE:
            self.save_all_unread()
        return self.scratch + self.scratch_used

    cdef uint8_t *wire_space(self) except NULL:
        """Return RECEIVE bytes for what is received and then opened by a filter at once."""
        if self.wire == NULL:
            self.wire = <uint8_t *>PyMem_RawMalloc(RECEIVE)
            if self.wire == NULL:
                raise MemoryError
        return self.wire

    cdef int deliver(self) except -1:
        """Deliver the group's bytes to its readers, and send what the readers wrote."""
        cdef list received = self.received
        cdef Source source
        cdef Py_ssize_t i = 0
        while i < PyList_GET_SIZE(received):  # a nested loop may deliver the rest
            if i + 2 < PyList_GET_SIZE(received):
                (<Source>PyList_GET_ITEM(received, i + 2)).fetch_reader()
            if i + 1 < PyList_GET_SIZE(received):
                (<Source>PyList_GET_ITEM(received, i + 1)).fetch_handler()
            source = <Source>PyList_GET_ITEM(received, i)
            source.deliver()
            if self.received is not received:  # in a forked child: the rest is the parent's
                return 0
            i += 1
        received.clear()
        self.scratch_used = self.received_bytes = 0
        if self.written_count > 0:
            self.flush()
        return 0

    def _deliver(self):
        self.deliver()

    cdef int save_all_unread(self) except -1:
        """Move everything that is still needed out of the scratch buffer."""
        for entry in self.received:
            (<Source>entry).save_unread()
        self.scratch_used = 0
        return 0

    # ------------------------------------------------------------ ends of turns

    cdef int flush_later(self, Source source) except -1:
        """Schedule *source*'s end_of_turn before the loop's later callbacks."""
        if not self.in_batch and not self.flushing and self.selector is None:
            self.schedule_flush()
        self.queue_flush(source)
        return 0

    cdef int queue_flush(self, Source source) except -1:
        # The list keeps its places, which are None: allocating them again would cost more than
        # all else here.
        if self.written_count < PyList_GET_SIZE(self.written):
            self.written[self.written_count] = source
        else:
            self.written.append(source)
        self.written_count += 1
        return 0

    cdef int schedule_flush(self) except -1:
        self.flushing = True
        self.loop.call_soon(self._flush)
        return 0

    def _flush(self):
        self.flushing = False
        self.flush()

    cdef int flush(self) except -1:
        """Call the end_of_turn of all that were written to; of those meanwhile, too."""
        cdef Source source
        while self.flushed < self.written_count:
            source = <Source>PyList_GET_ITEM(self.written, self.flushed)
            self.written[self.flushed] = None
            self.flushed += 1
            try:
                source.end_of_turn()
            except BaseException:
                self.queue_flush(source)
                raise
        self.flushed = self.written_count = 0
        self.send_buffer_used = 0
        self.send_buffer_tail = NULL
        return 0

    # -------------------------------------------------------------- busy polling

    def _spin(self):
        """Poll for a moment, again and again, until no event arrived for busy_poll seconds."""
        self.spin(SPIN if self.loop_queue is None else LONG_SPIN)
        if self.epoll >= 0 and monotonic() - self.last_event < self.busy_poll:
            self.loop.call_soon(self._spin)
        else:
            self.spinning = False
            self.hot = None

    cdef int spin(self, double seconds) except -1:
        """Poll for *seconds*, or until the loop has something to do."""
        cdef double until = monotonic() + seconds
        cdef int turns = 0
        while self.epoll >= 0 and not self.loop_is_ready:
            if self.hot is None or turns & 7 == 7 or self.receive_hot() == 0:
                self.batch()
            turns += 1
            if monotonic() >= until or (self.loop_queue is not None and len(self.loop_queue) > 0):
                break
        return 0

    cdef int receive_hot(self) except -1:
        """Receive from the source that was ready last, without epoll; return if it was ready."""
        cdef bint nested = self.in_batch
        cdef int received = 0
        cdef Source hot = self.hot  # referenced here, whatever its handler does
        self.begin_batch()
        self.batch_time = monotonic()
        try:
            received = hot.try_receive()
            if received:
                self.last_event = self.batch_time
                self.deliver()
        finally:
            self.end_batch(nested)
        return received

    # --------------------------------------------------------------------- forks

    cdef int disown(self) except -1:
        """Close everything of the parent's, in a forked child."""
        cdef Source source
        if self.epoll >= 0:
            close(self.epoll)
            self.epoll = -1
        self.alarm.close()
        if self.entrance >= 0:
            close(self.entrance)
            self.entrance = -1
        if self.selector is not None:
            self.selector.reactor = None
        self.written = []
        self.flushed = self.written_count = 0
        self.received = []
        self.last = []
        self.hot = None
        self.sources = 0
        table, self.table = self.table, []
        for entry in table:
            if entry is not None:
                source = <Source>entry
                source.disown()
        return 0


forbid_instantiation(<PyTypeObject *>Reactor)


cdef inline Source source_of(Reactor reactor, uint64_t event):
    """Return the source that *event* is for; None if that is gone."""
    cdef uint32_t fd = <uint32_t>event
    cdef object entry
    if fd >= <uint32_t>PyList_GET_SIZE(reactor.table):
        return None
    entry = <object>PyList_GET_ITEM(reactor.table, fd)
    if entry is None or (<Source>entry).generation != <uint32_t>(event >> 32):
        return None
    return <Source>entry


cdef inline void fetch_source(Reactor reactor, uint64_t event) noexcept:
    """Fetch the source that *event* is for into the processor's caches."""
    cdef uint32_t fd = <uint32_t>event
    if fd < <uint32_t>PyList_GET_SIZE(reactor.table):
        fetch(<const void *>PyList_GET_ITEM(reactor.table, fd), STREAM)


def call_last(loop, callback):
    """See `silly._engine.interface.Engine.call_last`."""
    cdef Reactor reactor = reactor_of(loop)
    if reactor.epoll < 0:
        loop.call_soon(callback)
        return
    reactor.last.append(callback)
    if reactor.selector is None and not reactor.in_batch:
        reactor.schedule_last()


def spin(loop, step):
    """See `silly._engine.interface.Engine.spin`."""
    cdef Reactor reactor = reactor_of(loop)
    cdef double until = monotonic() + LONG_SPIN
    reactor.loop_is_ready = False
    while True:
        reactor.batch(step)
        if reactor.loop_queue is None or len(reactor.loop_queue) > 0 or monotonic() >= until:
            break
        if reactor.loop_is_ready:
            break
