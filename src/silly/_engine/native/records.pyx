"""Filters that need no Python objects: from the socket's bytes to the program's, in memory.

A `Records` is a filter (see interface.py) that a native stream can also use without making
a `bytes` object of everything that passes.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport uint8_t
from libc.string cimport memcpy


cdef class Records:
    """The base of such filters; for the rest of their methods see `Filter`."""

    cdef Py_ssize_t open_into(
        self, const uint8_t *wire, size_t size, uint8_t *place, size_t room, Wire *answer
    ) except -1:
        """Do what `open` and then `pending` do, if `is_ready`.

        The plaintext is put at *place*, and its length returned; there must be *room* for as
        many bytes as *wire* has, and for a record. What `pending` would return is added to
        *answer*.
        """
        raise NotImplementedError

    cdef int seal_into(self, const uint8_t *plaintext, size_t size, Wire *sealed) except -1:
        """Do what `seal` does, and add the result to *sealed*."""
        raise NotImplementedError


cdef bint add_to(Wire *wire, const void *data, size_t size) noexcept nogil:
    """Append to *wire*; return whether there was memory."""
    cdef size_t needed = wire.length + size
    cdef uint8_t *moved
    if needed > wire.capacity:
        needed += needed // 2
        moved = <uint8_t *>PyMem_RawRealloc(wire.data, needed)
        if moved == NULL:
            return False
        wire.data = moved
        wire.capacity = needed
    memcpy(wire.data + wire.length, data, size)
    wire.length += size
    return True


cdef void free_wire(Wire *wire) noexcept nogil:
    PyMem_RawFree(wire.data)
    wire.data = NULL
    wire.length = wire.capacity = 0
