"""Sending: from writes to the socket.

Writes are copied to the reactor's send buffer, after those of other connections. They are
sent when the group has been delivered, when the batch has grown large, or at the end of the
reactor's batch or of the loop's turn. Bytes that the kernel does not accept are then moved to
memory of the connection's own. Long pieces are sent from where they are; if the kernel does
not accept all of one that cannot change, the piece itself is kept until it is sent.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_GET_SIZE
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.ref cimport Py_INCREF, PyObject
from cpython.sequence cimport PySequence_Fast_GET_SIZE, PySequence_Fast_ITEMS
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from silly._engine.native.linux cimport (
    set_slots,
    EPOLLOUT,
    IPPROTO_TCP,
    MSG_MORE,
    MSG_NOSIGNAL,
    SHUT_WR,
    TCP_INFO,
    TCP_NOTSENT_LOWAT,
    TIOCOUTQ,
    fetch,
    getsockopt,
    ioctl,
    iovec,
    msghdr,
    send,
    sendmsg,
    setsockopt,
    shutdown,
    silly_join,
    silly_total,
    socklen_t,
)
from silly._engine.native.filter cimport FilterState
from silly._engine.native.lifecycle cimport OPEN
from silly._engine.native.reactor cimport SEND_BUFFER, STREAM, Reactor, Source
from silly._engine.native.read cimport raise_thrown
from silly._engine.native.records cimport Records, Wire, free_wire
from silly._engine.native.receiving cimport LARGE, MAX_READS_IN_A_ROW, Receiving, capped

import functools
import os

from silly._engine import stream_errors
from silly._engine.drain import Draining
from silly._values.arguments import size

cdef enum:
    HIGH_WATER = 65536  # bytes: a larger batch is sent at once; writers wait above it
    KEPT = 262144  # bytes: a longer buffer for what a filter seals is freed after use
    LONE = 1024  # bytes: as much is sent by itself where the send buffer is full
    LARGE_WRITE_COST = 50  # as many reads without waiting does a large write count

cdef Py_ssize_t MAX_JOINED = <Py_ssize_t>1 << 40  # bytes: more are joined where overflows are checked


cdef class Sending(Receiving):
    """The part of a stream that sends."""

    def write(self, data):
        if type(data) is not bytes:
            if (type(data) is list or type(data) is tuple) and self.put_pieces(
                PySequence_Fast_ITEMS(data), PySequence_Fast_GET_SIZE(data)
            ):
                return DRAINED
            if is_long_buffer(data):
                return self.write_buffer(data)
            data = joined(data)
        return self.write_bytes(<bytes>data)

    cdef object write_bytes(self, bytes data):
        """Write *data*: `write` for protocols that are native."""
        cdef size_t length = <size_t>PyBytes_GET_SIZE(data)
        cdef size_t batched
        if self._state != OPEN:
            raise self._writer_error()
        batched = self.batched + length
        if (
            self._full or length > LARGE or batched > self.batch_threshold
            # In a broadcast to many, for example: memory of its own would cost more.
            or (
                length >= LONE and self.out_data == NULL
                and SEND_BUFFER - self.reactor.send_buffer_used < length
            )
        ):
            return self.write_at_once(data, <const uint8_t *>PyBytes_AS_STRING(data), length)
        if length:
            if not self.put(PyBytes_AS_STRING(data), length):
                raise MemoryError
            self.batched = batched
            self.schedule_flush()
        return DRAINED

    cdef bint put_pieces(self, PyObject **pieces, Py_ssize_t count) except -1:
        """Append *pieces* to the batch, if it has room for them in the send buffer.

        Return whether it has: otherwise, nothing is done.
        """
        cdef Reactor reactor = self.reactor
        cdef Py_ssize_t length = silly_total(pieces, count, LARGE)
        if (
            length <= 0 or self._state != OPEN or self._full
            or self.batched + <size_t>length > self.batch_threshold
            or not self.find_place(<size_t>length)
        ):
            return False
        silly_join(<char *>self.out_data + self.out_end, pieces, count)
        self.out_end += <size_t>length
        reactor.send_buffer_used += <size_t>length
        self.batched += <size_t>length
        self.schedule_flush()
        return True

    cdef int schedule_flush(self) except -1:
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self.reactor.flush_later(self)
        return 0

    cdef bint find_place(self, size_t length) noexcept:
        """Find *length* bytes after the batch in the send buffer; return whether there are any."""
        cdef Reactor reactor = self.reactor
        if SEND_BUFFER - reactor.send_buffer_used < length:
            return False
        if self.out_data == NULL:
            self.out_data = reactor.send_buffer + reactor.send_buffer_used
            reactor.send_buffer_tail = <PyObject *>self
        return reactor.send_buffer_tail == <PyObject *>self

    cdef size_t high_water(self) noexcept:
        """Return how many queued bytes make writers wait; they wake at a quarter of it.

        It is well below the limit, so a task that awaits each write is never refused.
        """
        return min(<size_t>HIGH_WATER, self.max_queued // 2)

    cdef bint put(self, const void *data, size_t length) except -1:
        """Append to the batch; return whether there was memory."""
        if not self.find_place(length):
            return self.append(data, length)
        memcpy(self.out_data + self.out_end, data, length)
        self.out_end += length
        self.reactor.send_buffer_used += length
        return True

    cdef bint append(self, const void *data, size_t length) except -1:
        """Append to the queue, in memory of the stream's own; return whether there was memory."""
        cdef size_t unsent = self.out_end - self.out_start
        cdef size_t capacity
        cdef uint8_t *moved
        if self.reactor.send_buffer_tail == <PyObject *>self:
            self.reactor.send_buffer_tail = NULL
        if self.out_capacity < self.out_end + length:
            if (
                self.out_piece is None
                and self.out_start >= unsent and self.out_capacity >= unsent + length
            ):
                memcpy(self.out_data, self.out_data + self.out_start, unsent)
            else:
                capacity = unsent + unsent // 2 + length
                moved = <uint8_t *>PyMem_RawMalloc(capacity)
                if moved == NULL:
                    return False
                if unsent:
                    memcpy(moved, self.out_data + self.out_start, unsent)
                if self.out_capacity and self.out_piece is None:
                    PyMem_RawFree(self.out_data)
                self.out_piece = None
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
        if self.out_piece is not None:
            self.out_piece = None
        elif owned:
            PyMem_RawFree(self.out_data)
        elif self.reactor.send_buffer_tail == <PyObject *>self:
            self.reactor.send_buffer_tail = NULL
        self.out_data = NULL
        self.out_start = self.out_end = self.out_capacity = 0
        if owned:
            self._account()
        return 0

    cdef object write_buffer(self, object data):
        """Write a long bytearray or memoryview, without a copy of what the kernel accepts."""
        cdef Py_buffer view
        cdef bytes owner = None
        if type(data) is memoryview and type(data.obj) is bytes:
            owner = <bytes>data.obj  # it cannot change
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self._state != OPEN:
                raise self._writer_error()
            return self.write_at_once(owner, <const uint8_t *>view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)

    cdef object write_at_once(self, bytes owner, const uint8_t *data, size_t length):
        """Send now, because the queue or the batch is long: there is no point in batching.

        *data* is in *owner*, if that is not None.
        """
        cdef size_t unsent = self.out_end - self.out_start
        if self._filter is not None:
            if owner is None or <size_t>PyBytes_GET_SIZE(owner) != length:
                owner = PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>length)
            return self.write_plaintext(owner)
        # A nearly empty queue takes a write of any length. Otherwise a large write could
        # never be sent, and a task that awaits each write could be refused.
        if unsent > self.batched:
            self._flush()
            if unsent + length > self.max_queued and unsent > self.high_water():
                raise stream_errors.queue_full(self, unsent, length, self.max_queued)
            if not self.append(data, length):
                raise MemoryError
            self._bytes_out += length
            self._last_activity = self.reactor.now()
            if self.out_end - self.out_start > self.high_water():
                self._full = True
        elif not self.send_first(owner, data, length):
            return Draining(self._drain)
        return Draining(self._drain) if self._full else self.drained_or_yield()

    cdef bint send_first(self, bytes owner, const uint8_t *data, size_t length) except -1:
        """Send the batch and *data*, before which nothing else is unsent; queue the rest.

        Return whether the connection works.
        """
        cdef size_t batched = self.batched
        cdef size_t sent = 0
        cdef ssize_t count
        cdef iovec pieces[2]
        cdef msghdr message
        self.batched = 0
        self._bytes_out += batched + length
        self._last_activity = self.reactor.now()
        if self._failed:  # the loop's next turn closes it
            self.release_outgoing()
            return False
        if batched == 0:
            count = send(self.fd, data, length, MSG_NOSIGNAL)
        else:
            pieces[0].iov_base = self.out_data + self.out_start
            pieces[0].iov_len = batched
            pieces[1].iov_base = <void *>data
            pieces[1].iov_len = length
            memset(&message, 0, sizeof(message))
            message.msg_iov = pieces
            message.msg_iovlen = 2
            count = sendmsg(self.fd, &message, MSG_NOSIGNAL)
        if count >= 0:
            sent = <size_t>count
        elif not is_transient(errno):
            self.fail(errno)
            return False
        if sent >= batched:
            if self.out_data != NULL:
                self.release_outgoing()
            sent -= batched
        else:
            self.out_start += sent
            sent = 0
        if sent == length and not self.out_end:
            return True
        if self.out_end == 0 and owner is not None and length - sent > LARGE:
            self.out_piece = owner
            self.out_data = <uint8_t *>data
            self.out_start = sent
            self.out_end = self.out_capacity = length
            self._account()
        elif not self.append(data + sent, length - sent):
            self.fail(ENOMEM)
            return False
        self.watch(self.interest | EPOLLOUT)
        if self.out_end - self.out_start > self.high_water():
            self._full = True
        return True

    cdef bint write_if_empty(self, bytes data, bint at_once, size_t limit) except -1:
        """Write *data* if no more than a batch of *limit* bytes is unsent, and there is no filter.

        Return whether it was written.
        """
        if (
            self._state != OPEN or self._full or self._filter is not None
            or self.out_end - self.out_start != self.batched or self.batched > limit
            or self.batched + <size_t>PyBytes_GET_SIZE(data) > self.max_queued
        ):
            return False
        if at_once:
            self.send_first(
                data, <const uint8_t *>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data)
            )
        else:
            self.write_bytes(data)
        return True

    cdef object drained_or_yield(self):
        """Return what a large write returns: after some of them, other tasks run."""
        self.reads_in_a_row += LARGE_WRITE_COST
        if self.reads_in_a_row < MAX_READS_IN_A_ROW:
            return DRAINED
        self.reads_in_a_row = 0
        return Draining(self._drain)

    cdef int _flush(self) except -1:
        return self.send_batch(0)

    cdef int _flush_ahead(self) except -1:
        return self.send_batch(MSG_MORE)

    @cython.final
    cdef int send_batch(self, int flags) except -1:
        """Send the batch, with the *flags* of send(2)."""
        cdef size_t batched = self.batched
        if batched == 0:
            return 0
        self.batched = 0
        if self._filter is not None:
            return self.flush_plaintext()
        self._bytes_out += batched
        self._last_activity = self.reactor.now()
        if self._failed:
            self.release_outgoing()
        elif self.out_end - self.out_start == batched:
            self.send_queue(flags)
        elif self.out_end - self.out_start > self.high_water():
            self._full = True
        return 0

    cdef int send_queue(self, int flags) except -1:
        """Send as much of the queue as the kernel accepts; watch for room if some is left."""
        cdef size_t unsent = self.out_end - self.out_start
        cdef ssize_t count = send(
            self.fd, self.out_data + self.out_start, unsent, flags | MSG_NOSIGNAL
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
        if self._failed or self._is_closed:
            return 0  # pragma: no cover - it is known already
        self._failed = True
        self.batched = 0
        self.release_outgoing()
        self.watch(0)
        self.reactor.loop.call_soon(self._tear_down_later, OSError(error, os.strerror(error)))
        return 0

    def _tear_down_later(self, error):
        self._tear_down(error)

    cdef int end_of_turn(self) except -1:
        self.flush_scheduled = False
        if self.batched:
            self._flush()
        return 0

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
        if self._filter is not None:
            self._filter.plaintext.clear()
        else:
            self.out_end -= self.batched
        self.batched = 0
        return 0

    cdef int _call_when_empty(self) except -1:
        self.call_when_empty = True
        return 0

    cdef int _direct_descriptor(self) noexcept:
        return self.fd

    cdef int64_t _peer_window(self) noexcept:
        cdef uint32_t info[58]  # struct tcp_info of linux/tcp.h up to tcpi_snd_wnd (Linux 5.4)
        cdef socklen_t size = sizeof(info)
        if getsockopt(self.fd, IPPROTO_TCP, TCP_INFO, info, &size) or size < sizeof(info):
            return 0  # pragma: no cover - before Linux 5.4
        return info[57]

    cdef int _allow_unsent(self, int size) noexcept:
        return setsockopt(self.fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &size, sizeof(size))

    cdef int _call_when_writable(self) except -1:
        self._full = True
        self.watch(self.interest | EPOLLOUT)
        return 0

    cdef int _send_fin(self) except -1:
        """Send FIN once the queue is empty."""
        if self.out_start != self.out_end:
            self.finishing = True
        elif self.fd >= 0 and not self._failed:
            self.finishing = False
            shutdown(self.fd, SHUT_WR)
        return 0

    cdef int _send_wire(self, bytes data) except -1:
        return self.send_now(
            <const uint8_t *>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data)
        )

    cdef int _send_early(self, bytes wire) except -1:
        if not self.reactor.in_batch or self._filter.early is not None:
            return Receiving._send_early(self, wire)  # pragma: no cover - in a handler's own loop
        self._bytes_out += PyBytes_GET_SIZE(wire)
        self._filter.early = wire  # `deliver` wakes whoever writes, and then sends it
        return 0

    cdef int send_early(self) except -1:
        if self.batched:
            self._flush()
        if self._filter.early is not None:
            self.send_now(NULL, 0)
        return 0

    cdef int send_now(self, const uint8_t *data, size_t length) except -1:
        """Send *data* after the queue."""
        cdef size_t sent = 0
        cdef ssize_t count
        cdef bytes early = self._filter.early
        if self._failed or self.fd < 0:
            return 0
        if early is not None:
            self._filter.early = None
            if length:
                early += data[:length]
            data = <const uint8_t *>PyBytes_AS_STRING(early)
            length = <size_t>PyBytes_GET_SIZE(early)
        if self.out_start == self.out_end:
            count = send(self.fd, data, length, MSG_NOSIGNAL)
            if count >= 0:
                sent = <size_t>count
            elif not is_transient(errno):
                return self.fail(errno)
        if sent < length:
            if not self.append(data + sent, length - sent):
                return self.fail(ENOMEM)
            self.watch(self.interest | EPOLLOUT)
            if self.out_end - self.out_start > self.high_water():
                self._full = True
        return 0

    cdef object write_plaintext(self, bytes data):
        """Put *data* into the batch, which is sealed as a whole."""
        cdef size_t length = <size_t>PyBytes_GET_SIZE(data)
        cdef size_t queued = self.out_end - self.out_start + <size_t>self._held_size()
        if self.batched + length > HIGH_WATER or queued + self.batched + length > self.max_queued:
            self._flush()
            queued = self.out_end - self.out_start + <size_t>self._held_size()
            if queued + length > self.max_queued and queued > self.high_water():
                raise stream_errors.queue_full(self, queued, length, self.max_queued)
        if length:
            self._filter.plaintext.append(data)
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
        cdef FilterState state = self._filter
        cdef list pieces = state.plaintext
        cdef Records records = state.records
        cdef bytes plaintext = <bytes>pieces[0] if PyList_GET_SIZE(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._last_activity = self.reactor.now()
        if self._failed:
            return 0
        if records is None or not records.is_ready:
            return self._send_from_filter(self._seal(plaintext))
        state.plain_out += PyBytes_GET_SIZE(plaintext)
        try:
            records.seal_into(
                <const uint8_t *>PyBytes_AS_STRING(plaintext),
                <size_t>PyBytes_GET_SIZE(plaintext),
                &self.reactor.sealed,
            )
        except OSError as error:  # fails later, after all callers
            self.reactor.sealed.length = 0
            self._call_later(0.0, functools.partial(self._fail_by_filter, error))
            return 0
        return self.send_sealed()

    cdef int send_sealed(self) except -1:
        cdef Wire sealed = self.reactor.sealed
        # It is taken away meanwhile: code that is called may send, too.
        self.reactor.sealed.data = NULL
        self.reactor.sealed.length = self.reactor.sealed.capacity = 0
        self._bytes_out += <int64_t>sealed.length
        try:
            self.send_now(sealed.data, sealed.length)
        finally:
            if self.reactor.sealed.data == NULL and sealed.capacity <= KEPT:
                sealed.length = 0
                self.reactor.sealed = sealed
            else:
                free_wire(&sealed)
        return 0

    @property
    def max_unsent(self):
        return self.max_queued

    @max_unsent.setter
    def max_unsent(self, value):
        self.max_queued = capped(size(value, "max_unsent", least=1))

    cdef int set_thresholds(self) noexcept:
        Receiving.set_thresholds(self)
        self.batch_threshold = (
            0 if self._filter is not None
            else <uint32_t>min(<size_t>HIGH_WATER, self.max_queued)
        )
        return 0


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
        raise_thrown(kind, value, traceback)

    def close(self):
        pass


cdef int _send_none(object self, object value, void **out) except -1:
    Py_INCREF(None)
    out[0] = <void *>None
    return 0


cdef Drained DRAINED = Drained.__new__(Drained)
drained = DRAINED  # for other modules

set_slots(Drained, <void *>_send_none, NULL)


def write_each(list streams not None, bytes data not None, size_t limit):
    """See `silly._engine.interface.Engine.write_each`."""
    cdef list left = []
    cdef object stream
    cdef Py_ssize_t index, length = PyBytes_GET_SIZE(data)
    # To batch more than there is room for would take memory of each stream's own.
    cdef bint at_once = length >= LONE and length * PyList_GET_SIZE(streams) > SEND_BUFFER
    for index in range(PyList_GET_SIZE(streams)):
        stream = streams[index]
        if index + 1 < PyList_GET_SIZE(streams):
            fetch(PyList_GET_ITEM(streams, index + 1), STREAM)
        if not (
            isinstance(stream, Sending) and (<Sending>stream).write_if_empty(data, at_once, limit)
        ):
            left.append(index)
    return left


cdef inline bint is_long_buffer(object data) except -1:
    """Return whether *data* is a contiguous buffer of bytes that is not worth a copy."""
    if type(data) is bytearray:
        return PyByteArray_GET_SIZE(data) > LARGE
    return type(data) is memoryview and data.nbytes > LARGE and data.c_contiguous


cdef bytes joined(data):
    """Return the bytes of `write`'s argument, which is not a `bytes` object."""
    cdef Py_ssize_t count, length
    cdef PyObject **pieces
    cdef bytes whole
    if type(data) is list or type(data) is tuple:
        count = PySequence_Fast_GET_SIZE(data)
        pieces = PySequence_Fast_ITEMS(data)
        length = silly_total(pieces, count, MAX_JOINED)
        if length >= 0:
            if count == 1:
                return <bytes>pieces[0]
            whole = PyBytes_FromStringAndSize(NULL, length)
            silly_join(PyBytes_AS_STRING(whole), pieces, count)
            return whole
    return b"".join(stream_errors.as_pieces(data))


cdef inline bint is_transient(int error) noexcept:
    return error in (EAGAIN, EINTR, ENOBUFS, ENOMEM)
