"""The addresses of a socket, in the form that the `socket` module uses."""

from cpython.bytes cimport PyBytes_FromStringAndSize

from silly._engine.native.linux cimport (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    getsockname,
    inet_ntop,
    ntohl,
    ntohs,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    sockaddr_storage,
    sockaddr_un,
    socklen_t,
)

import os


cdef object socket_name(int fd, name_query ask):
    """Return a socket's local or peer address, in the form that the `socket` module uses."""
    cdef sockaddr_storage storage
    cdef sockaddr_un *name = <sockaddr_un *>&storage
    cdef socklen_t length = sizeof(storage)
    if ask(fd, <sockaddr *>name, &length) < 0:
        return None
    if name.sun_family == AF_INET or name.sun_family == AF_INET6:
        return inet_sockaddr(<sockaddr_in6 *>name)
    if name.sun_family != AF_UNIX or length <= sizeof(name.sun_family):
        return ""
    path = (<char *>name.sun_path)[: length - sizeof(name.sun_family)]
    return path if path[:1] == b"\0" else os.fsdecode(path.rstrip(b"\0"))


cdef bytes raw_local_name(int fd):
    """Return an IP socket's local address as the bytes of a sockaddr_in6; None if unknown."""
    cdef sockaddr_in6 name
    cdef socklen_t length = sizeof(name)
    if getsockname(fd, <sockaddr *>&name, &length) < 0:
        return None
    return PyBytes_FromStringAndSize(<const char *>&name, sizeof(name))


cdef object inet_sockaddr(sockaddr_in6 *name):
    cdef char text[64]
    cdef sockaddr_in *name4 = <sockaddr_in *>name
    if name.sin6_family == AF_INET:
        inet_ntop(AF_INET, &name4.sin_addr, text, sizeof(text))
        return (text.decode("ascii"), ntohs(name4.sin_port))
    inet_ntop(AF_INET6, &name.sin6_addr, text, sizeof(text))
    flow, scope = ntohl(name.sin6_flowinfo), name.sin6_scope_id
    return (text.decode("ascii"), ntohs(name.sin6_port), flow, scope)
