"""The types with which ``../preface.py`` is compiled for the native engine."""

cimport cython

from silly.net.tls.native.hello cimport Hello
from silly.net.tls.native.turns cimport Turns


cdef class Handshakes:
    cdef readonly object loop, server
    cdef readonly dict counts
    cdef readonly Turns turns


cdef class Handshake:
    cdef Handshakes _all
    cdef object _conn, _ended, _context
    cdef Hello _hello
    cdef bytes _client
    cdef object _turn
    cdef readonly bint is_over

    @cython.locals(all_=Handshakes)
    cpdef _consume(self)
    @cython.locals(hello=Hello)
    cpdef _begin(self, _)
    @cython.locals(all_=Handshakes)
    cpdef _go_on(self, _=*)
    cdef _fail(self, error)
    cpdef drop(self)
