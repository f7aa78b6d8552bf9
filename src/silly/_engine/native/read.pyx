"""Reads: coroutine objects that a task steps, and that take bytes without waiting if they can.

A `Read` is its own iterator, and its `am_send` slot returns available bytes without creating
an exception. ``async for`` uses one `Lines` object for all its lines, and one `Batches`
object for all its batches.
"""

from cpython.list cimport PyList_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint8_t

from silly._engine.native.linux cimport (
    Py_REFCNT,
    raise_given,
    set_slots,
    send,
    stop_async_iteration,
    stop_iteration,
)
from silly._engine.native.lifecycle cimport CLOSING
from silly._engine.native.receiving cimport INCOMPLETE, MAX_READS_IN_A_ROW, TOO_LONG, Receiving
from silly._engine.native.reactor cimport Reactor
from silly._engine.native.waiter cimport ForeignFuture, Waiter, spare_waiter
from silly._engine.native.wanted cimport (
    COUNT,
    DELIMITER,
    DONE,
    ENDED,
    FAILED,
    LINE,
    NEW,
    WAITING,
    Wanted,
)

import warnings

from silly._engine import stream_errors

cdef enum:
    KEPT = 8192  # bytes of a batch: a longer one is not used again
    KEPT_ITEMS = 64  # likewise

cdef bytes NEWLINE = b"\n"


cdef class Read(Wanted):
    """What `read` returns."""

    def __dealloc__(self):
        if self.state == NEW and self.kind != LINE:
            try:
                warnings.warn("coroutine 'Conn.read' was never awaited", RuntimeWarning)
            except BaseException:
                pass

    cdef int step(self, void **out) except -1:
        """Resume; set *out* to the result and return 0, or to what to wait on and return 1.

        At the end of ``async for``, return `ENDED`. After the end of the stream, set *out* to the
        exception and return `FAILED`: raising it here would cost a traceback for each function.
        """
        cdef Receiving stream = <Receiving>self.stream
        cdef Py_ssize_t count
        cdef bytes taken
        if self.state == NEW:
            if stream.reads_in_a_row >= MAX_READS_IN_A_ROW:  # as `asyncio.sleep(0)` does
                stream.reads_in_a_row = 0
                Py_INCREF(None)
                out[0] = <void *>None
                return 1
            if self.kind == LINE:
                self.wanted = stream.max_unread
            else:
                self.state = DONE
            if stream._state >= CLOSING or stream.reader is not None:
                raise stream._reader_error(self.delimiter, self.wanted)
            if self.kind == COUNT and self.wanted == 0:
                taken = b""
                Py_INCREF(taken)
                out[0] = <void *>taken
                return 0
            count = stream.match(self)
            if count == INCOMPLETE and not stream._ended and stream._loss is None:
                self.suspend()
                return self.wait(out)
            stream.reads_in_a_row += 1
        elif self.state == WAITING:
            if self.waiter.is_pending():  # another task awaits it already
                raise stream_errors.already_awaited()
            count = INCOMPLETE
            if stream._state < CLOSING:
                count = self.matched()
                if count == INCOMPLETE and not stream._ended and stream._loss is None:
                    if self.timed_out:
                        self.finish()
                        raise stream_errors.read_timed_out(
                            stream, self.delimiter, self.wanted, self.timeout
                        )
                    if stream._paused:
                        stream._resume()
                    return self.wait(out)  # a spurious wake-up
            self.finish()
        else:
            raise RuntimeError("cannot reuse already awaited read")
        if count == INCOMPLETE:
            count = self.last_item()
            if count == 0:
                return ENDED
            if count < 0:
                error = stream._reader_error(self.delimiter, self.wanted)
                Py_INCREF(error)
                out[0] = <void *>error
                return FAILED
        elif count == TOO_LONG:
            stream.control_flow()
            raise stream_errors.limit_exceeded(stream, self.delimiter, self.wanted)
        taken = stream.take(<size_t>count)
        Py_INCREF(taken)
        out[0] = <void *>taken
        return 0

    cdef Py_ssize_t matched(self) except -2:
        """Return what `match` does; what was received last has been searched already."""
        cdef Receiving stream = <Receiving>self.stream
        cdef Reactor reactor = stream.reactor
        if reactor.matching == <PyObject *>self:
            reactor.matching = NULL
            if 0 < reactor.matched <= <Py_ssize_t>(stream.in_end - stream.in_start):
                return reactor.matched
        return stream.match(self)

    cdef Py_ssize_t last_item(self) noexcept:
        """Return how many bytes an incomplete read returns at the end of the stream.

        0 is the end of an iteration. -1: it fails.
        """
        return -1

    cdef int suspend(self) except -1:
        cdef Receiving stream = <Receiving>self.stream
        cdef Reactor reactor = stream.reactor
        # Nothing else will be sent in this turn: the peer need not wait for its end.
        if stream._batched_bytes() and (
            not reactor.in_batch or PyList_GET_SIZE(reactor.received) == 1
        ):
            stream._flush()
        if stream._paused:
            stream._resume()
        stream.reads_in_a_row = 0
        if self.timeout is not None:
            self.timer = reactor.loop.call_later(self.timeout, self._time_out)
        self.state = WAITING
        stream.reader = self
        return 0

    cdef int wait(self, void **out) except -1:
        """Set *out* to what to wait on, and return 1."""
        cdef Waiter waiter = spare_waiter((<Receiving>self.stream).reactor)
        waiter.purpose = self
        waiter.wait()
        self.waiter = waiter
        Py_INCREF(waiter)
        out[0] = <void *>waiter
        return 1

    cdef int finish(self) except -1:
        """Let the next reader use the stream."""
        self.state = NEW if self.kind == LINE else DONE
        (<Receiving>self.stream).reader = None
        if type(self.waiter) is Waiter:
            (<Waiter>self.waiter).purpose = None
        self.waiter = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return 0

    def _time_out(self):
        self.timed_out = True
        if self.state == WAITING and self.waiter.is_pending():
            self.waiter.wake((<Receiving>self.stream).reactor)

    # ------------------------------------------------- as a coroutine object

    def __await__(self):
        if self.state == WAITING:
            raise stream_errors.already_awaited()
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.advance(None)

    def send(self, value):
        return self.advance(value)

    cdef object advance(self, object value):
        cdef void *out = NULL
        cdef object result
        if self.state == NEW and value is not None:
            raise TypeError("can't send non-None value to a just-started coroutine")
        cdef int yielded = self.step(&out)
        if yielded == ENDED:
            raise StopAsyncIteration
        result = <object>out
        Py_DECREF(result)
        if yielded == FAILED:
            raise result
        if yielded:
            return result
        raise StopIteration(result)

    def throw(self, kind, value=None, traceback=None):
        self.abandon()
        raise_thrown(kind, value, traceback)

    def close(self):
        self.abandon()

    cdef int abandon(self) except -1:
        """End the read without a result."""
        cdef ForeignFuture waiter = self.waiter
        if self.state == WAITING:
            self.finish()
            (<Receiving>self.stream).control_flow()
            if waiter.is_pending():  # something other than the waiting task ended this
                waiter.wake((<Receiving>self.stream).reactor)
        elif self.kind != LINE:
            self.state = DONE
        return 0

    @property
    def __name__(self):
        return "read"

    @property
    def __qualname__(self):
        return "Conn.read"

    @property
    def cr_running(self):
        return False

    @property
    def _stream(self):
        return self.stream

    def __repr__(self):
        if self.kind == LINE:
            what = "read of a line"
        else:
            what = stream_errors.describe_read(self.delimiter, self.wanted)
        return f"{what} from {self.stream.remote_addr}"


cdef class Lines(Read):
    """The iterator of ``async for``, and the awaitable of each line."""

    def __aiter__(self):
        return self

    def __anext__(self):
        # If a task waits on this one, another task gets one that raises `ConcurrentRead`.
        return self if self.state == NEW else new_lines(<Receiving>self.stream)

    cdef Py_ssize_t last_item(self) noexcept:
        cdef Receiving stream = <Receiving>self.stream
        if stream._ended and not stream._truncated and stream._state < CLOSING:
            if stream.in_start == stream.in_end:
                return 0
            if self.kind == LINE:
                return stream.in_end - stream.in_start
        return -1


cdef class Batches(Lines):
    """The iterator of `batches`, and the awaitable of each batch.

    A batch begins with a read, and takes what more reads would return without waiting.
    """

    def __anext__(self):
        if self.state == WAITING:
            return new_batches(
                <Receiving>self.stream, self.delimiter, self.wanted, self.most, self.timeout
            ).__anext__()
        self.state = NEW
        self.timed_out = False
        return self

    cdef int step(self, void **out) except -1:
        cdef Receiving stream = <Receiving>self.stream
        cdef list batch
        cdef size_t size
        cdef int yielded = Read.step(self, out)
        if yielded:
            return yielded
        first = <bytes>out[0]
        Py_DECREF(first)
        batch = self.spare
        self.spare = self.last
        if batch is not None and Py_REFCNT(batch) == 1 and PyList_GET_SIZE(batch) > 0:
            batch[0] = first
        else:
            batch = [first]
        if self.kind == LINE:
            self.wanted = stream.max_unread
        size = stream.take_more(self, batch, self.most)
        self.last = batch if size <= KEPT and PyList_GET_SIZE(batch) <= KEPT_ITEMS else None
        Py_INCREF(batch)
        out[0] = <void *>batch
        return 0

    def __repr__(self):
        wanted = stream_errors.describe_read(self.delimiter, self.wanted)
        return f"batched {wanted} from {self.stream.remote_addr}"


cdef Read new_read(Receiving stream, uint8_t kind):
    cdef Read read = Read.__new__(Read)
    read.stream = stream
    read.kind = kind
    return read


cdef Lines new_lines(Receiving stream):
    cdef Lines lines = Lines.__new__(Lines)
    lines.stream = stream
    lines.kind = LINE
    lines.delimiter = NEWLINE
    return lines


cdef Batches new_batches(
    Receiving stream, bytes delimiter, size_t size, size_t most, object timeout
):
    """Make the iterator of `batches`; *size* is that of a frame, if there is no *delimiter*."""
    cdef Batches batches = Batches.__new__(Batches)
    batches.stream = stream
    batches.kind = COUNT if delimiter is None else LINE
    batches.state = DONE  # until `__anext__`
    batches.delimiter = delimiter
    batches.wanted = size
    batches.most = most
    batches.timeout = timeout
    return batches


cdef raise_thrown(kind, value, traceback):
    """Raise the exception given to a coroutine's `throw`."""
    if value is None:
        value = kind() if isinstance(kind, type) else kind
    elif not isinstance(value, BaseException):
        value = kind(value)
    if traceback is not None:
        value = value.with_traceback(traceback)
    raise value


cdef int _send(Read self, object value, void **out) except -1:
    cdef int yielded = self.step(out)
    if yielded == ENDED:
        return stop_async_iteration()
    return raise_given(<PyObject **>out) if yielded == FAILED else yielded


cdef PyObject *_next(Read self) except? NULL:
    # Replaces the __next__ above, for which Cython would add a traceback to each StopIteration.
    # The interpreter calls this from Python 3.12 on, where it called am_send before.
    cdef void *out = NULL
    cdef int yielded = self.step(&out)
    if yielded == 0:
        stop_iteration(<PyObject *>out)
    elif yielded == ENDED:
        stop_async_iteration()
    elif yielded == FAILED:
        raise_given(<PyObject **>&out)
    else:
        return <PyObject *>out
    return NULL


set_slots(Read, <void *>_send, <void *>_next)
set_slots(Lines, <void *>_send, <void *>_next)
set_slots(Batches, <void *>_send, <void *>_next)
