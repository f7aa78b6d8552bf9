from libc.stdint cimport uint8_t

from silly._engine.native.linux cimport sockaddr_in6
from silly._engine.native.sending cimport Sending


cdef class Stream(Sending):
    cdef object __weakref__
    cdef uint8_t constructed, initialized
    cdef sockaddr_in6 peer
    # of an IP socket, the local name: a sockaddr_in6 in bytes, or None: not known yet; of
    # another, the names of both ends, of which the local one is known when it is closed
    cdef object names

    cdef int know_local_name(self) except -1
    cdef bint has_inet_peer(self) noexcept
