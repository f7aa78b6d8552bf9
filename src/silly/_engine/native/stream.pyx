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
from silly._engine.native.filter cimport Filtered
from silly._engine.native.lifecycle cimport CLOSING, LOST, OPEN
from silly._engine.native.reactor cimport (
    HEADROOM,
    RECEIVE,
    SEND_BUFFER,
    Reactor,
    Source,
    reactor_of,
)
from silly._engine.native.waiter cimport PENDING, Waiter, new_waiter

import os
import warnings

from silly._values.arguments import seconds_or_none, size
from silly._engine import stream_errors
from silly._engine.drain import Draining
from silly._engine.interface import LINGER, MAX_UNSENT, READ_LIMIT


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

cdef bytes NEWLINE = b"\n"


cdef class Stream(Filtered):
    """One connection's reading and writing, and its socket; the base of the native `Conn`.

    How it ends is in ``lifecycle.py``, what a filter concerns in ``filter.py``.
    """

    def __cinit__(
        self,
        int link,
        loop,
        owner,
        *,
        read_limit=READ_LIMIT,
        max_unsent=MAX_UNSENT,
        double linger=LINGER,
        idle_timeout=None,
        bint idle_swept=False,
        budget=None,
    ):
        # If this raises, the caller still owns *link*.
        cdef socklen_t length = sizeof(sockaddr_in6)
        cdef Reactor reactor = reactor_of(loop)
        self.max_unread = _capped(read_limit)
        self.max_queued = _capped(max_unsent)
        self.set_thresholds()
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
        self.fd = link
        self.reactor = reactor
        try:
            self._begin(owner, budget, linger)
            self._set_timeouts(0 if idle_timeout is None else idle_timeout, idle_swept)
            self._set_no_filter()
            reactor.add(self)
            self.watch(EPOLLIN)  # last, so that it needs no undoing
        except BaseException:
            self._stop_timer()
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
            self._discard_unread()
        if self._paused and self.in_end - self.in_start <= self.max_unread // 2:
            self._resume()
        return taken

    cdef int _discard_unread(self) except -1:
        self.free_incoming()
        self.in_data = NULL
        self.in_start = self.in_end = self.searched = 0
        return 0

    cdef int free_incoming(self) except -1:
        if self.in_capacity:
            PyMem_RawFree(self.in_data)
            self.in_capacity = 0
            self._account()
        self.piece = None
        return 0

    cdef int _account(self) except -1:
        """Report the change in the memory that this connection holds to the budget.

        Exceptions are only printed: the callers have freed memory that they still refer to.
        """
        cdef int64_t held = <int64_t>(self.in_capacity + self.out_capacity)
        cdef int64_t change = held - self._accounted
        if self._budget is not None and change:
            self._accounted = held
            tell_budget(self._budget, change)
        return 0

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
                self._discard_unread()
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
        self._account()
        return True

    cdef int save_unread(self) except -1:
        """Move unread bytes out of the scratch buffer; without memory, the connection fails."""
        cdef size_t unread = self.in_end - self.in_start
        cdef uint8_t *data
        if self.in_capacity or self.in_data == NULL:
            return 0
        data = <uint8_t *>PyMem_RawMalloc(unread)
        if data == NULL:
            self._discard_unread()
            return self.fail(ENOMEM)
        memcpy(data, self.in_data + self.in_start, unread)
        self.in_data = data
        self.in_capacity = unread
        self.in_start = 0
        self.in_end = unread
        self.piece = None
        self._account()
        return 0

    cdef size_t receive_limit(self, size_t unread) noexcept:
        """Return how many bytes to receive at most, given the read limit and the waiting read."""
        cdef Read reader = self.reader
        cdef size_t held = self.max_unread if self.max_unread > MIN_RECEIVE else MIN_RECEIVE
        if self._state >= CLOSING:
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
        if unread >= self.receive_threshold:
            if self._filter is not None:
                return self.receive_wire(unread)
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
            self._bytes_in += count
            self._last_activity = reactor.now()
            reactor.received.append(self)
            reactor.received_bytes += <size_t>count
        elif count == 0:
            self.receive_end()
        elif errno == EAGAIN or errno == EINTR:
            return 0
        else:
            self._tear_down(OSError(errno, os.strerror(errno)))
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
        if self._state >= CLOSING:
            return self._discard_unread()
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
        self.watch(self.interest & ~<uint32_t>EPOLLIN)
        return self._peer_finished()

    cdef int _wake_reader(self) except -1:
        cdef Read reader = self.reader
        if reader is not None and reader.is_pending():
            reader.waiter.wake(self.reactor)
        return 0

    # ----------------------------------------------------------- flow control

    cdef int control_flow(self) except -1:
        """Stop receiving if `read_limit` bytes are unread and no read waits for more."""
        if self.in_end - self.in_start >= self.max_unread and not (
            self._paused or self._ended or self._state >= LOST
            or (self.reader is not None and self.reader.is_pending())
        ):
            self._paused = True
            self.watch(self.interest & ~<uint32_t>EPOLLIN)
        return 0

    cdef int _resume(self) except -1:
        self._paused = False
        if not (self._ended or self._socket_is_closed() or self._failed):
            self.watch(self.interest | EPOLLIN)
        return 0

    cdef int set_thresholds(self) noexcept:
        """Set what is compared whenever bytes are received or written."""
        if self._filter is not None:
            self.receive_threshold = self.batch_threshold = 0
            return 0
        self.receive_threshold = (
            self.max_unread - RECEIVE + 1 if self.max_unread >= RECEIVE else 0
        )
        self.batch_threshold = min(<size_t>HIGH_WATER, self.max_queued)
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
        if self._state != OPEN:
            raise self._writer_error()
        batched = self.batched + length
        if self._full or length > LARGE or batched > self.batch_threshold:
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
            self._account()
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
            self._account()
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
        if self._filter is not None:
            return self.write_plaintext(data)
        # A nearly empty queue takes a write of any length. Otherwise a large write could
        # never be sent, and a task that awaits each write could be refused.
        if unsent > self.batched:
            self._flush()
            if unsent + length > self.max_queued and unsent > self.high_water():
                raise stream_errors.queue_full(self, unsent, length, self.max_queued)
            if not self.append(PyBytes_AS_STRING(data), length):
                raise MemoryError
            self._bytes_out += length
            self._last_activity = self.reactor.now()
        else:
            batched, self.batched = self.batched, 0
            self._bytes_out += batched + length
            self._last_activity = self.reactor.now()
            if self._failed:  # the loop's next turn closes it
                self.release_outgoing()
                return Draining(self._drain)
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
                return Draining(self._drain)
            if sent >= batched:
                self.release_outgoing()
                sent -= batched
            else:
                self.out_start += sent
                sent = 0
            if sent < length or self.out_end:
                if not self.append(PyBytes_AS_STRING(data) + sent, length - sent):
                    self.fail(ENOMEM)
                    return Draining(self._drain)
                self.watch(self.interest | EPOLLOUT)
        if self.out_end - self.out_start > self.high_water():
            self._full = True
        return Draining(self._drain) if self._full else self.drained_or_yield()

    cdef object drained_or_yield(self):
        """Return what a large write returns: after some of them, other tasks run."""
        self.reads_in_a_row += LARGE_WRITE_COST
        if self.reads_in_a_row < MAX_READS_IN_A_ROW:
            return DRAINED
        self.reads_in_a_row = 0
        return Draining(self._drain)

    cdef int _flush(self) except -1:
        """Send the batch."""
        cdef size_t batched = self.batched
        if batched == 0:
            return 0
        self.batched = 0
        if self.plaintext is not None:
            return self.flush_plaintext()
        self._bytes_out += batched
        self._last_activity = self.reactor.now()
        if self._failed:
            self.release_outgoing()
        elif self.out_end - self.out_start == batched:
            self.send_queue()
        elif self.out_end - self.out_start > self.high_water():
            self._full = True
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
                self._send_fin()
            return 0
        if count >= 0:
            self.out_start += <size_t>count
        elif not is_transient(errno):
            self.fail(errno)
            return 0
        if self.out_capacity == 0 and not self.append(NULL, 0):
            return self.fail(ENOMEM)
        if self.out_end - self.out_start > self.high_water():
            self._full = True
        self.watch(self.interest | EPOLLOUT)
        return 0

    cdef int fail(self, int error) except -1:
        """Mark the connection as failed; close it in the loop's next turn, after all callers."""
        if self._failed or self._socket_is_closed():
            return 0
        self._failed = True
        self.batched = 0
        self.release_outgoing()
        self.watch(0)
        self.reactor.loop.call_soon(self._tear_down_later, OSError(error, os.strerror(error)))
        return 0

    cdef int watch_failed(self, int error) except -1:
        return self.fail(error) if self.constructed else Source.watch_failed(self, error)

    def _tear_down_later(self, error):
        self._tear_down(error)

    cdef int end_of_turn(self) except -1:
        self.flush_scheduled = False
        if self.batched:
            self._flush()
        return 0

    # --------------------------------------------------------------- see lifecycle.py

    cdef double _now(self) except -1:
        return self.reactor.now()

    cdef object _call_later(self, double delay, object callback):
        return self.reactor.loop.call_later(delay, callback)

    cdef object _new_future(self):
        return self.reactor.loop.create_future()

    cdef int64_t _unread(self) noexcept:
        return <int64_t>(self.in_end - self.in_start)

    cdef object _peek(self):
        return self.in_data[self.in_start : self.in_end] if self.in_data != NULL else b""

    cdef bint _has_reader(self) noexcept:
        return self.reader is not None

    cdef bint _is_read_pending(self) noexcept:
        return self.reader is not None and self.reader.is_pending()

    cdef int64_t _batched_bytes(self) noexcept:
        return <int64_t>self.batched

    cdef int64_t _unsent(self) noexcept:
        cdef int64_t queued = <int64_t>(self.out_end - self.out_start)
        return queued if self._filter is not None else queued - <int64_t>self.batched

    cdef int64_t _in_flight(self) noexcept:
        cdef int count = 0
        ioctl(self.fd, TIOCOUTQ, &count)  # SIOCOUTQ of tcp(7)
        return count

    cdef int _discard_batch(self) except -1:
        if self.plaintext is not None:
            self.plaintext.clear()
        else:
            self.out_end -= self.batched
        self.batched = 0
        return 0

    cdef int _call_when_empty(self) except -1:
        self.call_when_empty = True
        return 0

    cdef bint _has_unread_in_kernel(self) noexcept:
        cdef int count = 0
        return ioctl(self.fd, FIONREAD, &count) == 0 and count > 0

    cdef int _send_fin(self) except -1:
        """Send FIN once the queue is empty."""
        if self.out_start != self.out_end:
            self.finishing = True
        elif self.fd >= 0 and not self._failed:
            self.finishing = False
            shutdown(self.fd, SHUT_WR)
        return 0

    cdef int _close_socket(self) except -1:
        """Close the socket; the kernel sends its data, then FIN."""
        if not self._failed:
            self._tear_down(None)
        return 0

    cdef int _reset_socket(self) except -1:
        """Close the socket with a reset (a zero linger time does that: socket(7))."""
        cdef linger_t now
        now.l_onoff = 1
        now.l_linger = 0
        setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
        self._tear_down(None)
        return 0

    cdef int _release(self) except -1:
        if self.local_name is None:
            self.local_name = self.query_local_name()
        self.release_outgoing()
        return self.release()

    cdef int _notify_owner(self, object owner) except -1:
        direct, self.reactor.direct = self.reactor.direct, False  # Python code
        try:
            owner.conn_closed(self)
        finally:
            self.reactor.direct = direct
        return 0

    cdef object query_local_name(self):
        if self.has_inet_peer():
            return raw_local_name(self.fd)
        return socket_name(self.fd, &getsockname)

    cdef bint has_inet_peer(self) noexcept:
        return self.peer.sin6_family == AF_INET or self.peer.sin6_family == AF_INET6

    cdef object _peer_sockaddr(self):
        return inet_sockaddr(&self.peer) if self.has_inet_peer() else self.peer_name

    cdef object _own_sockaddr(self):
        if self.fd >= 0 and self.local_name is None:
            return socket_name(self.fd, &getsockname)
        if self.local_name is not None and self.has_inet_peer():
            return inet_sockaddr(<sockaddr_in6 *>PyBytes_AS_STRING(self.local_name))
        return self.local_name

    cdef bytes _peer_ip(self):
        if self.peer.sin6_family == AF_INET:
            return (<char *>&(<sockaddr_in *>&self.peer).sin_addr)[:4]
        if self.peer.sin6_family == AF_INET6:
            return (<char *>&self.peer.sin6_addr)[:16]
        return b""

    cdef int disown(self) except -1:
        self._mark_closed(stream_errors.owned_by_parent())
        return Source.disown(self)

    # ------------------------------------------------------------------ see filter.py

    cdef object _take_unread(self):
        unread = self._peek()
        self._discard_unread()
        return unread

    cdef int _use_filter(self) except -1:
        self.plaintext = []
        return self.set_thresholds()

    cdef int _feed(self, bytes plaintext) except -1:
        cdef size_t length = <size_t>PyBytes_GET_SIZE(plaintext)
        if self.in_start == self.in_end:
            self.free_incoming()
            self.piece = plaintext
            self.in_data = <uint8_t *>PyBytes_AS_STRING(plaintext)
            self.in_start = 0
            self.in_end = length
        elif self.reserve(length):
            memcpy(self.in_data + self.in_end, PyBytes_AS_STRING(plaintext), length)
            self.in_end += length
        else:
            return 0  # no memory: the connection failed
        if self.reactor.in_batch:
            self.reactor.received.append(self)
            self.reactor.received_bytes += length
            return 0
        return self.deliver()

    cdef int _send_wire(self, bytes data) except -1:
        cdef size_t length = <size_t>PyBytes_GET_SIZE(data)
        cdef size_t sent = 0
        cdef ssize_t count
        if self._failed or self.fd < 0:
            return 0
        if self.out_start == self.out_end:
            count = send(self.fd, PyBytes_AS_STRING(data), length, MSG_NOSIGNAL)
            if count >= 0:
                sent = <size_t>count
            elif not is_transient(errno):
                return self.fail(errno)
        if sent < length:
            if not self.append(PyBytes_AS_STRING(data) + sent, length - sent):
                return self.fail(ENOMEM)
            self.watch(self.interest | EPOLLOUT)
            if self.out_end - self.out_start > self.high_water():
                self._full = True
        return 0

    cdef int receive_wire(self, size_t unread) except -1:
        """Receive once, and open what was received."""
        cdef Reactor reactor = self.reactor
        cdef uint8_t *place = reactor.scratch_space()
        cdef ssize_t count = recv(self.fd, place, self.receive_limit(unread), 0)
        if count > 0:
            self._bytes_in += count
            self._last_activity = reactor.now()
            self._received_wire(place[:count])
        elif count == 0:
            self.receive_end()
        elif errno == EAGAIN or errno == EINTR:
            return 0
        else:
            self._tear_down(OSError(errno, os.strerror(errno)))
        return 1

    cdef object write_plaintext(self, bytes data):
        """Put *data* into the batch, which is sealed as a whole."""
        cdef size_t length = <size_t>PyBytes_GET_SIZE(data)
        cdef size_t queued = self.out_end - self.out_start
        if self.batched + length > HIGH_WATER or queued + self.batched + length > self.max_queued:
            self._flush()
            queued = self.out_end - self.out_start
            if queued + length > self.max_queued and queued > self.high_water():
                raise stream_errors.queue_full(self, queued, length, self.max_queued)
        if length:
            self.plaintext.append(data)
            self.batched += length
            if self.batched > HIGH_WATER:
                self._flush()
            elif not self.flush_scheduled:
                self.flush_scheduled = True
                self.reactor.flush_later(self)
        if self._full:
            return Draining(self._drain)
        return self.drained_or_yield() if length > LARGE else DRAINED

    cdef int flush_plaintext(self) except -1:
        pieces, self.plaintext = self.plaintext, []
        self._last_activity = self.reactor.now()
        if not self._failed:
            self._say(self._seal(b"".join(pieces)))
        return 0

    # ------------------------------------------------------- calls from the reactor

    cdef int ready(self, uint32_t events) except -1:
        if self.interest & EPOLLIN and events & (EPOLLIN | EPOLLERR | EPOLLHUP):
            self.receive()
        if self.interest & EPOLLOUT and events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            self.send_queue()
            if self._full and self.out_end - self.out_start <= (
                0 if self.call_when_empty else self.high_water() // 4
            ):
                self.call_when_empty = False
                self._has_room()
        return 0

    # ------------------------------------------------------------------ properties

    @property
    def _held_bytes(self):
        return self.in_capacity + self.out_capacity

    @property
    def _waits_for(self):
        cdef Read read = self.reader
        if read is not None and read.is_pending():
            return stream_errors.describe_read(read.delimiter, read.wanted)
        if self._room_waiters:
            return stream_errors.describe_write(self.unsent_bytes)
        return None

    @property
    def read_limit(self):
        return self.max_unread

    @read_limit.setter
    def read_limit(self, value):
        self.max_unread = _capped(size(value, "read_limit", least=1))
        if self._paused and self.in_end - self.in_start < self.max_unread:
            self._resume()
        else:
            self.control_flow()

    @property
    def max_unsent(self):
        return self.max_queued

    @max_unsent.setter
    def max_unsent(self, value):
        self.max_queued = _capped(size(value, "max_unsent", least=1))


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
                Py_INCREF(self.waiter)
                out[0] = <void *>self.waiter
                return 1
            stream.reads_in_a_row += 1
        elif self.state == WAITING:
            if self.waiter.is_pending():  # another task awaits it already
                raise stream_errors.already_awaited()
            count = INCOMPLETE
            if stream._state < CLOSING:
                count = stream.match(self)
                if count == INCOMPLETE and not stream._ended and stream._loss is None:
                    if self.timed_out:
                        self.finish()
                        raise stream_errors.read_timed_out(
                            stream, self.delimiter, self.wanted, self.timeout
                        )
                    if stream._paused:
                        stream._resume()
                    self.waiter.wait()  # a spurious wake-up
                    Py_INCREF(self.waiter)
                    out[0] = <void *>self.waiter
                    return 1
            self.finish()
        else:
            raise RuntimeError("cannot reuse already awaited read")
        if count == INCOMPLETE:
            if (
                self.kind == LINE and stream._ended and not stream._truncated
                and stream._state < CLOSING
            ):
                count = stream.in_end - stream.in_start
                if count == 0:
                    raise StopAsyncIteration
            else:
                raise stream._reader_error(self.delimiter, self.wanted)
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
            stream._flush()
        if stream._paused:
            stream._resume()
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


# ------------------------------------------------------------------- helpers

cdef void tell_budget(object budget, int64_t change) noexcept:
    budget.change(change)


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
