from libc.stdint cimport uint8_t

from silly._engine.native.linux cimport sockaddr_in6
from silly._engine.native.sending cimport Sending


cdef class Stream(Sending):
    cdef object __weakref__
    cdef uint8_t constructed, initialized
    cdef sockaddr_in6 peer
    cdef object peer_name  # if `peer` is not an IP address
    cdef object local_name  # None: not known yet; for an IP socket, a sockaddr_in6 in bytes

    cdef object query_local_name(self)
    cdef bint has_inet_peer(self) noexcept
