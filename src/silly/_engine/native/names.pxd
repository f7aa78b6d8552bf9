from silly._engine.native.linux cimport sockaddr, sockaddr_in6, socklen_t

ctypedef int (*name_query)(int fd, sockaddr *name, socklen_t *length) noexcept nogil

cdef object socket_name(int fd, name_query ask)
cdef bytes raw_local_name(int fd)
cdef object inet_sockaddr(sockaddr_in6 *name)
