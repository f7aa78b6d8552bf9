"""A connection with its socket: what receives, what sends, and what holds them together.

The native stream is one object, in layers of which each is the base of the next:
`lifecycle`, `deadlines` and `filter` (shared with the portable engine), `receiving`,
`sending`, and what is here: setting up, the socket, its addresses.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_RawFree
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from silly._engine.native.linux cimport (
    AF_INET,
    AF_INET6,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    FIONREAD,
    SO_LINGER,
    SO_TYPE,
    SOL_SOCKET,
    PyDescr_NewMethod,
    PyMethodDescrObject,
    PyTypeObject,
    getpeername,
    getsockname,
    getsockopt,
    ioctl,
    linger_t,
    setsockopt,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    socklen_t,
)
from silly._engine.native.ends cimport Ends
from silly._engine.native.names cimport inet_sockaddr, raw_local_name, socket_name
from silly._engine.native.reactor cimport Reactor, Source, allow_instances, reactor_of
from silly._engine.native.read cimport Read, new_batches, new_lines, new_read
from silly._engine.native.receiving cimport capped
from silly._engine.native.records cimport Records
from silly._engine.native.sending cimport Sending
from silly._engine.native.waiter cimport new_waiter
from silly._engine.native.wanted cimport ALL, COUNT, DELIMITER, Wanted

import types
import warnings

from silly._engine import stream_errors
from silly._engine.interface import BATCH, LINGER, MAX_UNSENT, READ_LIMIT
from silly._values.arguments import seconds_or_none, size


cdef enum:
    SMALL = 1 << 30  # a count up to this needs no further checks


cdef class Stream(Sending):
    """One connection; the base of the native `Conn`."""

    def __cinit__(
        self,
        int link,
        loop,
        owner,
        read_limit=READ_LIMIT,
        max_unsent=MAX_UNSENT,
        double linger=LINGER,
        idle_timeout=None,
        bint idle_swept=False,
        budget=None,
    ):
        # If this raises, the caller still owns *link*.
        cdef socklen_t length = sizeof(sockaddr_in6)
        cdef Reactor reactor = reactor_of(loop)
        self.max_unread = capped(read_limit)
        self.max_queued = capped(max_unsent)
        self.set_thresholds()
        if link < 0 or (reactor.arriving != link and not is_socket(link)):
            raise ValueError(f"descriptor {link} is not a socket")
        # Asked now: the kernel no longer knows the address once the connection is reset.
        if reactor.arriving == link and reactor.arriving_known:
            self.is_entering = reactor.arriving_last
            self.peer = reactor.arriving_peer
            self.names = reactor.arriving_name
        elif getpeername(link, <sockaddr *>&self.peer, &length) < 0:
            memset(&self.peer, 0, sizeof(self.peer))
        if not self.has_inet_peer():
            self.names = (socket_name(link, &getpeername), None)
        self.fd = link
        self.reactor = reactor
        try:
            self._begin(
                owner, budget, linger, 0 if idle_timeout is None else idle_timeout, idle_swept
            )
            reactor.add(self)
            self.watch(EPOLLIN)  # last, so that it needs no undoing
        except BaseException:
            self._stop_timer()
            reactor.remove(self)
            self.fd = -1
            raise
        if reactor.arriving == link:
            reactor.arriving = -1
        self.constructed = True

    def __init__(self, *_, **__):
        # `__cinit__` does the work, so that no object can exist without it.
        if self.initialized:
            raise RuntimeError("a connection is initialized only once")
        self.initialized = True

    def __dealloc__(self):
        if self.in_capacity and self.piece is None:
            PyMem_RawFree(self.in_data)
        if self.out_capacity and self.out_piece is None:
            PyMem_RawFree(self.out_data)
        if self.fd >= 0:
            try:
                warnings.warn(f"unclosed connection, descriptor {self.fd}", ResourceWarning)
            except BaseException:  # warnings are errors: no caller could catch this one
                pass

    def read(self, until=None, *, timeout=None, limit=None):
        cdef Read read
        cdef size_t wanted
        if timeout is not None:
            timeout = seconds_or_none(timeout, "timeout")
        if type(until) is bytes or isinstance(until, (bytes, bytearray, memoryview)):
            if type(until) is not bytes:
                until = bytes(until)
            if not until:
                raise stream_errors.empty_delimiter()
            if limit is None:
                wanted = self.max_unread
            else:
                wanted = capped(size(limit, "limit", least=1))
            read = new_read(self, DELIMITER)
            read.delimiter = <bytes>until
            read.wanted = wanted
        elif limit is not None:
            raise stream_errors.limit_without_delimiter()
        elif until is None:
            read = new_read(self, ALL)
        elif type(until) is int and 0 <= until <= SMALL:
            read = new_read(self, COUNT)
            read.wanted = until
        elif isinstance(until, bool) or not isinstance(until, int):
            raise stream_errors.wrong_type_of_until(until)
        else:
            wanted = capped(size(until, "until"))
            read = new_read(self, COUNT)
            read.wanted = wanted
        read.timeout = timeout
        return read

    def __aiter__(self):
        return new_lines(self)

    def __anext__(self):
        return self.__aiter__()

    def batches(self, until=b"\n", *, most=BATCH, timeout=None):
        delimiter, frame, timeout = stream_errors.batch_arguments(until, most, timeout)
        return new_batches(self, delimiter, capped(frame), capped(most), timeout)

    cdef int _account(self) except -1:
        """Report the change in the memory that this connection holds to the budget.

        Exceptions are only printed: the callers have freed memory that they still refer to.
        """
        cdef int64_t held = (
            <int64_t>(self.in_capacity + self.out_capacity) + self._held_size() + self._retained
        )
        cdef int64_t change = held - self._accounted
        if self._budget is not None and change:
            self._accounted = held
            tell_budget(self._budget, change)
        return 0

    def _enter(self):
        self.enter()

    cdef int watch_failed(self, int error) except -1:
        return self.fail(error) if self.constructed else Source.watch_failed(self, error)

    cdef double _now(self) except -1:
        return self.reactor.now()

    cdef object _call_later(self, double delay, object callback):
        return self.reactor.loop.call_later(delay, callback)

    cdef object _new_future(self):
        return self.reactor.loop.create_future()

    cdef object _new_waiter(self):
        return new_waiter(self.reactor.loop)

    cdef bint _has_unread_in_kernel(self) noexcept:
        cdef int count = 0
        return ioctl(self.fd, FIONREAD, &count) == 0 and count > 0

    cdef int _close_socket(self) except -1:
        """Close the socket; the kernel sends its data, then FIN."""
        if not self._failed:
            self._tear_down(None)
        return 0

    cdef int _reset_socket(self) except -1:
        """Close the socket with a reset (a zero linger time does that: socket(7))."""
        cdef linger_t now
        now.l_onoff = 1
        now.l_linger = 0
        setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
        self._tear_down(None)
        return 0

    cdef int _release(self) except -1:
        self.know_local_name()
        self.release_outgoing()
        return self.release()

    cdef int _notify_owner(self, object owner) except -1:
        direct, self.reactor.direct = self.reactor.direct, False  # Python code
        try:
            if isinstance(owner, Ends):
                Ends.conn_closed(<Ends>owner, self)
            else:
                owner.conn_closed(self)
        finally:
            self.reactor.direct = direct
        return 0

    cdef int know_local_name(self) except -1:
        if not self.has_inet_peer():
            self.names = (self.names[0], socket_name(self.fd, &getsockname))
        elif self.names is None:
            self.names = raw_local_name(self.fd)
        return 0

    cdef bint has_inet_peer(self) noexcept:
        return self.peer.sin6_family == AF_INET or self.peer.sin6_family == AF_INET6

    cdef object _peer_sockaddr(self):
        return inet_sockaddr(&self.peer) if self.has_inet_peer() else self.names[0]

    cdef object _own_sockaddr(self):
        cdef bint inet = self.has_inet_peer()
        if self.fd >= 0 and (self.names is None or not inet):
            return socket_name(self.fd, &getsockname)
        if not inet:
            return self.names[1]
        if self.names is None:
            return None
        return inet_sockaddr(<sockaddr_in6 *>PyBytes_AS_STRING(self.names))

    cdef bytes _peer_ip(self):
        if self.peer.sin6_family == AF_INET:
            return (<char *>&(<sockaddr_in *>&self.peer).sin_addr)[:4]
        if self.peer.sin6_family == AF_INET6:
            return (<char *>&self.peer.sin6_addr)[:16]
        return b""

    cdef int disown(self) except -1:
        self._mark_closed(stream_errors.owned_by_parent())
        return Source.disown(self)

    cdef int _use_filter(self) except -1:
        self._filter.plaintext = []
        if isinstance(self._filter.filter, Records):
            self._filter.records = <Records>self._filter.filter
        return self.set_thresholds()

    cdef int ready(self, uint32_t events) except -1:
        if self.interest & EPOLLIN and events & (EPOLLIN | EPOLLERR | EPOLLHUP):
            self.receive()
        if self.interest & EPOLLOUT and events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            self.send_queue(0)
            if self._full and self.out_end - self.out_start <= (
                0 if self.call_when_empty else self.high_water() // 4
            ):
                self.call_when_empty = False
                self._has_room()
        return 0

    @property
    def _held_bytes(self):
        return self.in_capacity + self.out_capacity + self._held_size() + self._retained

    @property
    def _waits_for(self):
        cdef Wanted read = self.reader
        if read is not None and read.is_pending():
            return stream_errors.describe_read(read.delimiter, read.wanted)
        if self._waits_for_filter:
            return stream_errors.HANDSHAKE
        if self._room_waiters:
            return stream_errors.describe_write(self.unsent_bytes)
        return None


allow_instances(Stream)


def specialize(kind):
    """See `silly._engine.interface.Engine.specialize`.

    The interpreter calls a method written in C without further checks only if it belongs to
    the very class of the object. So *kind* gets what it inherits as methods of its own.
    """
    for name in ("read", "write", "send"):
        method = getattr(kind, name, None)
        if type(method) is types.MethodDescriptorType:
            own = PyDescr_NewMethod(
                <PyTypeObject *>kind, (<PyMethodDescrObject *>method).d_method
            )
            setattr(kind, method.__name__, own)
    if issubclass(kind, Stream):
        (<PyTypeObject *>kind).tp_as_async.am_aiter = (<PyTypeObject *>Stream).tp_as_async.am_aiter


cdef void tell_budget(object budget, int64_t change) noexcept:
    budget.change(change)


cdef bint is_socket(int fd) noexcept:
    cdef int kind = 0
    cdef socklen_t length = sizeof(kind)
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length) == 0
