"""The types with which ``../hello.py`` is compiled for the native engine."""

cimport cython

cdef Py_ssize_t MAX_HELLO
cdef int _HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME
cdef Py_ssize_t _RANDOM_END


cdef class Hello:
    cdef readonly object received
    cdef readonly object name
    cdef Py_ssize_t _at
    cdef bytes _message

    @cython.locals(is_complete=bint, at=Py_ssize_t, begin=Py_ssize_t, end=Py_ssize_t,
                   length=Py_ssize_t, name=bytes)
    cpdef bint feed(self, bytes piece) except -1


@cython.locals(size=Py_ssize_t)
cdef bint _is_complete(bytes message) except -1

@cython.locals(end=Py_ssize_t, at=Py_ssize_t, width=int, kind=Py_ssize_t, length=Py_ssize_t)
cpdef bytes server_name(bytes hello)

cdef Py_ssize_t _number(bytes data, Py_ssize_t at) noexcept
