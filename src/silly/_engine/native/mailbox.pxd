"""The types with which ``../mailbox.py`` is compiled for this engine."""

cimport cython
from libc.stdint cimport int64_t, uint8_t

from silly._engine.native.reactor cimport Source

cdef int BATCH, IN_A_ROW, _COMPACT


cdef class Mailbox(Source):
    cdef object _loop, _owner
    cdef uint8_t _open
    cdef int64_t _max_datagram, _max_payload, _max_queued, _max_unread, _max_unsent
    cdef uint8_t _strict
    cdef list _mail
    cdef Py_ssize_t _head
    cdef int64_t _unread_bytes
    cdef list _out
    cdef Py_ssize_t _out_head
    cdef int64_t _unsent_bytes
    cdef int64_t _in_a_row
    cdef list _changes
    cdef object _pending_error
    cdef int64_t _received, _bytes_in, _sent, _bytes_out, _dropped_in, _dropped_out, _truncated
    cdef int64_t _kernel_counter, _kernel_drops
    cdef dict _send_errors, _receive_errors

    cdef int _begin(self, object loop, object owner, tuple limits) except -1
    cdef int _flush(self) except -1
    cdef int _receive_last(self) except -1
    cdef int _release(self) except -1
    cdef int _wake_reader(self) except -1
    cdef int64_t _read_kernel_counter(self) except -2

    @cython.locals(unread=Py_ssize_t)
    cdef int _put(self, bytes data, object peer) except -1
    cdef bint _has_mail(self) noexcept
    @cython.locals(mail=list, item=tuple, data=bytes, length=Py_ssize_t)
    cdef tuple _take(self)
    cdef int _note_receive_error(self, int number) except -1
    cdef object _take_error(self)
    @cython.locals(unsent=Py_ssize_t)
    cdef bint _accepts(self, Py_ssize_t length, bint strict) except -1
    cdef bint _is_crowded(self) noexcept
    cdef int _drop_sent(self, Py_ssize_t count) except -1
    cdef int _note_send_error(self, int number) except -1
    cdef object _room(self)
    cdef object _change(self)
    cdef int _report_change(self) except -1
    cdef int _end(self) except -1
    @cython.locals(counter=int64_t, last=int64_t)
    cdef int _count_kernel_drops(self) except -1
