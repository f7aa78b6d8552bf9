"""Accepts connections: one listening socket in a reactor.

`silly._engine.interface.Server` documents what happens when accepting fails.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EMFILE, ENFILE, errno
from libc.stdint cimport uint32_t

from silly._engine.native.linux cimport (
    AF_INET,
    AF_INET6,
    EPOLLIN,
    IP_TRANSPARENT,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    IPV6_TRANSPARENT,
    O_CLOEXEC,
    O_RDONLY,
    SO_ACCEPTCONN,
    SO_LINGER,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOL_SOCKET,
    TCP_INFO,
    accept4,
    close,
    getsockopt,
    linger_t,
    open_file,
    setsockopt,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    socklen_t,
    tcp_info,
)
from silly._engine.native.reactor cimport Reactor, Source, reactor_of
from silly._engine.native.stream cimport raw_local_name

from silly._engine.interface import PER_CONNECTION_ERRORS

cdef enum:
    ACCEPT_BATCH = 32  # connections accepted before other callbacks run
    SOMAXCONN = 4096  # the longest backlog (listen(2))

cdef double BACK_OFF = 1.0  # seconds


cdef class Server(Source):
    """Passes the descriptors of connections that *gate* lets in to *accept*, until closed."""

    cdef object accept
    cdef object gate
    cdef object timer
    cdef bytes name  # `raw_local_name` of accepted connections, if it is the same for all; or None
    cdef int reserve  # a descriptor to free when there are no others; -1: none

    def __cinit__(self, loop, int fd, accept, double busy_poll, gate):
        # If this raises, the caller still owns *fd*.
        cdef Reactor reactor = reactor_of(loop)
        cdef int listens = 0
        cdef socklen_t length = sizeof(listens)
        self.reserve = -1
        if getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) < 0 or not listens:
            raise ValueError(f"descriptor {fd} is not a listening socket")
        self.name = accepted_local_name(fd)
        self.hold_reserve()
        self.fd = fd
        try:
            reactor.add(self)
            self.watch(EPOLLIN)
        except BaseException:
            reactor.remove(self)
            self.fd = -1
            raise
        self.accept = accept
        self.gate = gate
        reactor.busy_poll = max(reactor.busy_poll, busy_poll)

    def __dealloc__(self):
        if self.reserve >= 0:
            close(self.reserve)

    cdef int ready(self, uint32_t events) except -1:
        cdef int accepted = self.accept_some(ACCEPT_BATCH)
        if self.fd < 0 or self.timer is not None:
            return 0
        if accepted < ACCEPT_BATCH:
            return self.watch(EPOLLIN)
        # More are waiting: accept them after the loop's other callbacks.
        self.watch(0)
        self.timer = self.reactor.loop.call_soon(self._accept_more)
        return 0

    def _accept_more(self):
        self.timer = None
        self.ready(EPOLLIN)

    cdef int accept_some(self, int limit) except -1:
        """Accept up to *limit* connections; return how many were taken out of the backlog."""
        cdef int fd, error, count = 0
        cdef int failed = 0  # consecutive failures
        cdef sockaddr_in6 peer
        cdef socklen_t length
        while count < limit and self.fd >= 0:
            length = sizeof(peer)
            fd = accept4(
                self.fd, <sockaddr *>&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC
            )
            error = errno
            if fd >= 0:
                count += 1
                failed = 0
                self.admit(fd, &peer)
            elif error == EAGAIN:
                break
            elif error in (EMFILE, ENFILE) and self.reserve >= 0:
                if not self.shed(error):
                    break
                count += 1
            elif error in PER_CONNECTION_ERRORS and failed + 1 < ACCEPT_BATCH:
                count += 1
                failed += 1
            else:
                self.back_off(error)
                break
        return count

    cdef int admit(self, int fd, const sockaddr_in6 *peer) except -1:
        """Pass the new connection *fd* to *accept*, if the gate lets it in."""
        cdef Reactor reactor = self.reactor
        cdef bytes client = None
        cdef bint entered = False
        cdef bint direct = reactor.direct
        cdef int before = reactor.arriving
        # The callbacks are Python code, which may run tasks or a loop.
        reactor.direct = False
        reactor.arriving = fd
        reactor.arriving_known = True
        reactor.arriving_peer = peer[0]
        reactor.arriving_name = self.name
        try:
            try:
                client = packed_ip(peer)
                entered = self.gate.enter(client)
                if entered:
                    self.accept(fd)
            finally:
                if reactor.arriving == fd:  # no stream took it
                    reset(fd)
                    if entered:
                        self.gate.leave(client)
                reactor.arriving = before
                reactor.arriving_known = False
                reactor.direct = direct
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            reactor.loop.call_exception_handler(
                {"message": "a connection could not be set up", "exception": error}
            )
        return 0

    cdef bint shed(self, int error) except -1:
        """Refuse one connection, using the reserve descriptor; return whether to go on."""
        cdef int fd, again
        cdef sockaddr_in6 peer
        cdef socklen_t length = sizeof(peer)
        close(self.reserve)
        self.reserve = -1
        fd = accept4(self.fd, <sockaddr *>&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
        again = errno
        if fd >= 0:
            reset(fd)
        self.hold_reserve()
        if self.reserve < 0:
            self.back_off(error)
        elif fd < 0 and again != EAGAIN and again not in PER_CONNECTION_ERRORS:
            self.back_off(again)
        if fd >= 0:
            self.gate.shed(packed_ip(&peer))
        return self.timer is None and (fd >= 0 or again != EAGAIN)

    cdef int watch_failed(self, int error) except -1:
        if self.gate is None:  # in the constructor
            return Source.watch_failed(self, error)
        return self.back_off(error)

    cdef int hold_reserve(self) except -1:
        if self.reserve < 0:
            self.reserve = open_file("/dev/null", O_RDONLY | O_CLOEXEC)
        return 0

    cdef int back_off(self, int error) except -1:
        if self.timer is None:
            self.timer = self.reactor.loop.call_later(BACK_OFF, self._resume_accepting)
            self.watch(0)
            self.gate.stalled(error, BACK_OFF)
        return 0

    def _resume_accepting(self):
        self.timer = None
        self.hold_reserve()
        self.watch(EPOLLIN)

    cdef int disown(self) except -1:
        if self.reserve >= 0:
            close(self.reserve)
            self.reserve = -1
        return Source.disown(self)

    def accept_queued(self):
        """Accept the connections that are in the backlog now."""
        self.accept_some(SOMAXCONN)

    def backlog(self):
        """Return how many connections wait to be accepted, and how many may; None if unknown."""
        cdef tcp_info info
        cdef socklen_t length = sizeof(info)
        if self.fd < 0 or getsockopt(self.fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0:
            return None
        # For a listening socket, these describe its queue (ss(8)).
        return info.tcpi_unacked, info.tcpi_sacked

    def close(self):
        """Stop accepting and close the listening socket."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.reserve >= 0:
            close(self.reserve)
            self.reserve = -1
        self.release()


def adopt(loop, sock, accept):
    """Detach the descriptor of *sock*, which is connected, and pass it to *accept*."""
    cdef Reactor reactor = reactor_of(loop)
    cdef int before = reactor.arriving
    cdef int fd = sock.detach()
    reactor.arriving = fd
    reactor.arriving_known = False
    try:
        accept(fd)
    finally:
        if reactor.arriving == fd:  # no stream took it
            close(fd)
        reactor.arriving = before


cdef int reset(int fd) except -1:
    """Close a socket with a reset (a zero linger time does that: socket(7))."""
    cdef linger_t now
    now.l_onoff = 1
    now.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
    close(fd)
    return 0


cdef bytes accepted_local_name(int fd):
    """Return the local name of connections that *fd* accepts; None if it may differ."""
    cdef int transparent = 0  # a proxy: the local address is what the peer connected to
    cdef socklen_t length = sizeof(transparent)
    cdef bytes name = raw_local_name(fd)
    cdef bytes address = None
    if name is not None:
        address = packed_ip(<sockaddr_in6 *>PyBytes_AS_STRING(name))
    if not address or not address.strip(b"\0"):
        return None
    if len(address) == 4:
        getsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &transparent, &length)
    else:
        getsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &transparent, &length)
    return None if transparent else name


cdef bytes packed_ip(const sockaddr_in6 *peer):
    """Return the IP address of *peer* as packed bytes; empty if it has none."""
    if peer.sin6_family == AF_INET:
        return PyBytes_FromStringAndSize(<const char *>&(<const sockaddr_in *>peer).sin_addr, 4)
    if peer.sin6_family == AF_INET6:
        return PyBytes_FromStringAndSize(<const char *>&peer.sin6_addr, 16)
    return b""
