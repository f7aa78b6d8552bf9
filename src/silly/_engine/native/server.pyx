"""The accepting side: one listening socket in a reactor.

What it does when accepting fails is said in `silly._engine.interface.Server`.
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

from silly._engine.interface import OF_ONE_CONNECTION

cdef enum:
    AT_ONCE = 32  # connections accepted before others have their turn
    SOMAXCONN = 4096  # as many as a backlog may hold (listen(2))

cdef double BACK_OFF = 1.0  # seconds, when the system is out of descriptors or memory


cdef class Server(Source):
    """Hands the descriptors of connections that *gate* lets in to *accept*, until closed."""

    cdef object accept
    cdef object gate
    cdef object timer
    cdef bytes name  # as `raw_local_name`, if those that it accepts have the same; or None
    cdef int reserve  # a descriptor to give up when there are no others; -1: none

    def __cinit__(self, loop, int fd, accept, double busy_poll, gate):
        # If this raises, *fd* is the caller's.
        cdef Reactor reactor = reactor_of(loop)
        cdef int listens = 0
        cdef socklen_t length = sizeof(listens)
        self.reserve = -1
        if getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) < 0 or not listens:
            raise ValueError(f"descriptor {fd} is no socket that listens")
        self.name = name_of_accepted(fd)
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
        cdef int accepted = self.accept_some(AT_ONCE)
        if self.fd < 0 or self.timer is not None:
            return 0
        if accepted < AT_ONCE:
            return self.watch(EPOLLIN)
        # More wait: not before the loop, too, has had its turn.
        self.watch(0)
        self.timer = self.reactor.loop.call_soon(self._accept_more)
        return 0

    def _accept_more(self):
        self.timer = None
        self.ready(EPOLLIN)

    cdef int accept_some(self, int most) except -1:
        """Accept up to *most* connections; return how many were taken out of the backlog."""
        cdef int fd, error, count = 0
        cdef int failed = 0  # in a row
        cdef sockaddr_in6 peer
        cdef socklen_t length
        while count < most and self.fd >= 0:
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
            elif error in OF_ONE_CONNECTION and failed + 1 < AT_ONCE:
                count += 1
                failed += 1
            else:
                self.back_off(error)
                break
        return count

    cdef int admit(self, int fd, const sockaddr_in6 *peer) except -1:
        """Give the new connection *fd* to *accept*, if the gate lets it in."""
        cdef Reactor reactor = self.reactor
        cdef bytes client = None
        cdef bint entered = False
        cdef bint direct = reactor.direct
        cdef int before = reactor.arriving
        # What is called now is Python code, which may run tasks, or a loop.
        reactor.direct = False
        reactor.arriving = fd
        reactor.arriving_known = True
        reactor.arriving_peer = peer[0]
        reactor.arriving_name = self.name
        try:
            try:
                client = packed(peer)
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
        """Turn one connection away with the descriptor in reserve; tell whether to go on."""
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
        elif fd < 0 and again != EAGAIN and again not in OF_ONE_CONNECTION:
            self.back_off(again)
        if fd >= 0:
            self.gate.shed(packed(&peer))
        return self.timer is None and (fd >= 0 or again != EAGAIN)

    cdef int not_watched(self, int error) except -1:
        if self.gate is None:  # being made
            return Source.not_watched(self, error)
        return self.back_off(error)

    cdef int hold_reserve(self) except -1:
        if self.reserve < 0:
            self.reserve = open_file("/dev/null", O_RDONLY | O_CLOEXEC)
        return 0

    cdef int back_off(self, int error) except -1:
        if self.timer is None:
            self.timer = self.reactor.loop.call_later(BACK_OFF, self._go_on)
            self.watch(0)
            self.gate.stalled(error, BACK_OFF)
        return 0

    def _go_on(self):
        self.timer = None
        self.hold_reserve()
        self.watch(EPOLLIN)

    cdef int disown(self) except -1:
        if self.reserve >= 0:
            close(self.reserve)
            self.reserve = -1
        return Source.disown(self)

    def accept_queued(self):
        """Accept what is in the backlog now, as many as it holds at most."""
        self.accept_some(SOMAXCONN)

    def backlog(self):
        """Return how many connections wait to be accepted, and how many may; None: unknown."""
        cdef tcp_info info
        cdef socklen_t length = sizeof(info)
        if self.fd < 0 or getsockopt(self.fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0:
            return None
        # Of a listening socket these two tell of its queue (inet_diag, ss(8)).
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
    """Give the connected socket *sock*, whose descriptor is no longer its own, to *accept*."""
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


cdef bytes name_of_accepted(int fd):
    """Return the own name of what *fd* accepts, if it listens on one address, and for it alone."""
    cdef int transparent = 0  # a proxy's: each connection has the address that its peer wanted
    cdef socklen_t length = sizeof(transparent)
    cdef bytes name = raw_local_name(fd)
    cdef bytes address = None if name is None else packed(<sockaddr_in6 *>PyBytes_AS_STRING(name))
    if not address or not address.strip(b"\0"):
        return None
    if len(address) == 4:
        getsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &transparent, &length)
    else:
        getsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &transparent, &length)
    return None if transparent else name


cdef bytes packed(const sockaddr_in6 *peer):
    """Return an address as a `Gate` takes it."""
    if peer.sin6_family == AF_INET:
        return PyBytes_FromStringAndSize(<const char *>&(<const sockaddr_in *>peer).sin_addr, 4)
    if peer.sin6_family == AF_INET6:
        return PyBytes_FromStringAndSize(<const char *>&peer.sin6_addr, 16)
    return b""
