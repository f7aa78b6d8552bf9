"""One connection's bytes, natively: `silly._engine.stream.Stream` and its link in one.

What reading, writing and closing mean is said there, and is the same here. What
differs is how the bytes travel:

Receiving
    All connections receive into the reactor's one scratch buffer. A reader that
    the bytes satisfy is stepped as soon as its group has received, and takes its
    results straight out of it; what is unread when that step ends is moved to
    memory of the connection's own. So a connection owns memory only while it
    holds unread bytes. A few unread bytes are moved in front of the place where
    the scratch buffer receives, which joins a line that came in pieces without a
    copy of the whole.

Reading
    `read` returns a `Read`: a coroutine object that is its own iterator, and
    whose `am_send` slot returns bytes that are there without an exception being
    made of them. ``async for`` uses one `Lines` for all its lines.

Writing
    Writes are copied to the reactor's stage, behind those of other connections,
    and leave when the group has been handed its bytes, when they have become
    many, or at the end of the batch or of the loop's turn. What the kernel does
    not take then is moved to memory of the connection's own.
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
    forbid_making,
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
    STAGE,
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
from silly._engine import complaints
from silly._engine import stream as portable


cdef enum:
    HIGH_WATER = 65536  # bytes: a batch this large leaves at once; writers wait above it
    LEAST = 4096  # bytes: a read limit below this does not make pieces smaller
    LARGE = 16384  # bytes: a piece longer than this is received and sent without being copied
    IN_A_ROW = 1000  # reads that need not wait, until others have their turn ...
    LARGE_WRITE = 50  # ... and for how many of these a large write counts

cdef enum:  # what `find` and `match` return instead of a number of bytes
    INCOMPLETE = 0
    TOO_LONG = -1

cdef enum:  # what a `Read` is after
    ALL = 0
    COUNT = 1
    DELIMITER = 2
    LINE = 3

cdef enum:  # where a `Read` is
    NEW = 0
    WAITING = 1
    DONE = 2

cdef enum:  # what ended a connection: indices into LIMITS
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
        on_gone,
        *,
        read_limit=portable.READ_LIMIT,
        max_unsent=portable.MAX_UNSENT,
        double linger=portable.LINGER,
        idle_timeout=None,
        bint idle_swept=False,
        budget=None,
    ):
        # If this raises, *link* is still the caller's.
        cdef socklen_t length = sizeof(sockaddr_in6)
        cdef Reactor reactor = reactor_of(loop)
        self.on_gone = on_gone
        self.limit_of_reads = _capped(read_limit)
        self.limit_of_queue = _capped(max_unsent)
        self.linger_time = linger
        self.budget = budget
        self.idle_swept = idle_swept
        self.idle_time = 0 if idle_timeout is None else idle_timeout
        self.writable = True
        if link < 0 or (reactor.arriving != link and not is_socket(link)):
            raise ValueError(f"descriptor {link} is no socket")
        # Known from now on: a connection that was reset cannot tell.
        if reactor.arriving == link and reactor.arriving_known:
            self.peer = reactor.arriving_peer
            self.local_name = reactor.arriving_name
        elif getpeername(link, <sockaddr *>&self.peer, &length) < 0:
            memset(&self.peer, 0, sizeof(self.peer))
        if not self.has_inet_peer():
            self.peer_name = name_of(link, &getpeername)
        self.opened = self.last_activity = reactor.now()
        self.fd = link
        self.reactor = reactor
        try:
            if self.idle_time and not idle_swept:
                self.arm_idle_timer(self.last_activity + self.idle_time)
            reactor.add(self)
            self.watch(EPOLLIN)  # at last: what is not watched needs no undoing
        except BaseException:
            self.stop_timer()
            reactor.remove(self)
            self.fd = -1
            raise
        if reactor.arriving == link:
            reactor.arriving = -1
        self.is_made = True

    def __init__(self, *_, **__):
        # All is done above, so that there is no connection without it; nor is it done twice.
        if self.is_begun:
            raise RuntimeError("a connection is set up once")
        self.is_begun = True

    def __dealloc__(self):
        if self.in_capacity:
            PyMem_RawFree(self.in_data)
        if self.out_capacity:
            PyMem_RawFree(self.out_data)
        PyMem_RawFree(self.marks)
        if self.fd >= 0:
            try:
                warnings.warn(f"unclosed connection, descriptor {self.fd}", ResourceWarning)
            except BaseException:  # a warning that was made an error: nobody is there to catch it
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
                raise complaints.empty_delimiter()
            if limit is None:
                wanted = self.limit_of_reads
            else:
                wanted = _capped(size(limit, "limit", least=1))
            read = new_read(self, DELIMITER)
            read.delimiter = <bytes>until
            read.wanted = wanted
        elif limit is not None:
            raise complaints.limit_without_delimiter()
        elif until is None:
            read = new_read(self, ALL)
        elif isinstance(until, bool) or not isinstance(until, int):
            raise complaints.until_of_wrong_type(until)
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
        if delimiter is not self.sought:
            if self.sought is None or delimiter != self.sought:
                self.searched = 0
            self.sought = delimiter
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
        """How many bytes *read* would return now; or `INCOMPLETE`, or `TOO_LONG`."""
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
            self.forget_incoming()
        if self.paused and self.in_end - self.in_start <= self.limit_of_reads // 2:
            self.resume()
        return taken

    cdef int forget_incoming(self) except -1:
        self.drop_memory()
        self.in_data = NULL
        self.in_start = self.in_end = self.searched = 0
        return 0

    cdef int drop_memory(self) except -1:
        if self.in_capacity:
            PyMem_RawFree(self.in_data)
            self.in_capacity = 0
            self.account()
        self.piece = None
        return 0

    cdef void account(self) noexcept:
        """Tell the budget how much memory this connection holds now.

        What that raises is only printed: here, memory has been freed, and is not forgotten yet.
        """
        cdef size_t held = self.in_capacity + self.out_capacity
        cdef int64_t change = <int64_t>held - <int64_t>self.accounted
        if self.budget is not None and change:
            self.accounted = held
            self.budget.change(change)

    cdef bint reserve(self, size_t room) except -1:
        """Have *room* bytes free behind the unread ones, in memory of our own.

        Without the memory for that the connection fails, and 0 is returned.
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
                self.forget_incoming()
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

    cdef int own(self) except -1:
        """Move what is unread out of the scratch buffer; without memory the connection fails."""
        cdef size_t unread = self.in_end - self.in_start
        cdef uint8_t *data
        if self.in_capacity or self.in_data == NULL:
            return 0
        data = <uint8_t *>PyMem_RawMalloc(unread)
        if data == NULL:
            self.forget_incoming()
            return self.fail(ENOMEM)
        memcpy(data, self.in_data + self.in_start, unread)
        self.in_data = data
        self.in_capacity = unread
        self.in_start = 0
        self.in_end = unread
        self.piece = None
        self.account()
        return 0

    cdef size_t most(self, size_t unread) noexcept:
        """How many bytes to receive at most: no more stay unread than may, or a read wants."""
        cdef Read reader = self.reader
        cdef size_t held = self.limit_of_reads if self.limit_of_reads > LEAST else LEAST
        if self.closing:
            return RECEIVE
        if reader is not None and reader.wanted > held and reader.is_pending():
            held = reader.wanted
        if held >= unread + RECEIVE:
            return RECEIVE
        return held - unread if held > unread else LEAST

    cdef int receive(self) except -1:
        """Receive once; what came is handed out when the group has received.

        Returns 0 if nothing was there.
        """
        cdef Reactor reactor = self.reactor
        cdef size_t unread = self.in_end - self.in_start
        cdef size_t most = RECEIVE
        cdef uint8_t *place
        cdef ssize_t count
        if unread + RECEIVE > self.limit_of_reads:
            most = self.most(unread)
        if unread == 0 and self.bulk and self.reader is not None and self.reader.kind == ALL:
            count = self.receive_piece(most)
        elif unread <= HEADROOM:
            place = reactor.room()
            count = recv(self.fd, place + unread, most, 0)
            if count > 0:
                if unread:
                    memcpy(place, self.in_data + self.in_start, unread)
                self.drop_memory()
                self.in_data = place
                self.in_start = 0
                self.in_end = unread + <size_t>count
                reactor.scratch_used += (self.in_end + 63) & ~<size_t>63
        elif self.reserve(most):
            count = recv(self.fd, self.in_data + self.in_end, most, 0)
            if count > 0:
                self.in_end += <size_t>count
        else:
            return 1  # it failed
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
            self.lose(OSError(errno, os.strerror(errno)))
        return 1

    cdef ssize_t receive_piece(self, size_t most) except -2:
        """Receive into the very bytes object that the reader will be given: no copy."""
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

    cdef int hand_out(self) except -1:
        """Step the reader if what was received completes its read."""
        cdef Read reader = self.reader
        if self.closing:
            return self.forget_incoming()
        try:
            if reader is not None and reader.is_pending():
                if self.match(reader) == INCOMPLETE:
                    return 0
                reader.waiter.wake(self.reactor)
        finally:
            self.own()
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
        """Why such a read cannot be, in the state that this stream is in."""
        if self.closing:
            return complaints.closed(self)
        if self.reader is not None:
            return complaints.concurrent_read(self.remote_addr)
        if self.ended or self.loss is None:
            unread = self.in_data[self.in_start : self.in_end] if self.in_data != NULL else b""
            return complaints.end_of_stream(self, delimiter, wanted, unread)
        told, self.reader_told = self.reader_told, True
        return self.loss_error(told)

    cdef object loss_error(self, bint told):
        return complaints.loss(self, self.loss, told=told)

    # ----------------------------------------------------------- flow control

    cdef int control_flow(self) except -1:
        """Stop receiving if as much as may stay unread is there, and no read waits for more."""
        if self.in_end - self.in_start >= self.limit_of_reads and not (
            self.paused or self.closing or self.ended or self.gone
            or (self.reader is not None and self.reader.is_pending())
        ):
            self.paused = True
            self.watch(self.interest & ~<uint32_t>EPOLLIN)
        return 0

    cdef int resume(self) except -1:
        self.paused = False
        if not (self.ended or self.gone or self.failed):
            self.watch(self.interest | EPOLLIN)
        return 0

    # ---------------------------------------------------------------- writing

    def write(self, data):
        cdef list pieces
        cdef size_t length, batched
        if type(data) is bytes:
            length = <size_t>PyBytes_GET_SIZE(<bytes>data)
        else:
            pieces = complaints.as_pieces(data)
            data = <bytes>pieces[0] if len(pieces) == 1 else b"".join(pieces)
            length = <size_t>PyBytes_GET_SIZE(<bytes>data)
        if not self.writable:
            raise self.writer_error()
        batched = self.batched + length
        if self.full or length > LARGE or batched > HIGH_WATER or (
            batched > self.limit_of_queue
        ):
            return self.write_at_once(<bytes>data)
        if length:
            if not self.put(PyBytes_AS_STRING(<bytes>data), length):
                raise MemoryError
            self.batched = batched
            if not self.in_turn:
                self.in_turn = True
                self.reactor.flush_later(self)
        return HAS_ROOM

    cdef size_t high_water(self) noexcept:
        """Above this many queued bytes writers wait; at a quarter of it they go on.

        Long before they are refused: who awaits each write never is.
        """
        return min(<size_t>HIGH_WATER, self.limit_of_queue // 2)

    cdef bint put(self, const void *data, size_t length) except -1:
        """Put bytes behind those to be sent at the end of the turn; tell if there was memory."""
        cdef Reactor reactor = self.reactor
        if self.out_data == NULL and STAGE - reactor.stage_used >= length:
            self.out_data = reactor.stage + reactor.stage_used
            reactor.on_stage = <PyObject *>self
        elif reactor.on_stage != <PyObject *>self or STAGE - reactor.stage_used < length:
            return self.append(data, length)
        memcpy(self.out_data + self.out_end, data, length)
        self.out_end += length
        reactor.stage_used += length
        return True

    cdef bint append(self, const void *data, size_t length) except -1:
        """Put bytes behind those to be sent, in memory of our own; tell if there was memory."""
        cdef size_t unsent = self.out_end - self.out_start
        cdef size_t capacity
        cdef uint8_t *moved
        if self.reactor.on_stage == <PyObject *>self:
            self.reactor.on_stage = NULL
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
        elif self.reactor.on_stage == <PyObject *>self:
            self.reactor.on_stage = NULL
        self.out_data = NULL
        self.out_start = self.out_end = self.out_capacity = 0
        if owned:
            self.account()
        return 0

    cdef object write_at_once(self, bytes data):
        """Write where the queue is long, or becomes so: no point in waiting for more."""
        cdef size_t length = <size_t>PyBytes_GET_SIZE(data)
        cdef size_t unsent = self.out_end - self.out_start
        cdef size_t batched
        cdef size_t sent = 0
        cdef ssize_t count
        cdef iovec pieces[2]
        cdef msghdr message
        # A queue that is nearly empty takes a write of any length: else a large
        # one could never leave, and who awaits each write could be refused.
        if unsent > self.batched:
            self.flush()
            if unsent + length > self.limit_of_queue and unsent > self.high_water():
                raise complaints.queue_full(self, unsent, length, self.limit_of_queue)
            if not self.append(PyBytes_AS_STRING(data), length):
                raise MemoryError
            self.bytes_out += length
            self.last_activity = self.reactor.now()
        else:
            batched, self.batched = self.batched, 0
            self.bytes_out += batched + length
            self.last_activity = self.reactor.now()
            if self.failed:  # the writer is told of it in the loop's next turn
                self.release_outgoing()
                return new_room(self)
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
            elif not may_try_again(errno):
                self.fail(errno)
                return new_room(self)
            if sent >= batched:
                self.release_outgoing()
                sent -= batched
            else:
                self.out_start += sent
                sent = 0
            if sent < length or self.out_end:
                if not self.append(PyBytes_AS_STRING(data) + sent, length - sent):
                    self.fail(ENOMEM)
                    return new_room(self)
                self.watch(self.interest | EPOLLOUT)
        if self.out_end - self.out_start > self.high_water():
            self.full = True
        return new_room(self) if self.full else self.has_room_for_now()

    cdef object has_room_for_now(self):
        """Return what `write` returns after a large one: others have a turn after some of them."""
        self.in_a_row += LARGE_WRITE
        if self.in_a_row < IN_A_ROW:
            return HAS_ROOM
        self.in_a_row = 0
        return new_room(self)

    cdef int flush(self) except -1:
        """Send what was written since the last time."""
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
        """Send of the queue what the kernel takes; wait for room if that is not all."""
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
        elif not may_try_again(errno):
            self.fail(errno)
            return 0
        if self.out_capacity == 0 and not self.append(NULL, 0):
            return self.fail(ENOMEM)
        if self.out_end - self.out_start > self.high_water():
            self.full = True
        self.watch(self.interest | EPOLLOUT)
        return 0

    cdef int fail(self, int error) except -1:
        """Note that it cannot go on; the connection is lost as soon as no caller is in here."""
        if self.failed or self.gone:
            return 0
        self.failed = True
        self.batched = 0
        self.release_outgoing()
        self.watch(0)
        self.reactor.loop.call_soon(self._lose, OSError(error, os.strerror(error)))
        return 0

    cdef int not_watched(self, int error) except -1:
        return self.fail(error) if self.is_made else Source.not_watched(self, error)

    def _lose(self, error):
        if not self.gone:
            self.lose(error)

    cdef int end_of_turn(self) except -1:
        self.in_turn = False
        if self.batched:
            self.flush()
        return 0

    async def _wait_for_room(self):
        if not self.full:
            await asyncio.sleep(0)  # others have their turn
        while self.full and self.writable:
            waiter = self.reactor.loop.create_future()
            if self.wake_on_room is None:
                self.wake_on_room = []
            self.wake_on_room.append(waiter)
            await waiter
        if self.closing or self.loss is not None:
            raise self.writer_error()

    cdef object writer_error(self):
        if self.closing:
            return complaints.closed(self)
        if self.loss is not None:
            told, self.writer_told = self.writer_told, True
            return self.loss_error(told)
        return complaints.half_closed(self)

    cdef int wake_all(self, list waiters) except -1:
        if waiters is not None:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        return 0

    cdef int wake_writers(self) except -1:
        waiters, self.wake_on_room = self.wake_on_room, None
        return self.wake_all(waiters)

    cdef int has_room(self) except -1:
        """Let waiting writers go on, or closing."""
        self.full = self.call_when_empty = False
        if not self.closing:
            self.wake_writers()
        elif not self.gone:
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
        """Send FIN when the queue is empty."""
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
            if self.gone or self.failed:
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
        if self.gone:
            self.wake_reader()
        else:
            self.bytes_out -= self.out_end - self.out_start
            self.reset_link()

    cdef int enter_closing(self) except -1:
        self.closing = True
        self.writable = False
        self.stop_timer()
        self.forget_incoming()
        self.wake_writers()
        return 0

    cdef int close_sent(self) except -1:
        """Go on with closing: all that was queued is in the kernel's hands."""
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
        if self.gone or self.failed:
            return
        if self.out_start != self.out_end:
            self.ended_by = BY_LINGER
            self.abort()
        else:
            self.close_link()

    cdef int close_link(self) except -1:
        """Close the socket: what was sent is the kernel's, which sends FIN behind it."""
        if not self.failed:
            self.lose(None)
        return 0

    cdef int reset_link(self) except -1:
        """Close the socket with a reset (a zero linger time does that: socket(7))."""
        cdef linger_t now
        now.l_onoff = 1
        now.l_linger = 0
        setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
        return self.lose(None)

    async def wait_closed(self):
        if not self.gone:
            waiter = self.reactor.loop.create_future()
            if self.wake_on_gone is None:
                self.wake_on_gone = []
            self.wake_on_gone.append(waiter)
            await waiter

    cdef int lose(self, object error) except -1:
        """Be gone: closed as asked (None), or for *error*."""
        if self.local_name is None:
            self.local_name = self.ask_local_name()
        self.mark_lost(error)
        self.release_outgoing()
        self.release()
        self.wake_writers()
        waiters, self.wake_on_gone = self.wake_on_gone, None
        self.wake_all(waiters)
        on_gone, self.on_gone = self.on_gone, None
        direct, self.reactor.direct = self.reactor.direct, False  # it is Python code
        try:
            if on_gone is not None:
                on_gone(self)
        finally:
            self.reactor.direct = direct
            self.wake_reader()  # at last: this may step it, and it may raise
        return 0

    cdef object ask_local_name(self):
        return raw_local_name(self.fd) if self.has_inet_peer() else name_of(self.fd, &getsockname)

    cdef bint has_inet_peer(self) noexcept:
        return self.peer.sin6_family == AF_INET or self.peer.sin6_family == AF_INET6

    cdef int mark_lost(self, object error) except -1:
        if self.loss is None and not self.closing:
            self.loss = complaints.lost(error)
        self.gone = True
        self.full = self.writable = False
        self.batched = 0
        return self.stop_timer()

    cdef int disown(self) except -1:
        self.mark_lost(complaints.belongs_to_parent())
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
        if self.closing or self.gone:
            return  # bounded by linger
        self.stop_timer()
        if value is not None:
            self.arm_idle_timer(self.last_activity + self.idle_time)

    cdef int arm_idle_timer(self, double when) except -1:
        cdef double delay = when - self.reactor.now()
        self.timer = self.reactor.loop.call_later(delay, self._check_idle)
        return 0

    def _check_idle(self):
        """Close if nothing moved for `idle_timeout`, else look again when that could be."""
        cdef double due
        self.timer = None
        due = self.idle_until()
        if self.reactor.now() < due - 0.001:
            self.arm_idle_timer(due)
        else:
            self.end(BY_IDLE_TIMEOUT, complaints.idle(self.idle_time))

    cdef double idle_until(self) except -1:
        """When it will have been idle for `idle_timeout`, as far as can be told now."""
        cdef size_t unsent = self.out_end - self.out_start - self.batched
        if unsent != self.unsent_seen:  # the peer took some, or there is more for it
            self.unsent_seen = unsent
            self.last_activity = self.reactor.now()
        return self.last_activity + self.idle_time

    def _end_for(self, str limit not None, error):
        """See `silly._engine.stream.Stream._end_for`."""
        cdef int which = <int>LIMITS.index(limit)
        if which == BY_MEMORY_BUDGET:
            self.forget_incoming()
        if self.gone or self.failed:
            return
        if not self.closing:
            self.end(which, error)
        elif which == BY_MEMORY_BUDGET:  # it lingers
            self.ended_by = <uint8_t>which
            self.abort()

    cdef int end(self, int limit, object error) except -1:
        """End the connection because of *limit*; reset it if the peer has not taken all."""
        self.ended_by = <uint8_t>limit
        self.loss = error
        self.writable = False
        if self.failed:
            return 0
        if limit == BY_MEMORY_BUDGET or self.acknowledged() < self.bytes_out:
            return self.reset_link()
        return self.close_link()

    # ------------------------------------------------------------ looking back

    def _look_back(self, double now, tuple deadlines not None):
        """End the connection if one of *deadlines* has passed: see `silly._engine.stream`."""
        cdef double first_byte, read_deadline, receive_rate, send_rate, send_window
        if self.closing or self.gone or self.failed or self.loss is not None:
            return
        first_byte, read_deadline, receive_rate, send_rate, send_window = deadlines
        if self.look_at_sending(now, send_rate, send_window):
            return
        if self.look_at_reading(now, first_byte, read_deadline, receive_rate):
            return
        if self.marks != NULL and self.marks.acked < 0 and self.marks.partial < 0:
            self.forget_marks()
        if self.idle_swept and self.idle_time and now >= self.idle_until():
            self.end(BY_IDLE_TIMEOUT, complaints.idle(self.idle_time))

    cdef bint look_at_sending(self, double now, double rate, double window) except -1:
        """See to bytes that wait to be taken, here or in the kernel; tell if that ended it."""
        cdef Marks *marks = self.marks
        cdef int64_t acked
        if rate == 0 or self.bytes_out == self.all_acked:
            acked = self.bytes_out
        else:
            acked = self.acknowledged()
        if acked >= self.bytes_out:
            self.all_acked = self.bytes_out
            if marks != NULL:
                marks.acked = -1
            return False
        marks = self.remember()
        if marks.acked >= 0 and acked < marks.owed:  # of what was owed then, some still is
            if now - marks.acked_since < window:
                return False
            if acked - marks.acked < rate * (now - marks.acked_since):
                self.end(BY_MIN_SEND_RATE, complaints.not_taken(rate, window))
                return True
        marks.acked = acked
        marks.owed = self.bytes_out
        marks.acked_since = now
        return False

    cdef bint look_at_reading(
        self, double now, double first_byte, double deadline, double rate
    ) except -1:
        """See to a read that is not complete; tell if that ended it."""
        cdef size_t unread = self.in_end - self.in_start
        cdef int64_t taken = self.bytes_in - <int64_t>unread
        cdef Marks *marks = self.marks
        if self.reader is None or not self.reader.is_pending() or unread == 0:
            if marks != NULL:
                marks.partial = -1
            if self.reader is not None and self.reader.is_pending() and now - self.opened >= (
                first_byte
            ) and self.bytes_in == 0 and self.bytes_out == 0 and self.batched == 0:
                self.end(BY_FIRST_BYTE_TIMEOUT, complaints.no_first_byte(first_byte))
                return True
            return False
        marks = self.remember()
        if marks.partial != taken:
            marks.partial = taken
            marks.partial_since = now
        elif now - marks.partial_since >= deadline + <double>unread / rate:
            self.end(BY_READ_DEADLINE, complaints.unfinished(unread, deadline))
            return True
        return False

    cdef Marks *remember(self) except NULL:
        if self.marks == NULL:
            self.marks = <Marks *>PyMem_RawMalloc(sizeof(Marks))
            if self.marks == NULL:
                raise MemoryError
            self.marks.partial = self.marks.acked = -1
        return self.marks

    cdef int forget_marks(self) except -1:
        if self.marks != NULL:
            PyMem_RawFree(self.marks)
            self.marks = NULL
        return 0

    cdef int64_t acknowledged(self) noexcept:
        """How many of the written bytes the peer has."""
        cdef int in_flight = 0
        ioctl(self.fd, TIOCOUTQ, &in_flight)  # SIOCOUTQ of tcp(7)
        return self.bytes_out - <int64_t>(self.out_end - self.out_start - self.batched) - in_flight

    @property
    def _client(self):
        """The peer's address as a `silly._engine.interface.Gate` takes it."""
        if self.peer.sin6_family == AF_INET:
            return (<char *>&(<sockaddr_in *>&self.peer).sin_addr)[:4]
        if self.peer.sin6_family == AF_INET6:
            return (<char *>&self.peer.sin6_addr)[:16]
        return b""

    @property
    def _ended_by(self):
        return LIMITS[self.ended_by]

    @property
    def _held(self):
        return self.in_capacity + self.out_capacity

    # -------------------------------------------------------------- properties

    @property
    def is_alive(self):
        return not self.closing and self.loss is None

    @property
    def _is_closing(self):
        return bool(self.closing)

    @property
    def _is_gone(self):
        return bool(self.gone)

    @property
    def _is_ended(self):
        return bool(self.ended)

    @property
    def _lost_by(self):
        return self.loss

    @property
    def _waits_for(self):
        cdef Read read = self.reader
        if read is not None and read.is_pending():
            return complaints.waits_for_bytes(read.delimiter, read.wanted)
        if self.wake_on_room:
            return complaints.waits_for_room(self.unsent_bytes)
        return None

    @property
    def unread_bytes(self):
        return self.in_end - self.in_start

    @property
    def unsent_bytes(self):
        return self.out_end - self.out_start

    @property
    def read_limit(self):
        return self.limit_of_reads

    @read_limit.setter
    def read_limit(self, value):
        self.limit_of_reads = _capped(size(value, "read_limit", least=1))
        if self.paused and self.in_end - self.in_start < self.limit_of_reads:
            self.resume()
        else:
            self.control_flow()

    @property
    def max_unsent(self):
        return self.limit_of_queue

    @max_unsent.setter
    def max_unsent(self, value):
        self.limit_of_queue = _capped(size(value, "max_unsent", least=1))

    @property
    def linger(self):
        return self.linger_time

    @linger.setter
    def linger(self, value):
        self.linger_time = seconds(value, "linger")

    @property
    def _local_sockaddr(self):
        if self.fd >= 0 and self.local_name is None:
            return name_of(self.fd, &getsockname)
        if self.local_name is not None and self.has_inet_peer():
            return inet_name(<sockaddr_in6 *>PyBytes_AS_STRING(self.local_name))
        return self.local_name

    @property
    def _remote_sockaddr(self):
        return inet_name(&self.peer) if self.has_inet_peer() else self.peer_name

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
    """One `Stream.read`: a coroutine object, and its own iterator."""

    def __dealloc__(self):
        if self.state == NEW and self.kind != LINE:
            try:
                warnings.warn("coroutine 'Conn.read' was never awaited", RuntimeWarning)
            except BaseException:
                pass

    cdef int step(self, void **out) except -1:
        """Go on; *out* becomes the result (return 0) or what to wait on (return 1)."""
        cdef Stream stream = self.stream
        cdef Py_ssize_t count
        cdef bytes taken
        if self.state == NEW:
            if stream.in_a_row >= IN_A_ROW:  # as `asyncio.sleep(0)` does
                stream.in_a_row = 0
                Py_INCREF(None)
                out[0] = <void *>None
                return 1
            if self.kind == LINE:
                self.wanted = stream.limit_of_reads
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
            stream.in_a_row += 1
        elif self.state == WAITING:
            if self.waiter.is_pending():  # it is another task that goes on here
                raise complaints.awaited_already()
            count = INCOMPLETE
            if not stream.closing:
                count = stream.match(self)
                if count == INCOMPLETE and not stream.ended and stream.loss is None:
                    if self.timed_out:
                        self.finish()
                        raise complaints.read_timed_out(
                            self.delimiter, self.wanted, self.timeout, stream.remote_addr
                        )
                    if stream.paused:
                        stream.resume()
                    self.waiter.wait()  # woken for nothing
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
            raise complaints.limit_exceeded(stream, self.delimiter, self.wanted)
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
        stream.in_a_row = 0
        self.waiter.wait()
        if self.timeout is not None:
            self.timer = stream.reactor.loop.call_later(self.timeout, self._time_out)
        self.state = WAITING
        stream.reader = self
        return 0

    cdef bint is_pending(self) noexcept:
        return self.state == WAITING and self.waiter.state == PENDING

    cdef int finish(self) except -1:
        """Leave the stream to the next reader."""
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

    # ------------------------------------------ what a coroutine object can do

    def __await__(self):
        if self.state == WAITING:
            raise complaints.awaited_already()
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
        self.leave()
        _throw(kind, value, traceback)

    def close(self):
        self.leave()

    cdef int leave(self) except -1:
        """End without a result."""
        if self.state == WAITING:
            self.finish()
            self.stream.control_flow()
            if self.waiter.is_pending():  # it was not the waiting task that ended this: let it know
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
            what = "a line"
        elif self.kind == DELIMITER:
            what = repr(self.delimiter)
        elif self.kind == COUNT:
            what = f"{self.wanted} bytes"
        else:
            what = "a byte"
        return f"read of {what} from {self.stream.remote_addr}"


cdef class Lines(Read):
    """The lines of ``async for``: one object for all of them."""

    def __aiter__(self):
        return self

    def __anext__(self):
        # While one task waits in here, another has its own: which raises `ConcurrentRead`.
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
    """Raise what a coroutine's `throw` was given."""
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
cdef class HasRoom:
    """What `write` returns when there is room: awaiting it does not suspend."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration

    # With these it is a coroutine object, of which a task can be made.

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


cdef HasRoom HAS_ROOM = HasRoom.__new__(HasRoom)


@cython.final
cdef class Room:
    """What `write` returns when the queue is long: awaiting it waits for room."""

    cdef Stream stream
    cdef object waiting  # what a task that is made of this steps

    def __await__(self):
        return self.stream._wait_for_room().__await__()

    def send(self, value):
        if self.waiting is None:
            self.waiting = self.stream._wait_for_room()
        return self.waiting.send(value)

    def throw(self, kind, value=None, traceback=None):
        self.close()
        _throw(kind, value, traceback)

    def close(self):
        if self.waiting is not None:
            self.waiting.close()


cdef Room new_room(Stream stream):
    cdef Room room = Room.__new__(Room)
    room.stream = stream
    return room


cdef PyObject *_next(Read self) except? NULL:
    # Instead of the __next__ above, which the interpreter calls from Python 3.12 on where it
    # called am_send before: Cython would note a traceback with each StopIteration.
    cdef void *out = NULL
    if self.step(&out) == 0:
        stop_iteration(<PyObject *>out)
        return NULL
    return <PyObject *>out


cdef int _set_slots(object kind, void *send, void *next) except -1:
    # Cython has no spelling for the slot am_send of PyAsyncMethods. Of what it returns,
    # 0 is PYGEN_RETURN, 1 PYGEN_NEXT, -1 PYGEN_ERROR (PyIter_Send in the C API).
    cdef PyTypeObject *slots = <PyTypeObject *>kind
    slots.tp_as_async.am_send = send
    if next != NULL:
        slots.tp_iternext = next
    forbid_making(slots)
    return 0


_set_slots(Read, <void *>_send, <void *>_next)
_set_slots(Lines, <void *>_send, <void *>_next)
_set_slots(HasRoom, <void *>_send_none, NULL)
forbid_making(<PyTypeObject *>Room)


# ------------------------------------------------------------- small translations


ctypedef int (*_ask_name)(int fd, sockaddr *name, socklen_t *length) noexcept nogil


cdef object name_of(int fd, _ask_name ask):
    """Return a socket's own or its peer's address, as the `socket` module gives it."""
    cdef sockaddr_storage storage
    cdef sockaddr_un *name = <sockaddr_un *>&storage
    cdef socklen_t length = sizeof(storage)
    if ask(fd, <sockaddr *>name, &length) < 0:
        return None
    if name.sun_family == AF_INET or name.sun_family == AF_INET6:
        return inet_name(<sockaddr_in6 *>name)
    if name.sun_family != AF_UNIX or length <= sizeof(name.sun_family):
        return ""
    path = (<char *>name.sun_path)[: length - sizeof(name.sun_family)]
    return path if path[:1] == b"\0" else os.fsdecode(path.rstrip(b"\0"))


cdef bytes raw_local_name(int fd):
    """Return an IP socket's own address as a sockaddr_in6: few ask for it in words."""
    cdef sockaddr_in6 name
    cdef socklen_t length = sizeof(name)
    if getsockname(fd, <sockaddr *>&name, &length) < 0:
        return None
    return PyBytes_FromStringAndSize(<const char *>&name, sizeof(name))


cdef object inet_name(sockaddr_in6 *name):
    cdef char text[64]
    cdef sockaddr_in *name4 = <sockaddr_in *>name
    if name.sin6_family == AF_INET:
        inet_ntop(AF_INET, &name4.sin_addr, text, sizeof(text))
        return (text.decode("ascii"), ntohs(name4.sin_port))
    inet_ntop(AF_INET6, &name.sin6_addr, text, sizeof(text))
    flow, scope = ntohl(name.sin6_flowinfo), name.sin6_scope_id
    return (text.decode("ascii"), ntohs(name.sin6_port), flow, scope)


cdef inline bint may_try_again(int error) noexcept:
    return error in (EAGAIN, EINTR, ENOBUFS, ENOMEM)


cdef size_t _capped(value) except? 0:
    return min(value, 1 << 62)


cdef bint is_socket(int fd) noexcept:
    cdef int kind = 0
    cdef socklen_t length = sizeof(kind)
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length) == 0
