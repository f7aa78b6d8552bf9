from cpython.ref cimport PyObject

from silly._engine.native.waiter cimport ForeignFuture


cdef class Listed(ForeignFuture):
    cdef object task  # or None: it has none yet, or has done with it
    # Its neighbours among all that are linked, which do not refer to it; NULL: it is not.
    cdef PyObject *older
    cdef PyObject *newer

    cdef int link(self) except -1
    cdef int unlink(self) except -1


cdef int expect(Listed trampoline) noexcept
