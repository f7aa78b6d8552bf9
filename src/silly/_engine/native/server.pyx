"""Accepts connections: one listening socket in a reactor.

`silly._engine.interface.Server` documents what happens when accepting fails.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport errno
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
    setsockopt,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    socklen_t,
    tcp_info,
)
from silly._engine.native.admission cimport Admission
from silly._engine.native.accepting cimport ACCEPT_BATCH, Accepting
from silly._engine.native.reactor cimport Reactor, Source, allow_instances, reactor_of
from silly._engine.native.names cimport raw_local_name
from silly._engine.native.waiter cimport call_directly

cdef class Server(Accepting):
    """Passes the descriptors of connections that *gate* lets in to *accept*, until closed."""

    cdef object accept
    cdef bytes name  # `raw_local_name` of accepted connections, if it is the same for all; or None
    cdef bint begun  # `_reserve` is set: the garbage collector takes what else would tell
    cdef bint constructed

    def __cinit__(self, loop, int fd, accept, double busy_poll, gate, bint are_entering):
        # If this raises, the caller still owns *fd*.
        cdef Reactor reactor = reactor_of(loop)
        cdef int listens = 0
        cdef socklen_t length = sizeof(listens)
        self._begin(gate)
        self.begun = True
        if getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) < 0 or not listens:
            raise ValueError(f"descriptor {fd} is not a listening socket")
        self.accept = accept
        self.name = accepted_local_name(fd)
        self._hold_reserve()
        self.fd = fd
        self.is_entering = are_entering
        try:
            reactor.add(self)
            self.watch(EPOLLIN)
        except BaseException:
            reactor.remove(self)
            self.fd = -1
            raise
        self.constructed = True
        reactor.busy_poll = max(reactor.busy_poll, busy_poll)

    def __dealloc__(self):
        if self.begun and self._reserve >= 0:
            close(self._reserve)

    cdef int ready(self, uint32_t events) except -1:
        # If they cost more than accepting them does, one by one: the entrance is served in turn.
        cdef int most = 1 if self.is_entering else ACCEPT_BATCH
        cdef int accepted = self._accept_some(most)
        if self.fd < 0 or self._timer is not None:
            return 0
        if accepted < ACCEPT_BATCH:
            return self.watch(EPOLLIN)
        # More wait: not before the loop, too, has had its turn.
        self.watch(0)
        self._timer = self.reactor.loop.call_soon(self._accept_more)
        return 0

    def _accept_more(self):
        self._timer = None
        self.ready(EPOLLIN)

    # -------------------------------------------------------------- see accepting.py

    cdef int _accept_one(self) except -1:
        cdef sockaddr_in6 peer
        cdef socklen_t length = sizeof(peer)
        cdef int fd = accept4(
            self.fd, <sockaddr *>&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC
        )
        if fd < 0:
            return errno
        self.admit(fd, &peer)
        return 0

    cdef int _turn_away_one(self) except -1:
        cdef sockaddr_in6 peer
        cdef socklen_t length = sizeof(peer)
        cdef int fd = accept4(
            self.fd, <sockaddr *>&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC
        )
        if fd < 0:
            return errno
        reset(fd)
        self._turned_away = packed_ip(&peer)
        return 0

    cdef bint _is_listening(self) noexcept:
        return self.fd >= 0

    cdef int _watch_backlog(self, bint on) except -1:
        return self.watch(EPOLLIN if on else 0)

    cdef object _resume_later(self, double delay):
        return self.reactor.loop.call_later(delay, self._resume_accepting)

    cdef int watch_failed(self, int error) except -1:
        if not self.constructed:
            return Source.watch_failed(self, error)
        return self._back_off(error)

    cdef int admit(self, int fd, const sockaddr_in6 *peer) except -1:
        """Pass the new connection *fd* to *accept*, if the gate lets it in."""
        cdef Reactor reactor = self.reactor
        cdef bytes client = None
        cdef bint entered = False
        cdef bint direct = reactor.direct
        cdef int before = reactor.arriving
        cdef object step, context
        # The callbacks are Python code, which may run tasks or a loop.
        reactor.direct = False
        reactor.starts_directly = direct
        reactor.arriving = fd
        reactor.arriving_known = True
        reactor.arriving_last = self.is_entering
        reactor.arriving_peer = peer[0]
        reactor.arriving_name = self.name
        try:
            try:
                client = packed_ip(peer)
                entered = Admission.enter(self._gate, client)
                if entered:
                    self.accept(fd)
            finally:
                if reactor.arriving == fd:  # no stream took it
                    reset(fd)
                    if entered:
                        self._gate.leave(client)
                reactor.arriving = before
                reactor.arriving_known = False
                reactor.starts_directly = False
                reactor.direct = direct
                step, reactor.first_step = reactor.first_step, None
                context, reactor.first_context = reactor.first_context, None
                if step is not None and not call_directly(reactor, step, NULL, context):
                    reactor.loop.call_soon(step, context=context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            reactor.loop.call_exception_handler(
                {"message": "a connection could not be set up", "exception": error}
            )
        return 0

    cdef int disown(self) except -1:
        self._drop_reserve()
        return Source.disown(self)

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
        self._stop()
        self.release()


allow_instances(Server)


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
