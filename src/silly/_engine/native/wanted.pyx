"""What a read wants: all that the receiving part of a stream knows of it."""

cimport cython

@cython.freelist(64)
cdef class Wanted:
    """The base of `Read`, with all its fields: one freelist serves reads of every kind."""

    cdef bint is_pending(self) noexcept:
        return self.state == WAITING and self.waiter.is_pending()
