"""One connection's reading, writing and closing, including its socket.

The behaviour is that of `silly._engine.stream.Stream`, which documents it. Only the
way of the bytes differs:

Receiving
    All connections receive into the reactor's scratch buffer. When the group has
    received, a reader whose read is complete is stepped, and takes its results
    directly from there; bytes left unread after that step are moved to memory of the
    connection's own. So a connection owns receive memory only while it holds unread
    bytes. A few unread bytes are moved in front of the next receive, which joins a
    line that arrived in pieces without copying all of it.

Reading
    `read` returns a `Read`: a coroutine object that is its own iterator. Its `am_send`
    slot returns available bytes without creating an exception. ``async for`` uses one
    `Lines` object for all its lines.

Writing
    Writes are copied to the reactor's send buffer, after those of other connections.
    They are sent when the group has been delivered, when the batch has grown large, or
    at the end of the reactor's batch or of the loop's turn. Bytes that the kernel does
    not accept are then moved to memory of the connection's own.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from silly._engine.native.linux cimport (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    FIONREAD,
    MSG_NOSIGNAL,
    PyTypeObject,
    SHUT_WR,
    SO_LINGER,
    SO_TYPE,
    SOL_SOCKET,
    TIOCOUTQ,
    _PyBytes_Resize,
    forbid_instantiation,
    getpeername,
    getsockname,
    getsockopt,
    inet_ntop,
    ioctl,
    iovec,
    linger_t,
    memchr,
    memmem,
    msghdr,
    new_bytes,
    ntohl,
    ntohs,
    recv,
    send,
    sendmsg,
    set_errno,
    setsockopt,
    shutdown,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    sockaddr_storage,
    sockaddr_un,
    socklen_t,
    stop_iteration,
)
from silly._engine.native.reactor cimport (
    HEADROOM,
    RECEIVE,
    SEND_BUFFER,
    Reactor,
    Source,
    reactor_of,
)
from silly._engine.native.waiter cimport PENDING, Waiter, new_waiter

import asyncio
import os
import time
import warnings

from silly._arguments import positive_seconds, seconds, seconds_or_none, size
from silly._engine import stream_errors
from silly._engine import stream as portable


cdef enum:
    HIGH_WATER = 65536  # bytes: a larger batch is sent at once; writers wait above it
    MIN_RECEIVE = 4096  # bytes: a smaller read limit does not reduce receives below this
    LARGE = 16384  # bytes: longer pieces are received and sent without a copy
    MAX_READS_IN_A_ROW = 1000  # reads without waiting, before other tasks run ...
    LARGE_WRITE_COST = 50  # ... and how many of them a large write counts as

cdef enum:  # results of `find` and `match` that are not numbers of bytes
    INCOMPLETE = 0
    TOO_LONG = -1

cdef enum:  # kinds of `Read`
    ALL = 0
    COUNT = 1
    DELIMITER = 2
    LINE = 3

cdef enum:  # states of a `Read`
    NEW = 0
    WAITING = 1
    DONE = 2

cdef enum:  # the limit that ended a connection: indices into LIMITS
    BY_NONE = 0
    BY_IDLE_TIMEOUT = 1
    BY_FIRST_BYTE_TIMEOUT = 2
    BY_READ_DEADLINE = 3
    BY_MIN_SEND_RATE = 4
    BY_LINGER = 5
    BY_DEADLINE = 6
    BY_MEMORY_BUDGET = 7

cdef tuple LIMITS = (
    None, "idle_timeout", "first_byte_timeout", "read_deadline", "min_send_rate", "linger",
    "deadline", "memory_budget",
)

cdef bytes NEWLINE = b"\n"


cdef class Stream(Source):
    """One connection's reading, writing and closing; the base of the native `Conn`."""

    def __cinit__(
        self,
        int link,
        loop,
        on_closed,
        *,
        read_limit=portable.READ_LIMIT,
        max_unsent=portable.MAX_UNSENT,
        double linger=portable.LINGER,
        idle_timeout=None,
        bint idle_swept=False,
        budget=None,
    ):
        # If this raises, the caller still owns *link*.
        cdef socklen_t length = sizeof(sockaddr_in6)
        cdef Reactor reactor = reactor_of(loop)
        self.on_closed = on_closed
        self.max_unread = _capped(read_limit)
        self.max_queued = _capped(max_unsent)
        self.linger_time = linger
        self.budget = budget
        self.idle_swept = idle_swept
        self.idle_time = 0 if idle_timeout is None else idle_timeout
        self.writable = True
        # Asked now: the kernel no longer knows the address once the connection is reset.
        if reactor.arriving == link and reactor.arriving_known:
            self.peer = reactor.arriving_peer
            self.local_name = reactor.arriving_name
        elif reactor.arriving != link and not is_socket(link):
            raise ValueError(f"descriptor {link} is not a socket")
        elif getpeername(link, <sockaddr *>&self.peer, &length) < 0:
            memset(&self.peer, 0, sizeof(self.peer))
        if not self.has_inet_peer():
            self.peer_name = socket_name(link, &getpeername)
        self.opened = self.last_activity = reactor.now()
        self.fd = link
        self.reactor = reactor
        try:
            if self.idle_time and not idle_swept:
                self.arm_idle_timer(self.last_activity + self.idle_time)
            reactor.add(self)
            self.watch(EPOLLIN)  # last, so that it needs no undoing
        except BaseException:
            self.stop_timer()
            reactor.remove(self)
            self.fd = -1
            raise
        if reactor.arriving == link:
            reactor.arriving = -1
        self.constructed = True

    def __init__(self, *_, **__):
        # `__cinit__` does the work, so that no object can exist without it.
        if self.initialized:
            raise RuntimeError("a connection is initialized only once")
        self.initialized = True

    def __dealloc__(self):
        if self.in_capacity:
            PyMem_RawFree(self.in_data)
        if self.out_capacity:
            PyMem_RawFree(self.out_data)
        PyMem_RawFree(self.deadline_state)
        if self.fd >= 0:
            try:
                warnings.warn(f"unclosed connection, descriptor {self.fd}", ResourceWarning)
            except BaseException:  # warnings are errors: no caller could catch this one
                pass

    # ---------------------------------------------------------------- reading

    def read(self, until=None, *, timeout=None, limit=None):
        cdef Read read
        cdef size_t wanted
        if timeout is not None:
            timeout = seconds_or_none(timeout, "timeout")
        if type(until) is bytes or isinstance(until, (bytes, bytearray, memoryview)):
            if type(until) is not bytes:
                until = bytes(until)
            if not until:
                raise stream_errors.empty_delimiter()
            if limit is None:
                wanted = self.max_unread
            else:
                wanted = _capped(size(limit, "limit", least=1))
            read = new_read(self, DELIMITER)
            read.delimiter = <bytes>until
            read.wanted = wanted
        elif limit is not None:
            raise stream_errors.limit_without_delimiter()
        elif until is None:
            read = new_read(self, ALL)
        elif isinstance(until, bool) or not isinstance(until, int):
            raise stream_errors.wrong_type_of_until(until)
        else:
            wanted = _capped(size(until, "until"))
            read = new_read(self, COUNT)
            read.wanted = wanted
        read.timeout = timeout
        return read

    def __aiter__(self):
        return new_lines(self)

    def __anext__(self):
        return self.__aiter__()

    cdef Py_ssize_t find(self, bytes delimiter, size_t limit) except -2:
        """See `silly._engine.receive_buffer.ReceiveBuffer.find`."""
        cdef const uint8_t *data = self.in_data + self.in_start
        cdef const char *wanted = PyBytes_AS_STRING(delimiter)
        cdef size_t length = <size_t>PyBytes_GET_SIZE(delimiter)
        cdef size_t held = self.in_end - self.in_start
        cdef size_t stop, begun
        cdef const uint8_t *found = NULL
        if delimiter is not self.last_delimiter:
            if self.last_delimiter is None or delimiter != self.last_delimiter:
                self.searched = 0
            self.last_delimiter = delimiter
        stop = held if held < limit else limit
        if stop > self.searched:
            if length == 1:
                found = <const uint8_t *>memchr(
                    data + self.searched, <unsigned char>wanted[0], stop - self.searched
                )
            else:
                found = <const uint8_t *>memmem(
                    data + self.searched, stop - self.searched, wanted, length
                )
        if found != NULL:
            self.searched = <size_t>(found - data)
            return <Py_ssize_t>(self.searched + length)
        if held + length <= limit:
            self.searched = held - length + 1 if held >= length else 0
            return INCOMPLETE
        self.searched = stop - length + 1 if stop >= length else 0
        if held >= limit:
            return TOO_LONG
        begun = length - 1 if length - 1 < held else held
        while begun and memcmp(data + held - begun, wanted, begun) != 0:
            begun -= 1
        return TOO_LONG if held - begun + length > limit else INCOMPLETE

    cdef Py_ssize_t match(self, Read read) except -2:
        """Return how many bytes *read* would return now; or `INCOMPLETE`, or `TOO_LONG`."""
        cdef size_t held
        if read.kind >= DELIMITER:
            return self.find(read.delimiter, read.wanted)
        held = self.in_end - self.in_start
        if read.kind == ALL:
            return held
        return <Py_ssize_t>read.wanted if held >= read.wanted else INCOMPLETE

    cdef bytes take(self, size_t count):
        """Remove and return the first *count* unread bytes."""
        cdef bytes taken
        if self.piece is not None and count == <size_t>PyBytes_GET_SIZE(self.piece):
            taken = self.piece
        else:
            taken = PyBytes_FromStringAndSize(
                <const char *>self.in_data + self.in_start, <Py_ssize_t>count
            )
        self.in_start += count
        self.searched = self.searched - count if self.searched > count else 0
        if self.in_start == self.in_end:
            self.discard_unread()
        if self.paused and self.in_end - self.in_start <= self.max_unread // 2:
            self.resume()
        return taken

    cdef int discard_unread(self) except -1:
        self.free_incoming()
        self.in_data = NULL
        self.in_start = self.in_end = self.searched = 0
        return 0

    cdef int free_incoming(self) except -1:
        if self.in_capacity:
            PyMem_RawFree(self.in_data)
            self.in_capacity = 0
            self.account()
        self.piece = None
        return 0

    cdef void account(self) noexcept:
        """Report the change in the memory that this connection holds to the budget.

        Exceptions are only printed: the callers have freed memory that they still refer to.
        """
        cdef size_t held = self.in_capacity + self.out_capacity
        cdef int64_t change = <int64_t>held - <int64_t>self.accounted
        if self.budget is not None and change:
            self.accounted = held
            self.budget.change(change)

    cdef bint reserve(self, size_t room) except -1:
        """Make room for *room* bytes after the unread ones, in memory of the stream's own.

        Return whether there was memory; if not, the connection fails.
        """
        cdef size_t unread = self.in_end - self.in_start
        cdef size_t capacity
        cdef uint8_t *data
        if self.in_capacity and self.in_capacity - self.in_end >= room:
            return True
        if self.in_start and self.in_capacity >= unread + room and self.in_start >= unread:
            memcpy(self.in_data, self.in_data + self.in_start, unread)
        else:
            capacity = unread + unread // 2 + room
            data = <uint8_t *>PyMem_RawMalloc(capacity)
            if data == NULL:
                self.discard_unread()
                self.fail(ENOMEM)
                return False
            if unread:
                memcpy(data, self.in_data + self.in_start, unread)
            if self.in_capacity:
                PyMem_RawFree(self.in_data)
            self.piece = None
            self.in_data = data
            self.in_capacity = capacity
        self.in_start = 0
        self.in_end = unread
        self.account()
        return True

    cdef int save_unread(self) except -1:
        """Move unread bytes out of the scratch buffer; without memory, the connection fails."""
        cdef size_t unread = self.in_end - self.in_start
        cdef uint8_t *data
        if self.in_capacity or self.in_data == NULL:
            return 0
        data = <uint8_t *>PyMem_RawMalloc(unread)
        if data == NULL:
            self.discard_unread()
            return self.fail(ENOMEM)
        memcpy(data, self.in_data + self.in_start, unread)
        self.in_data = data
        self.in_capacity = unread
        self.in_start = 0
        self.in_end = unread
        self.piece = None
        self.account()
        return 0

    cdef size_t receive_limit(self, size_t unread) noexcept:
        """Return how many bytes to receive at most, given the read limit and the waiting read."""
        cdef Read reader = self.reader
        cdef size_t held = self.max_unread if self.max_unread > MIN_RECEIVE else MIN_RECEIVE
        if self.closing:
            return RECEIVE
        if reader is not None and reader.wanted > held and reader.is_pending():
            held = reader.wanted
        if held >= unread + RECEIVE:
            return RECEIVE
        return held - unread if held > unread else MIN_RECEIVE

    cdef int receive(self) except -1:
        """Receive once, for delivery when the group has received; return 0 if there was nothing."""
        cdef Reactor reactor = self.reactor
        cdef size_t unread = self.in_end - self.in_start
        cdef size_t most = RECEIVE
        cdef uint8_t *place
        cdef ssize_t count
        if unread + RECEIVE > self.max_unread:
            most = self.receive_limit(unread)
        if unread == 0 and self.bulk and self.reader is not None and self.reader.kind == ALL:
            count = self.receive_piece(most)
        elif unread <= HEADROOM:
            place = reactor.scratch_space()
            count = recv(self.fd, place + unread, most, 0)
            if count > 0:
                if unread:
                    memcpy(place, self.in_data + self.in_start, unread)
                self.free_incoming()
                self.in_data = place
                self.in_start = 0
                self.in_end = unread + <size_t>count
                reactor.scratch_used += (self.in_end + 63) & ~<size_t>63
        elif self.reserve(most):
            count = recv(self.fd, self.in_data + self.in_end, most, 0)
            if count > 0:
                self.in_end += <size_t>count
        else:
            return 1  # no memory: the connection failed
        if count > 0:
            self.bulk = count > LARGE
            self.bytes_in += count
            self.last_activity = reactor.now()
            reactor.received.append(self)
            reactor.received_bytes += <size_t>count
        elif count == 0:
            self.receive_end()
        elif errno == EAGAIN or errno == EINTR:
            return 0
        else:
            self.tear_down(OSError(errno, os.strerror(errno)))
        return 1

    cdef ssize_t receive_piece(self, size_t most) except -2:
        """Receive into the bytes object that the reader will get, without a copy."""
        cdef PyObject *piece = new_bytes(NULL, <Py_ssize_t>most)
        cdef ssize_t count = recv(self.fd, PyBytes_AS_STRING(<bytes>piece), most, 0)
        cdef int error = errno
        if count > 0:
            _PyBytes_Resize(&piece, count)
            self.piece = <bytes>piece
            self.in_data = <uint8_t *>PyBytes_AS_STRING(<bytes>piece)
            self.in_start = 0
            self.in_end = <size_t>count
        Py_DECREF(<object>piece)
        set_errno(error)
        return count

    cdef int try_receive(self) except -1:
        return self.receive() if self.interest & EPOLLIN else 0

    cdef int deliver(self) except -1:
        """Step the reader if what was received completes its read."""
        cdef Read reader = self.reader
        if self.closing:
            return self.discard_unread()
        try:
            if reader is not None and reader.is_pending():
                if self.match(reader) == INCOMPLETE:
                    return 0
                reader.waiter.wake(self.reactor)
        finally:
            self.save_unread()
            self.control_flow()
        return 0

    cdef int receive_end(self) except -1:
        self.ended = True
        self.watch(self.interest & ~<uint32_t>EPOLLIN)
        if not self.closing:
            self.wake_reader()
        elif self.out_start == self.out_end:
            self.close_link()
        return 0

    cdef int wake_reader(self) except -1:
        cdef Read reader = self.reader
        if reader is not None and reader.is_pending():
            reader.waiter.wake(self.reactor)
        return 0

    cdef object reader_error(self, bytes delimiter, size_t wanted):
        """Return the error that this read raises in the stream's present state."""
        if self.closing:
            return stream_errors.closed(self)
        if self.reader is not None:
            return stream_errors.concurrent_read(self.remote_addr)
        if self.ended or self.loss is None:
            unread = self.in_data[self.in_start : self.in_end] if self.in_data != NULL else b""
            return stream_errors.end_of_stream(self, delimiter, wanted, unread)
        repeated, self.reader_notified = self.reader_notified, True
        return self.loss_error(repeated)

    cdef object loss_error(self, bint repeated):
        return stream_errors.connection_lost(self, self.loss, repeated=repeated)

    # ----------------------------------------------------------- flow control

    cdef int control_flow(self) except -1:
        """Stop receiving if `read_limit` bytes are unread and no read waits for more."""
        if self.in_end - self.in_start >= self.max_unread and not (
            self.paused or self.closing or self.ended or self.closed
            or (self.reader is not None and self.reader.is_pending())
        ):
            self.paused = True
            self.watch(self.interest & ~<uint32_t>EPOLLIN)
        return 0

    cdef int resume(self) except -1:
        self.paused = False
        if not (self.ended or self.closed or self.failed):
            self.watch(self.interest | EPOLLIN)
        return 0

    # ---------------------------------------------------------------- writing

    def write(self, data):
        cdef list pieces
        cdef size_t length, batched
        if type(data) is bytes:
            length = <size_t>PyBytes_GET_SIZE(<bytes>data)
        else:
            pieces = stream_errors.as_pieces(data)
            data = <bytes>pieces[0] if len(pieces) == 1 else b"".join(pieces)
            length = <size_t>PyBytes_GET_SIZE(<bytes>data)
        if not self.writable:
            raise self.writer_error()
        batched = self.batched + length
        if self.full or length > LARGE or batched > HIGH_WATER or (
            batched > self.max_queued
        ):
            return self.write_at_once(<bytes>data)
        if length:
            if not self.put(PyBytes_AS_STRING(<bytes>data), length):
                raise MemoryError
            self.batched = batched
            if not self.flush_scheduled:
                self.flush_scheduled = True
                self.reactor.flush_later(self)
        return DRAINED

    cdef size_t high_water(self) noexcept:
        """Return how many queued bytes make writers wait; they wake at a quarter of it.

        It is well below the limit, so a task that awaits each write is never refused.
        """
        return min(<size_t>HIGH_WATER, self.max_queued // 2)

    cdef bint put(self, const void *data, size_t length) except -1:
        """Append to the batch; return whether there was memory."""
        cdef Reactor reactor = self.reactor
        if self.out_data == NULL and SEND_BUFFER - reactor.send_buffer_used >= length:
            self.out_data = reactor.send_buffer + reactor.send_buffer_used
            reactor.send_buffer_tail = <PyObject *>self
        elif reactor.send_buffer_tail != <PyObject *>self or (
            SEND_BUFFER - reactor.send_buffer_used < length
        ):
            return self.append(data, length)
        memcpy(self.out_data + self.out_end, data, length)
        self.out_end += length
        reactor.send_buffer_used += length
        return True

    cdef bint append(self, const void *data, size_t length) except -1:
        """Append to the queue, in memory of the stream's own; return whether there was memory."""
        cdef size_t unsent = self.out_end - self.out_start
        cdef size_t capacity
        cdef uint8_t *moved
        if self.reactor.send_buffer_tail == <PyObject *>self:
            self.reactor.send_buffer_tail = NULL
        if self.out_capacity < self.out_end + length:
            if self.out_start >= unsent and self.out_capacity >= unsent + length:
                memcpy(self.out_data, self.out_data + self.out_start, unsent)
            else:
                capacity = unsent + unsent // 2 + length
                moved = <uint8_t *>PyMem_RawMalloc(capacity)
                if moved == NULL:
                    return False
                if unsent:
                    memcpy(moved, self.out_data + self.out_start, unsent)
                if self.out_capacity:
                    PyMem_RawFree(self.out_data)
                self.out_data = moved
                self.out_capacity = capacity
            self.out_start = 0
            self.out_end = unsent
            self.account()
        if length:
            memcpy(self.out_data + self.out_end, data, length)
            self.out_end += length
        return True

    cdef int release_outgoing(self) except -1:
        cdef bint owned = self.out_capacity > 0
        if owned:
            PyMem_RawFree(self.out_data)
        elif self.reactor.send_buffer_tail == <PyObject *>self:
            self.reactor.send_buffer_tail = NULL
        self.out_data = NULL
        self.out_start = self.out_end = self.out_capacity = 0
        if owned:
            self.account()
        return 0

    cdef object write_at_once(self, bytes data):
        """Send now, because the queue or the batch is long: there is no point in batching."""
        cdef size_t length = <size_t>PyBytes_GET_SIZE(data)
        cdef size_t unsent = self.out_end - self.out_start
        cdef size_t batched
        cdef size_t sent = 0
        cdef ssize_t count
        cdef iovec pieces[2]
        cdef msghdr message
        # A nearly empty queue takes a write of any length. Otherwise a large write could
        # never be sent, and a task that awaits each write could be refused.
        if unsent > self.batched:
            self.flush()
            if unsent + length > self.max_queued and unsent > self.high_water():
                raise stream_errors.queue_full(self, unsent, length, self.max_queued)
            if not self.append(PyBytes_AS_STRING(data), length):
                raise MemoryError
            self.bytes_out += length
            self.last_activity = self.reactor.now()
        else:
            batched, self.batched = self.batched, 0
            self.bytes_out += batched + length
            self.last_activity = self.reactor.now()
            if self.failed:  # the loop's next turn closes it
                self.release_outgoing()
                return new_drain(self)
            pieces[0].iov_base = self.out_data + self.out_start
            pieces[0].iov_len = batched
            pieces[1].iov_base = PyBytes_AS_STRING(data)
            pieces[1].iov_len = length
            memset(&message, 0, sizeof(message))
            message.msg_iov = pieces
            message.msg_iovlen = 2
            if batched == 0:
                count = send(self.fd, pieces[1].iov_base, length, MSG_NOSIGNAL)
            else:
                count = sendmsg(self.fd, &message, MSG_NOSIGNAL)
            if count >= 0:
                sent = <size_t>count
            elif not is_transient(errno):
                self.fail(errno)
                return new_drain(self)
            if sent >= batched:
                self.release_outgoing()
                sent -= batched
            else:
                self.out_start += sent
                sent = 0
            if sent < length or self.out_end:
                if not self.append(PyBytes_AS_STRING(data) + sent, length - sent):
                    self.fail(ENOMEM)
                    return new_drain(self)
                self.watch(self.interest | EPOLLOUT)
        if self.out_end - self.out_start > self.high_water():
            self.full = True
        return new_drain(self) if self.full else self.drained_or_yield()

    cdef object drained_or_yield(self):
        """Return what a large write returns: after some of them, other tasks run."""
        self.reads_in_a_row += LARGE_WRITE_COST
        if self.reads_in_a_row < MAX_READS_IN_A_ROW:
            return DRAINED
        self.reads_in_a_row = 0
        return new_drain(self)

    cdef int flush(self) except -1:
        """Send the batch."""
        cdef size_t batched = self.batched
        if batched == 0:
            return 0
        self.batched = 0
        self.bytes_out += batched
        self.last_activity = self.reactor.now()
        if self.failed:
            self.release_outgoing()
        elif self.out_end - self.out_start == batched:
            self.send_queue()
        elif self.out_end - self.out_start > self.high_water():
            self.full = True
        return 0

    cdef int send_queue(self) except -1:
        """Send as much of the queue as the kernel accepts; watch for room if some is left."""
        cdef size_t unsent = self.out_end - self.out_start
        cdef ssize_t count = send(
            self.fd, self.out_data + self.out_start, unsent, MSG_NOSIGNAL
        )
        if count == <ssize_t>unsent:
            self.release_outgoing()
            if self.interest & EPOLLOUT:
                self.watch(self.interest & ~<uint32_t>EPOLLOUT)
            if self.finishing:
                self.finish()
            return 0
        if count >= 0:
            self.out_start += <size_t>count
        elif not is_transient(errno):
            self.fail(errno)
            return 0
        if self.out_capacity == 0 and not self.append(NULL, 0):
            return self.fail(ENOMEM)
        if self.out_end - self.out_start > self.high_water():
            self.full = True
        self.watch(self.interest | EPOLLOUT)
        return 0

    cdef int fail(self, int error) except -1:
        """Mark the connection as failed; close it in the loop's next turn, after all callers."""
        if self.failed or self.closed:
            return 0
        self.failed = True
        self.batched = 0
        self.release_outgoing()
        self.watch(0)
        self.reactor.loop.call_soon(self._tear_down, OSError(error, os.strerror(error)))
        return 0

    cdef int watch_failed(self, int error) except -1:
        return self.fail(error) if self.constructed else Source.watch_failed(self, error)

    def _tear_down(self, error):
        if not self.closed:
            self.tear_down(error)

    cdef int end_of_turn(self) except -1:
        self.flush_scheduled = False
        if self.batched:
            self.flush()
        return 0

    async def _drain(self):
        if not self.full:
            await asyncio.sleep(0)  # let other tasks run
        while self.full and self.writable:
            waiter = self.reactor.loop.create_future()
            if self.room_waiters is None:
                self.room_waiters = []
            self.room_waiters.append(waiter)
            await waiter
        if self.closing or self.loss is not None:
            raise self.writer_error()

    cdef object writer_error(self):
        if self.closing:
            return stream_errors.closed(self)
        if self.loss is not None:
            repeated, self.writer_notified = self.writer_notified, True
            return self.loss_error(repeated)
        return stream_errors.half_closed(self)

    cdef int wake_all(self, list waiters) except -1:
        if waiters is not None:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        return 0

    cdef int wake_writers(self) except -1:
        waiters, self.room_waiters = self.room_waiters, None
        return self.wake_all(waiters)

    cdef int has_room(self) except -1:
        """Wake waiting writers, or continue closing."""
        self.full = self.call_when_empty = False
        if not self.closing:
            self.wake_writers()
        elif not self.closed:
            self.close_sent()
        return 0

    # ---------------------------------------------------------------- closing

    def close_write(self):
        if not self.writable:
            return
        self.flush()
        self.writable = False
        self.wake_writers()
        self.finish()

    cdef int finish(self) except -1:
        """Send FIN once the queue is empty."""
        if self.out_start != self.out_end:
            self.finishing = True
        elif self.fd >= 0 and not self.failed:
            self.finishing = False
            shutdown(self.fd, SHUT_WR)
        return 0

    def close(self):
        if self.closing:
            return
        if self.writable:
            self.flush()
        self.enter_closing()
        try:
            if self.closed or self.failed:
                pass
            elif self.out_start == self.out_end:
                self.close_sent()
            elif self.linger_time == 0:
                self.abort()
            else:
                self.start_linger()
                self.full = self.call_when_empty = True
        finally:
            self.wake_reader()

    def abort(self):
        self.out_end -= self.batched
        self.batched = 0
        self.enter_closing()
        if self.closed:
            self.wake_reader()
        else:
            self.bytes_out -= self.out_end - self.out_start
            self.reset_link()

    cdef int enter_closing(self) except -1:
        self.closing = True
        self.writable = False
        self.stop_timer()
        self.discard_unread()
        self.wake_writers()
        return 0

    cdef int close_sent(self) except -1:
        """Continue closing: the kernel has the whole queue."""
        cdef int unread = 0
        if self.ended or not (
            self.paused or (ioctl(self.fd, FIONREAD, &unread) == 0 and unread > 0)
        ):
            self.close_link()
            return 0
        self.finish()
        if self.paused:
            self.resume()
        if self.timer is None:
            self.start_linger()
        return 0

    cdef int start_linger(self) except -1:
        self.timer = self.reactor.loop.call_later(self.linger_time, self._end_linger)
        return 0

    cdef int stop_timer(self) except -1:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()
        return 0

    def _end_linger(self):
        self.timer = None
        if self.closed or self.failed:
            return
        if self.out_start != self.out_end:
            self.ended_by = BY_LINGER
            self.abort()
        else:
            self.close_link()

    cdef int close_link(self) except -1:
        """Close the socket; the kernel sends its data, then FIN."""
        if not self.failed:
            self.tear_down(None)
        return 0

    cdef int reset_link(self) except -1:
        """Close the socket with a reset (a zero linger time does that: socket(7))."""
        cdef linger_t now
        now.l_onoff = 1
        now.l_linger = 0
        setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
        return self.tear_down(None)

    async def wait_closed(self):
        if not self.closed:
            waiter = self.reactor.loop.create_future()
            if self.close_waiters is None:
                self.close_waiters = []
            self.close_waiters.append(waiter)
            await waiter

    cdef int tear_down(self, object error) except -1:
        """Release everything: closed by this side (None), or because of *error*."""
        if self.local_name is None:
            self.local_name = self.query_local_name()
        self.mark_closed(error)
        self.release_outgoing()
        self.release()
        self.wake_writers()
        waiters, self.close_waiters = self.close_waiters, None
        self.wake_all(waiters)
        on_closed, self.on_closed = self.on_closed, None
        direct, self.reactor.direct = self.reactor.direct, False  # Python code
        try:
            if on_closed is not None:
                on_closed(self)
        finally:
            self.reactor.direct = direct
            self.wake_reader()  # last: this may step the reader, which may raise
        return 0

    cdef object query_local_name(self):
        if self.has_inet_peer():
            return raw_local_name(self.fd)
        return socket_name(self.fd, &getsockname)

    cdef bint has_inet_peer(self) noexcept:
        return self.peer.sin6_family == AF_INET or self.peer.sin6_family == AF_INET6

    cdef int mark_closed(self, object error) except -1:
        if self.loss is None and not self.closing:
            self.loss = stream_errors.cause_of_loss(error)
        self.closed = True
        self.full = self.writable = False
        self.batched = 0
        return self.stop_timer()

    cdef int disown(self) except -1:
        self.mark_closed(stream_errors.owned_by_parent())
        return Source.disown(self)

    # ---------------------------------------------------- calls from the reactor

    cdef int ready(self, uint32_t events) except -1:
        if self.interest & EPOLLIN and events & (EPOLLIN | EPOLLERR | EPOLLHUP):
            self.receive()
        if self.interest & EPOLLOUT and events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            self.send_queue()
            if self.full and self.out_end - self.out_start <= (
                0 if self.call_when_empty else self.high_water() // 4
            ):
                self.has_room()
        return 0

    # ---------------------------------------------------------------- idleness

    @property
    def idle_timeout(self):
        return self.idle_time or None

    @idle_timeout.setter
    def idle_timeout(self, value):
        value = positive_seconds(value, "idle_timeout")
        self.idle_time = 0 if value is None else value
        self.idle_swept = False
        if self.closing or self.closed:
            return  # bounded by linger
        self.stop_timer()
        if value is not None:
            self.arm_idle_timer(self.last_activity + self.idle_time)

    cdef int arm_idle_timer(self, double when) except -1:
        cdef double delay = when - self.reactor.now()
        self.timer = self.reactor.loop.call_later(delay, self._check_idle)
        return 0

    def _check_idle(self):
        """Close if no bytes moved for `idle_timeout`, else set the timer again."""
        cdef double due
        self.timer = None
        due = self.idle_until()
        if self.reactor.now() < due - 0.001:
            self.arm_idle_timer(due)
        else:
            self.end(BY_IDLE_TIMEOUT, stream_errors.idle_timed_out(self.idle_time))

    cdef double idle_until(self) except -1:
        """Return when the idle timeout expires if no more bytes move."""
        cdef size_t unsent = self.out_end - self.out_start - self.batched
        if unsent != self.unsent_seen:  # the peer took bytes, or more were written
            self.unsent_seen = unsent
            self.last_activity = self.reactor.now()
        return self.last_activity + self.idle_time

    def _end_for_limit(self, str limit not None, error):
        """See `silly._engine.stream.Stream._end_for_limit`."""
        cdef int which = <int>LIMITS.index(limit)
        if which == BY_MEMORY_BUDGET:
            self.discard_unread()
        if self.closed or self.failed:
            return
        if not self.closing:
            self.end(which, error)
        elif which == BY_MEMORY_BUDGET:  # it is lingering
            self.ended_by = <uint8_t>which
            self.abort()

    cdef int end(self, int limit, object error) except -1:
        """End the connection because of *limit*; reset it if the peer has not acknowledged all."""
        self.ended_by = <uint8_t>limit
        self.loss = error
        self.writable = False
        if self.failed:
            return 0
        if limit == BY_MEMORY_BUDGET or self.acknowledged() < self.bytes_out:
            return self.reset_link()
        return self.close_link()

    # --------------------------------------------------------------- deadlines

    def _check_deadlines(self, double now, tuple deadlines not None):
        """See `silly._engine.stream.Stream._check_deadlines`."""
        cdef double first_byte, read_deadline, receive_rate, send_rate, send_window
        if self.closing or self.closed or self.failed or self.loss is not None:
            return
        first_byte, read_deadline, receive_rate, send_rate, send_window = deadlines
        if self.check_send_rate(now, send_rate, send_window):
            return
        if self.check_read_deadline(now, first_byte, read_deadline, receive_rate):
            return
        if self.deadline_state != NULL and self.deadline_state.window_acked < 0 and self.deadline_state.partial < 0:
            self.free_deadline_state()
        if self.idle_swept and self.idle_time and now >= self.idle_until():
            self.end(BY_IDLE_TIMEOUT, stream_errors.idle_timed_out(self.idle_time))

    cdef bint check_send_rate(self, double now, double rate, double window) except -1:
        """Check the rate at which the peer takes bytes; return if that ended the connection."""
        cdef DeadlineState *state = self.deadline_state
        cdef int64_t acked
        if rate == 0 or self.bytes_out == self.all_acked:
            acked = self.bytes_out
        else:
            acked = self.acknowledged()
        if acked >= self.bytes_out:
            self.all_acked = self.bytes_out
            if state != NULL:
                state.window_acked = -1
            return False
        state = self.ensure_deadline_state()
        if state.window_acked >= 0 and acked < state.window_written:  # the window is open
            if now - state.window_start < window:
                return False
            if acked - state.window_acked < rate * (now - state.window_start):
                self.end(BY_MIN_SEND_RATE, stream_errors.send_rate_too_low(rate, window))
                return True
        state.window_acked = acked
        state.window_written = self.bytes_out
        state.window_start = now
        return False

    cdef bint check_read_deadline(
        self, double now, double first_byte, double deadline, double rate
    ) except -1:
        """Check the waiting read; return if that ended the connection."""
        cdef size_t unread = self.in_end - self.in_start
        cdef int64_t taken = self.bytes_in - <int64_t>unread
        cdef DeadlineState *state = self.deadline_state
        if self.reader is None or not self.reader.is_pending() or unread == 0:
            if state != NULL:
                state.partial = -1
            if self.reader is not None and self.reader.is_pending() and now - self.opened >= (
                first_byte
            ) and self.bytes_in == 0 and self.bytes_out == 0 and self.batched == 0:
                self.end(BY_FIRST_BYTE_TIMEOUT, stream_errors.first_byte_timed_out(first_byte))
                return True
            return False
        state = self.ensure_deadline_state()
        if state.partial != taken:
            state.partial = taken
            state.partial_since = now
        elif now - state.partial_since >= deadline + <double>unread / rate:
            self.end(BY_READ_DEADLINE, stream_errors.read_deadline_passed(unread, deadline))
            return True
        return False

    cdef DeadlineState *ensure_deadline_state(self) except NULL:
        if self.deadline_state == NULL:
            self.deadline_state = <DeadlineState *>PyMem_RawMalloc(sizeof(DeadlineState))
            if self.deadline_state == NULL:
                raise MemoryError
            self.deadline_state.partial = self.deadline_state.window_acked = -1
        return self.deadline_state

    cdef int free_deadline_state(self) except -1:
        if self.deadline_state != NULL:
            PyMem_RawFree(self.deadline_state)
            self.deadline_state = NULL
        return 0

    cdef int64_t acknowledged(self) noexcept:
        """Return how many of the written bytes the peer acknowledged."""
        cdef int in_flight = 0
        ioctl(self.fd, TIOCOUTQ, &in_flight)  # SIOCOUTQ of tcp(7)
        return self.bytes_out - <int64_t>(self.out_end - self.out_start - self.batched) - in_flight

    @property
    def _client(self):
        """The peer's IP address as packed bytes (see `silly._engine.interface.Gate`)."""
        if self.peer.sin6_family == AF_INET:
            return (<char *>&(<sockaddr_in *>&self.peer).sin_addr)[:4]
        if self.peer.sin6_family == AF_INET6:
            return (<char *>&self.peer.sin6_addr)[:16]
        return b""

    @property
    def _ended_by(self):
        return LIMITS[self.ended_by]

    @property
    def _held_bytes(self):
        return self.in_capacity + self.out_capacity

    # -------------------------------------------------------------- properties

    @property
    def is_alive(self):
        return not self.closing and self.loss is None

    @property
    def _is_closing(self):
        return bool(self.closing)

    @property
    def _is_closed(self):
        return bool(self.closed)

    @property
    def _is_ended(self):
        return bool(self.ended)

    @property
    def _loss(self):
        return self.loss

    @property
    def _waits_for(self):
        cdef Read read = self.reader
        if read is not None and read.is_pending():
            return stream_errors.describe_read(read.delimiter, read.wanted)
        if self.room_waiters:
            return stream_errors.describe_write(self.unsent_bytes)
        return None

    @property
    def unread_bytes(self):
        return self.in_end - self.in_start

    @property
    def unsent_bytes(self):
        return self.out_end - self.out_start

    @property
    def read_limit(self):
        return self.max_unread

    @read_limit.setter
    def read_limit(self, value):
        self.max_unread = _capped(size(value, "read_limit", least=1))
        if self.paused and self.in_end - self.in_start < self.max_unread:
            self.resume()
        else:
            self.control_flow()

    @property
    def max_unsent(self):
        return self.max_queued

    @max_unsent.setter
    def max_unsent(self, value):
        self.max_queued = _capped(size(value, "max_unsent", least=1))

    @property
    def linger(self):
        return self.linger_time

    @linger.setter
    def linger(self, value):
        self.linger_time = seconds(value, "linger")

    @property
    def _local_sockaddr(self):
        if self.fd >= 0 and self.local_name is None:
            return socket_name(self.fd, &getsockname)
        if self.local_name is not None and self.has_inet_peer():
            return inet_sockaddr(<sockaddr_in6 *>PyBytes_AS_STRING(self.local_name))
        return self.local_name

    @property
    def _remote_sockaddr(self):
        return inet_sockaddr(&self.peer) if self.has_inet_peer() else self.peer_name

    @property
    def _counts(self):
        return (self.bytes_in, self.bytes_out - <int64_t>(
            self.out_end - self.out_start - self.batched
        ))

    @property
    def _times(self):
        cdef double offset = time.time() - self.reactor.now()
        return self.opened + offset, self.last_activity + offset


# ------------------------------------------------------------------- awaitables


@cython.freelist(64)
cdef class Read:
    """The coroutine object of one `Stream.read`, and its own iterator."""

    def __dealloc__(self):
        if self.state == NEW and self.kind != LINE:
            try:
                warnings.warn("coroutine 'Conn.read' was never awaited", RuntimeWarning)
            except BaseException:
                pass

    cdef int step(self, void **out) except -1:
        """Resume; set *out* to the result and return 0, or to what to wait on and return 1."""
        cdef Stream stream = self.stream
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
            if stream.closing or stream.reader is not None:
                raise stream.reader_error(self.delimiter, self.wanted)
            if self.kind == COUNT and self.wanted == 0:
                taken = b""
                Py_INCREF(taken)
                out[0] = <void *>taken
                return 0
            count = stream.match(self)
            if count == INCOMPLETE and not stream.ended and stream.loss is None:
                self.suspend()
                Py_INCREF(self.waiter)
                out[0] = <void *>self.waiter
                return 1
            stream.reads_in_a_row += 1
        elif self.state == WAITING:
            if self.waiter.is_pending():  # another task awaits it already
                raise stream_errors.already_awaited()
            count = INCOMPLETE
            if not stream.closing:
                count = stream.match(self)
                if count == INCOMPLETE and not stream.ended and stream.loss is None:
                    if self.timed_out:
                        self.finish()
                        raise stream_errors.read_timed_out(
                            self.delimiter, self.wanted, self.timeout, stream.remote_addr
                        )
                    if stream.paused:
                        stream.resume()
                    self.waiter.wait()  # a spurious wake-up
                    Py_INCREF(self.waiter)
                    out[0] = <void *>self.waiter
                    return 1
            self.finish()
        else:
            raise RuntimeError("cannot reuse already awaited read")
        if count == INCOMPLETE:
            if self.kind == LINE and stream.ended and not stream.closing:
                count = stream.in_end - stream.in_start
                if count == 0:
                    raise StopAsyncIteration
            else:
                raise stream.reader_error(self.delimiter, self.wanted)
        elif count == TOO_LONG:
            stream.control_flow()
            raise stream_errors.limit_exceeded(stream, self.delimiter, self.wanted)
        taken = stream.take(<size_t>count)
        Py_INCREF(taken)
        out[0] = <void *>taken
        return 0

    cdef int suspend(self) except -1:
        cdef Stream stream = self.stream
        if stream.batched and not stream.reactor.in_batch:
            stream.flush()
        if stream.paused:
            stream.resume()
        if self.waiter is None:
            self.waiter = new_waiter(stream.reactor.loop)
        self.waiter.purpose = self
        stream.reads_in_a_row = 0
        self.waiter.wait()
        if self.timeout is not None:
            self.timer = stream.reactor.loop.call_later(self.timeout, self._time_out)
        self.state = WAITING
        stream.reader = self
        return 0

    cdef bint is_pending(self) noexcept:
        return self.state == WAITING and self.waiter.state == PENDING

    cdef int finish(self) except -1:
        """Let the next reader use the stream."""
        self.state = NEW if self.kind == LINE else DONE
        self.stream.reader = None
        self.waiter.purpose = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return 0

    def _time_out(self):
        self.timed_out = True
        if self.state == WAITING and self.waiter.is_pending():
            self.waiter.wake(self.stream.reactor)

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
        result = <object>out
        Py_DECREF(result)
        if yielded:
            return result
        raise StopIteration(result)

    def throw(self, kind, value=None, traceback=None):
        self.abandon()
        _throw(kind, value, traceback)

    def close(self):
        self.abandon()

    cdef int abandon(self) except -1:
        """End the read without a result."""
        if self.state == WAITING:
            self.finish()
            self.stream.control_flow()
            if self.waiter.is_pending():  # something other than the waiting task ended this
                self.waiter.wake(self.stream.reactor)
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
        return self if self.state == NEW else new_lines(self.stream)


cdef Read new_read(Stream stream, uint8_t kind):
    cdef Read read = Read.__new__(Read)
    read.stream = stream
    read.kind = kind
    return read


cdef Lines new_lines(Stream stream):
    cdef Lines lines = Lines.__new__(Lines)
    lines.stream = stream
    lines.kind = LINE
    lines.delimiter = NEWLINE
    return lines


cdef _throw(kind, value, traceback):
    """Raise the exception given to a coroutine's `throw`."""
    if value is None:
        value = kind() if isinstance(kind, type) else kind
    elif not isinstance(value, BaseException):
        value = kind(value)
    if traceback is not None:
        value = value.with_traceback(traceback)
    raise value


cdef int _send(Read self, object value, void **out) except -1:
    if self.state == NEW and value is not None:
        raise TypeError("can't send non-None value to a just-started coroutine")
    return self.step(out)


@cython.final
cdef class Drained:
    """What `write` returns if there is room: awaiting it does not suspend."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration

    # These make it a coroutine object, which `asyncio.create_task` accepts.

    def send(self, value):
        raise StopIteration

    def throw(self, kind, value=None, traceback=None):
        _throw(kind, value, traceback)

    def close(self):
        pass


cdef int _send_none(object self, object value, void **out) except -1:
    Py_INCREF(None)
    out[0] = <void *>None
    return 0


cdef Drained DRAINED = Drained.__new__(Drained)


@cython.final
cdef class Drain:
    """What `write` returns if the queue is long: awaiting it waits for room."""

    cdef Stream stream
    cdef object waiting  # used if a task steps this object

    def __await__(self):
        return self.stream._drain().__await__()

    def send(self, value):
        if self.waiting is None:
            self.waiting = self.stream._drain()
        return self.waiting.send(value)

    def throw(self, kind, value=None, traceback=None):
        self.close()
        _throw(kind, value, traceback)

    def close(self):
        if self.waiting is not None:
            self.waiting.close()


cdef Drain new_drain(Stream stream):
    cdef Drain room = Drain.__new__(Drain)
    room.stream = stream
    return room


cdef PyObject *_next(Read self) except? NULL:
    # Replaces the __next__ above, for which Cython would add a traceback to each StopIteration.
    # The interpreter calls this from Python 3.12 on, where it called am_send before.
    cdef void *out = NULL
    if self.step(&out) == 0:
        stop_iteration(<PyObject *>out)
        return NULL
    return <PyObject *>out


cdef int _set_slots(object kind, void *send, void *next) except -1:
    # Cython has no syntax for the am_send slot of PyAsyncMethods. It returns 0 for
    # PYGEN_RETURN, 1 for PYGEN_NEXT, -1 for PYGEN_ERROR (see PyIter_Send in the C API).
    cdef PyTypeObject *slots = <PyTypeObject *>kind
    slots.tp_as_async.am_send = send
    if next != NULL:
        slots.tp_iternext = next
    forbid_instantiation(slots)
    return 0


_set_slots(Read, <void *>_send, <void *>_next)
_set_slots(Lines, <void *>_send, <void *>_next)
_set_slots(Drained, <void *>_send_none, NULL)
forbid_instantiation(<PyTypeObject *>Drain)


# ------------------------------------------------------------------- helpers


ctypedef int (*name_query)(int fd, sockaddr *name, socklen_t *length) noexcept nogil


cdef object socket_name(int fd, name_query ask):
    """Return a socket's local or peer address, in the form that the `socket` module uses."""
    cdef sockaddr_storage storage
    cdef sockaddr_un *name = <sockaddr_un *>&storage
    cdef socklen_t length = sizeof(storage)
    if ask(fd, <sockaddr *>name, &length) < 0:
        return None
    if name.sun_family == AF_INET or name.sun_family == AF_INET6:
        return inet_sockaddr(<sockaddr_in6 *>name)
    if name.sun_family != AF_UNIX or length <= sizeof(name.sun_family):
        return ""
    path = (<char *>name.sun_path)[: length - sizeof(name.sun_family)]
    return path if path[:1] == b"\0" else os.fsdecode(path.rstrip(b"\0"))


cdef bytes raw_local_name(int fd):
    """Return an IP socket's local address as the bytes of a sockaddr_in6; None if unknown."""
    cdef sockaddr_in6 name
    cdef socklen_t length = sizeof(name)
    if getsockname(fd, <sockaddr *>&name, &length) < 0:
        return None
    return PyBytes_FromStringAndSize(<const char *>&name, sizeof(name))


cdef object inet_sockaddr(sockaddr_in6 *name):
    cdef char text[64]
    cdef sockaddr_in *name4 = <sockaddr_in *>name
    if name.sin6_family == AF_INET:
        inet_ntop(AF_INET, &name4.sin_addr, text, sizeof(text))
        return (text.decode("ascii"), ntohs(name4.sin_port))
    inet_ntop(AF_INET6, &name.sin6_addr, text, sizeof(text))
    flow, scope = ntohl(name.sin6_flowinfo), name.sin6_scope_id
    return (text.decode("ascii"), ntohs(name.sin6_port), flow, scope)


cdef inline bint is_transient(int error) noexcept:
    return error in (EAGAIN, EINTR, ENOBUFS, ENOMEM)


cdef size_t _capped(value) except? 0:
    return min(value, 1 << 62)


cdef bint is_socket(int fd) noexcept:
    cdef int kind = 0
    cdef socklen_t length = sizeof(kind)
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length) == 0
