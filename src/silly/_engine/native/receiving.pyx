"""Receiving: from the socket to the reads.

All connections receive into the reactor's scratch buffer. When the group has received, a
reader whose read is complete is stepped, and takes its results directly from there; bytes
left unread after that step are moved to memory of the connection's own. So a connection
owns receive memory only while it holds unread bytes. A few unread bytes are moved in front
of the next receive, which joins a line that arrived in pieces without copying all of it.
A read of many bytes receives into the bytes object that it returns.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.ref cimport Py_DECREF, PyObject
from libc.errno cimport EAGAIN, EINTR, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from silly._engine.native.linux cimport (
    EPOLLIN,
    _PyBytes_Resize,
    fetch,
    memchr,
    memmem,
    new_bytes,
    recv,
    set_errno,
    silly_refill,
)
from silly._engine.native.filter cimport Filtered
from silly._engine.native.lifecycle cimport CLOSING, FAILED, LOST
from silly._engine.native.records cimport Records
from silly._engine.native.reactor cimport HEADROOM, ITEMS, RECEIVE, Reactor
from silly._engine.native.wanted cimport ALL, COUNT, DELIMITER, Wanted

import os

from silly._engine import stream_errors
from silly._values.arguments import size

cdef enum:
    LONGEST_RECEIVE = 4 * RECEIVE  # bytes per receive of a long read, at most
    MIN_RECEIVE = 4096  # bytes: a smaller read limit does not reduce receives below this
    RECORD = 16384 + 512  # bytes: a filter's record is not longer (RFC 8446, section 5.2)
    TRAMPOLINE = 128  # bytes of one, about
    WANTED = 96  # bytes of one, about
    SHORT = 512  # bytes: longer results are not used again
    GROWTH = 4  # the result of a long read grows to at most this much of what has arrived


cdef class Receiving(Filtered):
    """The part of a stream that receives."""

    cdef Py_ssize_t find(self, bytes delimiter, size_t limit) except -2:
        """See `silly._engine.portable.receive_buffer.ReceiveBuffer.find`."""
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
            found = find_bytes(data + self.searched, stop - self.searched, wanted, length)
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

    cdef Py_ssize_t match(self, Wanted read) except -2:
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
        cdef Reactor reactor = self.reactor
        cdef const char *data = <const char *>self.in_data + self.in_start
        cdef PyObject *before
        cdef bytes taken
        if self.piece is not None and count == <size_t>PyBytes_GET_SIZE(self.piece):
            taken = self.piece
        elif count > SHORT:
            taken = PyBytes_FromStringAndSize(data, <Py_ssize_t>count)
        else:
            reactor.last_item = (reactor.last_item + 1) % ITEMS
            before = <PyObject *>PyList_GET_ITEM(reactor.items, reactor.last_item)
            if silly_refill(before, data, <Py_ssize_t>count):
                taken = <bytes>before
            else:
                taken = PyBytes_FromStringAndSize(data, <Py_ssize_t>count)
                reactor.items[reactor.last_item] = taken
        remove(self, count)
        return taken

    cdef size_t take_more(self, Wanted read, list taken, size_t most) except? 0:
        """Put into *taken* what more reads like *read* would return now, after the first item.

        It has at most *most* items then. What it had after the first is not needed any more: if
        nobody refers to those items, they are used again. Return how many bytes were taken.

        It is a loop of `match` and `take`, unrolled.
        """
        cdef const uint8_t *data = self.in_data
        cdef const uint8_t *found
        cdef const char *delimiter = NULL
        cdef size_t at = self.in_start
        cdef size_t count = read.wanted
        cdef size_t length = count  # the least that an item has
        cdef size_t held, number = 1
        cdef size_t old = <size_t>PyList_GET_SIZE(taken)
        if read.kind >= DELIMITER:
            delimiter = PyBytes_AS_STRING(read.delimiter)
            length = <size_t>PyBytes_GET_SIZE(read.delimiter)
        while number < most:
            held = self.in_end - at
            if held < length:
                break
            if delimiter != NULL:
                found = find_bytes(data + at, min(held, read.wanted), delimiter, length)
                if found == NULL:
                    break
                count = <size_t>(found - data) - at + length
            if number >= old:
                taken.append(PyBytes_FromStringAndSize(<const char *>data + at, <Py_ssize_t>count))
            elif not silly_refill(
                <PyObject *>PyList_GET_ITEM(taken, <Py_ssize_t>number), data + at, <Py_ssize_t>count
            ):
                taken[number] = PyBytes_FromStringAndSize(
                    <const char *>data + at, <Py_ssize_t>count
                )
            number += 1
            at += count
        if number < old:
            del taken[number:]
        count = at - self.in_start
        if count:
            remove(self, count)
        # Other tasks get their turn as often as in single reads.
        if number < <size_t>(MAX_READS_IN_A_ROW - self.reads_in_a_row):
            self.reads_in_a_row += <uint16_t>number
        else:
            self.reads_in_a_row = MAX_READS_IN_A_ROW
        return count

    cdef int _discard_unread(self) except -1:
        self.free_incoming()
        self.in_data = NULL
        self.in_start = self.in_end = self.searched = 0
        return 0

    cdef int free_incoming(self) except -1:
        if self.in_capacity:
            if self.piece is None:
                PyMem_RawFree(self.in_data)
            self.in_capacity = 0
            self._account()
        self.piece = None
        return 0

    cdef bint is_long_read(self, size_t unread) noexcept:
        """Return whether a read waits for a number of bytes that is worth a buffer of its own."""
        cdef Wanted reader = self.reader
        return (
            reader is not None and reader.kind == COUNT and reader.wanted > LONG_READ
            and reader.wanted > unread and reader.is_pending()
        )

    cdef bint reserve_result(self) except -1:
        """Make room for more bytes in the object that the waiting long read will return.

        It is allocated as its bytes arrive, in a few steps: *wanted* may be the peer's choice.
        Return whether there was memory; if not, the connection fails.
        """
        cdef size_t unread = self.in_end - self.in_start
        cdef size_t capacity = min(self.reader.wanted, GROWTH * (unread + RECEIVE))
        cdef bytes result
        if (
            self.piece is not None and self.in_start == 0
            and self.in_end < self.in_capacity <= self.reader.wanted
        ):
            return True
        try:
            result = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>capacity)
        except MemoryError:
            self._discard_unread()
            self.fail(ENOMEM)
            return False
        if unread:
            memcpy(PyBytes_AS_STRING(result), self.in_data + self.in_start, unread)
        self.free_incoming()
        self.piece = result
        self.in_data = <uint8_t *>PyBytes_AS_STRING(result)
        self.in_start = 0
        self.in_end = unread
        self.in_capacity = capacity
        self._account()
        return True

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
            if self.in_capacity and self.piece is None:
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
        cdef Wanted reader = self.reader
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
        cdef int error
        if unread >= self.receive_threshold:
            if self._filter is not None:
                return self.receive_ciphertext(unread)
            most = self.receive_limit(unread)
        if unread == 0 and self.bulk and self.reader is not None and self.reader.kind == ALL:
            count = self.receive_piece(most)
        elif unread <= HEADROOM and not (self.bulk and self.is_long_read(unread)):
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
        else:
            if self.is_long_read(unread):
                if not self.reserve_result():
                    return 1  # no memory: the connection failed
                most = min(self.in_capacity - self.in_end, <size_t>LONGEST_RECEIVE)
            elif not self.reserve(most):
                return 1
            count = recv(self.fd, self.in_data + self.in_end, most, 0)
            if count > 0:
                self.in_end += <size_t>count
            elif unread == 0:
                error = errno
                self._discard_unread()  # there is nothing in the room that was made
                set_errno(error)
        if count > 0:
            self.bulk = count > LARGE
            self._bytes_in += count
            self._last_activity = reactor.now()
            reactor.received.append(self)
            reactor.received_bytes += <size_t>count
            fetch(<const void *>self.reader, WANTED)
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

    cdef int receive_ciphertext(self, size_t unread) except -1:
        """Receive once, and open what was received."""
        cdef Reactor reactor = self.reactor
        cdef Records records = self._filter.records
        cdef uint8_t *wire = reactor.wire_space()
        # What is opened may be longer, by a record of which a part had arrived before.
        cdef size_t most = min(self.receive_limit(unread), <size_t>(RECEIVE - RECORD))
        cdef ssize_t count = recv(self.fd, wire, most, 0)
        if count > 0:
            self._bytes_in += count
            self._last_activity = reactor.now()
            if records is not None and records.is_ready and not self._ended and self._state < FAILED:
                self.open_records(records, <size_t>count)
            else:
                self._receive_wire(wire[:count])
        elif count == 0:
            self.receive_end()
        elif errno == EAGAIN or errno == EINTR:
            return 0
        else:
            self._tear_down(OSError(errno, os.strerror(errno)))
        return 1

    cdef int open_records(self, Records records, size_t size) except -1:
        """Do what `_receive_wire` does, without Python objects."""
        cdef Reactor reactor = self.reactor
        cdef size_t unread = self.in_end - self.in_start
        cdef size_t answer
        cdef uint8_t *place
        cdef Py_ssize_t count
        if unread <= HEADROOM:
            place = reactor.scratch_space() + unread
        elif self.reserve(size + RECORD):
            place = self.in_data + self.in_end
        else:
            return 0  # no memory: the connection failed
        try:
            count = records.open_into(reactor.wire, size, place, size + RECORD, &reactor.sealed)
        except BaseException:  # a defect of the filter
            self._fail_by_filter(stream_errors.filter_failed())
            raise
        if count > 0:
            self._filter.plain_in += count
            if unread <= HEADROOM:
                place -= unread
                if unread:
                    memcpy(place, self.in_data + self.in_start, unread)
                self.free_incoming()
                self.in_data = place
                self.in_start = 0
                self.in_end = unread
                reactor.scratch_used += (unread + <size_t>count + 63) & ~<size_t>63
            self.in_end += <size_t>count
            reactor.received.append(self)
            reactor.received_bytes += <size_t>count
        answer = reactor.sealed.length
        if answer:
            self.send_sealed()
            self._count_answer(<int64_t>answer)
        if records.is_ended or records.error is not None:
            self._heed_filter()
        return 0

    cdef int send_early(self) except -1:
        """Send what the filter has held back for what was written meanwhile, and that."""
        raise NotImplementedError

    cdef int send_sealed(self) except -1:
        """Send, and forget, what the filter has put in the reactor's buffer."""
        raise NotImplementedError

    cdef int try_receive(self) except -1:
        return self.receive() if self.interest & EPOLLIN else 0

    cdef void fetch_reader(self) noexcept:
        if self.reader is not None:
            fetch(<const void *>self.reader.waiter, TRAMPOLINE)

    cdef void fetch_handler(self) noexcept:
        if self.reader is not None and self.reader.waiter is not None:
            self.reader.waiter.fetch_coroutine()

    cdef int deliver(self) except -1:
        """Step the reader if what was received completes its read."""
        cdef Reactor reactor = self.reactor
        cdef Py_ssize_t count
        cdef Wanted reader = self.reader
        if self._filter is not None and self._filter.waiter is not None:
            Filtered._wake_handshake(self)
            if self._filter.early is not None:
                self.send_early()
            reader = self.reader
        if self._state >= CLOSING:
            return self._discard_unread()
        try:
            if reader is not None and reader.is_pending():
                count = self.match(reader)
                if count == INCOMPLETE:
                    return 0
                reactor.matching = <PyObject *>reader
                reactor.matched = count
                reader.waiter.wake(reactor)
            elif self._consumer is not None:
                self.tell_consumer()
        finally:
            reactor.matching = NULL
            self.save_unread()
            self.control_flow()
        return 0

    cdef int receive_end(self) except -1:
        if not self.fin_received:
            self.fin_received = True
            try:
                self._handle_fin()
            finally:  # afterwards: most connections have been closed by then
                self.watch(self.interest & ~<uint32_t>EPOLLIN)
        else:  # in a loop that a handler runs meanwhile
            self.watch(self.interest & ~<uint32_t>EPOLLIN)
        return 0

    cdef int _wake_reader(self) except -1:
        cdef Wanted reader = self.reader
        if reader is not None and reader.is_pending():
            reader.waiter.wake(self.reactor)
        elif self._consumer is not None:
            self.tell_consumer()
        return 0

    cdef int tell_consumer(self) except -1:
        direct, self.reactor.direct = self.reactor.direct, False  # Python code
        try:
            self._consumer._consume()
        finally:
            self.reactor.direct = direct
        return 0

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
        if not (self._ended or self._is_closed or self._failed):
            self.watch(self.interest | EPOLLIN)
        return 0

    cdef int _wake_handshake(self) except -1:
        if not self.reactor.in_batch:
            return Filtered._wake_handshake(self)
        self.reactor.received.append(self)  # `deliver` does it
        return 0

    cdef int64_t _unread(self) noexcept:
        return <int64_t>(self.in_end - self.in_start)

    cdef object _peek(self):
        return self.in_data[self.in_start : self.in_end] if self.in_data != NULL else b""

    cdef bint _has_reader(self) noexcept:
        return self.reader is not None

    cdef bint _is_read_pending(self) noexcept:
        return self.reader is not None and self.reader.is_pending()

    cdef object _take_unread(self):
        unread = self._peek()
        self._discard_unread()
        return unread

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

    @property
    def read_limit(self):
        return self.max_unread

    @read_limit.setter
    def read_limit(self, value):
        self.max_unread = capped(size(value, "read_limit", least=1))
        if self._paused and self.in_end - self.in_start < self.max_unread:
            self._resume()
        else:
            self.control_flow()

    cdef int set_thresholds(self) noexcept:
        """Set what is compared whenever bytes are received or written."""
        if self._filter is not None:
            self.receive_threshold = 0
        else:
            self.receive_threshold = (
                <uint32_t>min(self.max_unread - RECEIVE + 1, <size_t>0xFFFFFFFF)
                if self.max_unread >= RECEIVE else 0
            )
        return 0

    cdef int fail(self, int error) except -1:
        """Mark the connection as failed; close it in the loop's next turn, after all callers."""
        raise NotImplementedError


cdef inline int remove(Receiving stream, size_t count) except -1:
    """Remove the first *count* unread bytes."""
    stream.in_start += count
    stream.searched = stream.searched - count if stream.searched > count else 0
    if stream.in_start == stream.in_end:
        stream._discard_unread()
    if stream._paused and stream.in_end - stream.in_start <= stream.max_unread // 2:
        stream._resume()
    return 0


cdef inline const uint8_t *find_bytes(
    const uint8_t *data, size_t size, const char *wanted, size_t length
) noexcept:
    if length == 1:
        return <const uint8_t *>memchr(data, <unsigned char>wanted[0], size)
    return <const uint8_t *>memmem(data, size, wanted, length)


cdef size_t capped(value) except? 0:
    """Return *value*, a size in bytes of any magnitude, as one that fits."""
    return min(value, 1 << 62)
