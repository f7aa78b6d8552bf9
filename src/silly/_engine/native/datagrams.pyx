"""A datagram socket in a reactor: many datagrams with each system call.

Datagrams are received together (recvmmsg(2)) in one buffer for all sockets, and are copied
to `bytes` objects before anything else happens. Then the waiting reader is stepped, and takes
them one after the other without waiting. What is sent is kept until the reactor's turn ends,
and leaves together (sendmmsg(2)), from where it is.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_RawMalloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.errno cimport (
    EAGAIN,
    ECONNREFUSED,
    EHOSTUNREACH,
    EINTR,
    ENETUNREACH,
    ENOBUFS,
    ENOMEM,
    errno,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from silly._engine.native.linux cimport (
    AF_INET,
    AF_INET6,
    EPOLLERR,
    EPOLLIN,
    EPOLLOUT,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    SOL_SOCKET,
    getpeername,
    getsockopt,
    in6_addr_t,
    iovec,
    mmsghdr,
    msghdr,
    ntohs,
    recvmmsg,
    sendmmsg,
    set_slots,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    socklen_t,
    stop_async_iteration,
)
from silly._engine.native.mailbox cimport BATCH, IN_A_ROW, Mailbox
from silly._engine.native.names cimport inet_sockaddr
from silly._engine.native.reactor cimport Reactor, Source, allow_instances, reactor_of
from silly._engine.native.read cimport raise_thrown
from silly._engine.native.waiter cimport Waiter, new_waiter

import socket
import warnings

from silly._engine import stream_errors
from silly._engine.native.sending import drained
from silly._values.addresses import format_sockaddr
from silly._values.arguments import seconds_or_none


cdef extern from *:
    """
    #include <netinet/in.h>

    /* The counters of a socket (sock_diag(7)); the last one counts what SO_RXQ_OVFL reports. */
    #ifndef SO_MEMINFO
    #define SO_MEMINFO 55
    #endif

    #define SILLY_BATCH 64
    #define SILLY_CONTROL \
        (CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(struct in6_pktinfo)))

    /* Reads the address that a datagram was sent to, and the number of the interface that it
       arrived at. An IPv4 address is mapped to IPv6; a socket for both families has both
       messages for it. A multicast address is none to answer from: then *local* is zero;
       IPv4 tells the interface's own address instead. */
    static inline int silly_get_pktinfo(
        struct msghdr *message, struct in6_addr *local, uint32_t *interface
    ) {
        struct cmsghdr *each;
        int found = 0;
        for (each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each)) {
            if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_PKTINFO) {
                struct in_pktinfo info;
                memcpy(&info, CMSG_DATA(each), sizeof(info));
                memset(local, 0, sizeof(*local));
                local->s6_addr[10] = local->s6_addr[11] = 0xff;
                memcpy(&local->s6_addr[12], &info.ipi_spec_dst, 4);
                *interface = info.ipi_ifindex;
                return 1;
            }
            if (each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_PKTINFO) {
                struct in6_pktinfo info;
                memcpy(&info, CMSG_DATA(each), sizeof(info));
                *local = info.ipi6_addr;
                if (IN6_IS_ADDR_MULTICAST(local)) memset(local, 0, sizeof(*local));
                *interface = info.ipi6_ifindex;
                found = 1;
            }
        }
        return found;
    }

    static inline void silly_put_pktinfo(
        struct msghdr *message, struct in6_addr *local, uint32_t interface
    ) {
        struct cmsghdr *header = message->msg_control;
        memset(header, 0, SILLY_CONTROL);
        if (IN6_IS_ADDR_V4MAPPED(local)) {
            struct in_pktinfo info;
            memset(&info, 0, sizeof(info));
            info.ipi_ifindex = interface;
            memcpy(&info.ipi_spec_dst, &local->s6_addr[12], 4);
            header->cmsg_level = IPPROTO_IP;
            header->cmsg_type = IP_PKTINFO;
            header->cmsg_len = CMSG_LEN(sizeof(info));
            memcpy(CMSG_DATA(header), &info, sizeof(info));
            message->msg_controllen = CMSG_SPACE(sizeof(info));
        } else {
            struct in6_pktinfo info;
            info.ipi6_addr = *local;
            info.ipi6_ifindex = interface;
            header->cmsg_level = IPPROTO_IPV6;
            header->cmsg_type = IPV6_PKTINFO;
            header->cmsg_len = CMSG_LEN(sizeof(info));
            memcpy(CMSG_DATA(header), &info, sizeof(info));
            message->msg_controllen = CMSG_SPACE(sizeof(info));
        }
    }

    /* Raises StopIteration(value), stealing the reference; *value* is a tuple, which
       PyErr_SetObject would take for several arguments. */
    static inline void silly_stop_with_tuple(PyObject *value) {
        PyObject *error = PyObject_CallOneArg(PyExc_StopIteration, value);
        Py_DECREF(value);
        if (error != NULL) {
            PyErr_SetObject(PyExc_StopIteration, error);
            Py_DECREF(error);
        }
    }
    """
    enum:
        SO_MEMINFO
        SILLY_BATCH
        SILLY_CONTROL
    bint get_pktinfo "silly_get_pktinfo"(
        msghdr *message, in6_addr_t *local, uint32_t *interface
    ) noexcept
    void put_pktinfo "silly_put_pktinfo"(
        msghdr *message, in6_addr_t *local, uint32_t interface
    ) noexcept
    void stop_with_tuple "silly_stop_with_tuple"(PyObject *value) noexcept

cdef enum:
    LONGEST = 65536  # bytes received of one datagram, at most
    SHORT = 1536  # bytes: datagrams up to this length are received side by side, in few pages
    STRIDE = LONGEST + 192  # of the places for the rest, so that they use different cache lines
    MEMINFO_DROPS = 8  # SK_MEMINFO_DROPS

cdef enum:  # states of a `Receive`
    NEW = 0
    WAITING = 1
    DONE = 2
    ENDED = 2  # the third result of `Receive.step`

cdef struct Batch:  # the arguments of recvmmsg, set up for the sockets that used them last
    mmsghdr messages[SILLY_BATCH]
    iovec places[2 * SILLY_BATCH]
    sockaddr_in6 names[SILLY_BATCH]
    char control[SILLY_BATCH][SILLY_CONTROL]
    size_t room
    socklen_t name_length
    size_t control_length

cdef uint8_t *buffer = NULL  # made when it is first needed; only touched pages take memory
cdef Batch batch


# ---------------------------------------------------------------------------- peers


@cython.freelist(256)
cdef class Peer:
    """Where a datagram came from: hashable, and compared by its address.

    ``str(peer)`` is its text, made when it is asked for. An answer to it leaves from the
    address that the datagram was sent to.
    """

    cdef sockaddr_in6 name  # or a sockaddr_in
    cdef in6_addr_t local  # the address that the datagram was sent to ...
    cdef uint32_t interface  # ... and the interface that it arrived at, if it is known ...
    cdef bint has_local

    def __init__(self, sockaddr):
        memset(&self.name, 0, sizeof(self.name))
        family = AF_INET if len(sockaddr) == 2 else AF_INET6
        packed = socket.inet_pton(family, sockaddr[0].partition("%")[0])
        cdef const char *address = packed
        self.name.sin6_family = <unsigned short>family
        self.name.sin6_port = socket.htons(sockaddr[1])
        if family == AF_INET:
            memcpy(&(<sockaddr_in *>&self.name).sin_addr, address, 4)
        else:
            memcpy(&self.name.sin6_addr, address, 16)
            self.name.sin6_flowinfo = socket.htonl(sockaddr[2])
            self.name.sin6_scope_id = sockaddr[3]

    cdef bint is_mapped(self) noexcept:
        """Return whether this is an IPv4 address, as IPv6 sockets have them (RFC 4291)."""
        return self.name.sin6_family == AF_INET6 and is_mapped(&self.name.sin6_addr)

    cdef int unmapped(self, sockaddr_in6 *name) noexcept:
        """Write the address, as a sockaddr_in if it is mapped."""
        name[0] = self.name
        if self.is_mapped():
            memset(name, 0, sizeof(sockaddr_in))
            name.sin6_family = AF_INET
            name.sin6_port = self.name.sin6_port
            memcpy(&(<sockaddr_in *>name).sin_addr, &self.name.sin6_addr.s6_addr[12], 4)
        return 0

    @property
    def sockaddr(self):
        cdef sockaddr_in6 name
        self.unmapped(&name)
        return inet_sockaddr(&name)

    @property
    def host(self):
        """Its IP address, as text."""
        return self.sockaddr[0]

    @property
    def port(self):
        """Its port."""
        return ntohs(self.name.sin6_port)

    def __hash__(self):
        cdef uint64_t words[3]
        self.key(words)
        return <Py_hash_t>((words[0] ^ (words[1] * 0x9E3779B97F4A7C15UL)) * 31 ^ words[2]
                           ^ (words[1] >> 32))

    def __eq__(self, other):
        cdef uint64_t ours[3]
        cdef uint64_t theirs[3]
        if type(other) is not Peer:
            return NotImplemented
        self.key(ours)
        (<Peer>other).key(theirs)
        return ours[0] == theirs[0] and ours[1] == theirs[1] and ours[2] == theirs[2]

    cdef int key(self, uint64_t *words) noexcept:
        """Write what is compared: the address, the port and the scope."""
        words[2] = self.name.sin6_port
        if self.name.sin6_family == AF_INET:
            words[0] = 0
            words[1] = 0xFFFF0000UL | (<uint64_t>(<sockaddr_in *>&self.name).sin_addr.s_addr << 32)
        else:
            memcpy(words, &self.name.sin6_addr, 16)
            words[2] |= <uint64_t>self.name.sin6_scope_id << 32
        return 0

    def __str__(self):
        return format_sockaddr(self.sockaddr)

    def __repr__(self):
        return f"<Peer {self}>"

    def __reduce__(self):
        return Peer, (self.sockaddr,)


cdef inline bint is_mapped(const in6_addr_t *address) noexcept:
    cdef const uint8_t *byte = <const uint8_t *>address
    cdef int i
    for i in range(10):
        if byte[i] != 0:
            return False
    return byte[10] == 0xFF and byte[11] == 0xFF


# ---------------------------------------------------------------------------- reads


cdef class Receive:
    """What `recv` returns: a coroutine object that takes a datagram without waiting if it can."""

    cdef Datagrams socket
    cdef Waiter waiter
    cdef object timeout
    cdef object timer
    cdef uint8_t timed_out
    cdef uint8_t state
    cdef bint iterates

    def __dealloc__(self):
        if self.state == NEW and not self.iterates:
            try:
                warnings.warn("coroutine 'Socket.recv' was never awaited", RuntimeWarning)
            except BaseException:
                pass

    cdef int step(self, void **out) except -1:
        """Resume; set *out* to the result and return 0, or to what to wait on and return 1.

        At the end of ``async for``, return `ENDED`.
        """
        cdef Datagrams sock = self.socket
        cdef tuple item
        if self.state == NEW:
            if sock._in_a_row >= IN_A_ROW:  # as `asyncio.sleep(0)` does
                sock._in_a_row = 0
                Py_INCREF(None)
                out[0] = <void *>None
                return 1
            if not self.iterates:
                self.state = DONE
            if sock.reader is not None:
                raise sock._concurrent_error()
            if sock._open and not sock._has_mail() and sock._pending_error is None:
                self.suspend()
                Py_INCREF(self.waiter)
                out[0] = <void *>self.waiter
                return 1
        elif self.state == WAITING:
            if self.waiter.is_pending():  # another task awaits it already
                raise stream_errors.already_awaited()
            if sock._open and not sock._has_mail() and sock._pending_error is None:
                if self.timed_out:
                    self.finish()
                    raise sock._timeout_error(self.timeout)
                self.waiter.wait()  # a spurious wake-up
                Py_INCREF(self.waiter)
                out[0] = <void *>self.waiter
                return 1
            self.finish()
        else:
            raise RuntimeError("cannot reuse already awaited recv")
        if sock._has_mail():
            item = sock._take()
            Py_INCREF(item)
            out[0] = <void *>item
            return 0
        if sock._pending_error is not None:
            raise sock._take_error()
        if self.iterates:
            return ENDED
        raise sock._closed_error()

    cdef int suspend(self) except -1:
        cdef Datagrams sock = self.socket
        if sock._out_head < PyList_GET_SIZE(sock._out) and not sock.reactor.in_batch:
            sock._flush()
        if self.waiter is None:
            self.waiter = new_waiter(sock.reactor.loop)
        self.waiter.purpose = self
        sock._in_a_row = 0
        self.waiter.wait()
        if self.timeout is not None:
            self.timer = sock.reactor.loop.call_later(self.timeout, self._time_out)
        self.state = WAITING
        sock.reader = self
        return 0

    cdef int finish(self) except -1:
        """Let the next reader use the socket."""
        self.state = NEW if self.iterates else DONE
        self.socket.reader = None
        self.waiter.purpose = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return 0

    cdef bint is_pending(self) noexcept:
        return self.state == WAITING and self.waiter.is_pending()

    def _time_out(self):
        self.timed_out = True
        if self.is_pending():
            self.waiter.wake(self.socket.reactor)

    # ------------------------------------------------- as a coroutine object

    def __await__(self):
        if self.state == WAITING:
            raise stream_errors.already_awaited()
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.advance(None)

    def send(self, value):
        return self.advance(value)

    cdef object advance(self, object value):
        cdef void *out = NULL
        cdef object result
        if self.state == NEW and value is not None:
            raise TypeError("can't send non-None value to a just-started coroutine")
        cdef int yielded = self.step(&out)
        if yielded == ENDED:
            raise StopAsyncIteration
        result = <object>out
        Py_DECREF(result)
        if yielded:
            return result
        raise StopIteration(result)

    def throw(self, kind, value=None, traceback=None):
        self.abandon()
        raise_thrown(kind, value, traceback)

    def close(self):
        self.abandon()

    cdef int abandon(self) except -1:
        """End the read without a result."""
        if self.state == WAITING:
            self.finish()
            if self.waiter.is_pending():  # something other than the waiting task ended this
                self.waiter.wake(self.socket.reactor)
        elif not self.iterates:
            self.state = DONE
        return 0

    @property
    def __name__(self):
        return "recv"

    @property
    def __qualname__(self):
        return "Socket.recv"

    @property
    def cr_running(self):
        return False

    @property
    def _stream(self):
        return self.socket

    def __repr__(self):
        return f"recv from {self.socket._address}"

    # ------------------------------------------------------------ as an iterator

    def __aiter__(self):
        return self

    def __anext__(self):
        # If a task waits on this one, another task gets one that raises `ConcurrentRead`.
        return self if self.state == NEW else new_receive(self.socket, True)


cdef Receive new_receive(Datagrams sock, bint iterates):
    cdef Receive receive = Receive.__new__(Receive)
    receive.socket = sock
    receive.iterates = iterates
    return receive


cdef int _send(Receive self, object value, void **out) except -1:
    cdef int yielded = self.step(out)
    return stop_async_iteration() if yielded == ENDED else yielded


cdef PyObject *_next(Receive self) except? NULL:
    # See `read._next`.
    cdef void *out = NULL
    cdef int yielded = self.step(&out)
    if yielded == 0:
        stop_with_tuple(<PyObject *>out)
    elif yielded == ENDED:
        stop_async_iteration()
    else:
        return <PyObject *>out
    return NULL


set_slots(Receive, <void *>_send, <void *>_next)


# -------------------------------------------------------------------------- sockets


cdef class Datagrams(Mailbox):
    """A datagram socket."""

    cdef object __weakref__
    cdef Receive reader  # it waits
    cdef Peer connected
    cdef object local
    cdef int family
    cdef bint answers_from
    cdef bint flush_scheduled
    cdef bint blocked  # the operating system's buffer is full

    def __init__(self, sock, loop, owner, *, limits, answers_from=False):
        # If this raises, the caller still owns *sock*.
        cdef sockaddr_in6 name
        cdef socklen_t length = sizeof(name)
        cdef int fd = sock.fileno()
        if self.fd >= 0 or self.reactor is not None:
            raise RuntimeError("a socket is set up once")
        make_buffer()
        self._begin(loop, owner, limits)
        self.family = sock.family
        self.answers_from = answers_from
        if self.family == AF_INET6:
            self._max_payload = 65527
        self.local = sock.getsockname()
        if getpeername(fd, <sockaddr *>&name, &length) == 0:
            self.connected = Peer.__new__(Peer)
            self.connected.name = name
        self.fd = fd
        cdef Reactor reactor = reactor_of(loop)
        try:
            reactor.add(self)
            self.watch(EPOLLIN)
        except BaseException:
            reactor.remove(self)
            self.fd = -1
            raise
        sock.detach()

    # ---------------------------------------------------------------------- receiving

    def recv(self, *, timeout=None):
        cdef Receive receive
        if timeout is not None:
            timeout = seconds_or_none(timeout, "timeout")
        receive = new_receive(self, False)
        receive.timeout = timeout
        return receive

    def __aiter__(self):
        return new_receive(self, True)

    cdef int ready(self, uint32_t events) except -1:
        if events & EPOLLOUT:
            self.blocked = False
            self._flush()
        if events & (EPOLLIN | EPOLLERR) and self.fd >= 0:
            self.receive()
        return 0

    cdef int try_receive(self) except -1:
        return self.receive() if self.fd >= 0 else 0

    cdef int receive(self) except -1:
        """Receive a batch, for delivery when the group has received; return how many there were."""
        cdef int count = self.receive_batch()
        if count != 0:
            self.reactor.weight += count
            self.reactor.received.append(self)
        return count

    cdef int receive_batch(self) except -1:
        """Receive up to `BATCH` datagrams; return how many, 1 after an error, 0 if none was there."""
        cdef msghdr *header
        cdef Peer peer = self.connected
        cdef int count, i
        cdef size_t room
        set_up_batch(
            <size_t>min(self._max_datagram + 1, LONGEST),
            sizeof(sockaddr_in6) if peer is None else 0,
            SILLY_CONTROL if self.answers_from else 0,
        )
        count = recvmmsg(self.fd, batch.messages, SILLY_BATCH, 0, NULL)
        if count < 0:
            if errno == EAGAIN or errno == EINTR:
                return 0
            self._note_receive_error(errno)
            return 1
        room, batch.room = batch.room, 0  # not ready again before the end of the loop
        for i in range(count):
            header = &batch.messages[i].msg_hdr
            if (
                header.msg_flags & MSG_TRUNC
                or batch.messages[i].msg_len > <size_t>self._max_datagram
            ):
                self._truncated += 1
            else:
                if self.connected is None:
                    peer = Peer.__new__(Peer)
                    peer.name = batch.names[i]
                    peer.has_local = self.answers_from and get_pktinfo(
                        header, &peer.local, &peer.interface
                    )
                self._put(received(i), peer)
            header.msg_namelen = batch.name_length
            header.msg_controllen = batch.control_length
            header.msg_flags = 0
        batch.room = room
        return count

    cdef int deliver(self) except -1:
        if self._has_mail() or self._pending_error is not None:
            self._wake_reader()
        return 0

    cdef int _wake_reader(self) except -1:
        if self.reader is not None and self.reader.is_pending():
            self.reader.waiter.wake(self.reactor)
        return 0

    cdef int _receive_last(self) except -1:
        cdef int tries = 0
        while self.fd >= 0 and tries < 1024 and self.receive_batch() > 0:
            tries += 1
        return 0

    # ------------------------------------------------------------------------ sending

    def send(self, data, peer=None, *, strict=None):
        cdef Py_ssize_t length
        cdef Py_ssize_t queued
        if not PyBytes_CheckExact(data):
            data = stream_errors.as_datagram(data)
        length = PyBytes_GET_SIZE(<bytes>data)
        if type(peer) is not Peer or self.connected is not None:
            peer = self.target(peer)
        if peer is not None and (<Peer>peer).name.sin6_family != self.family:
            peer = self.converted(<Peer>peer)
        if not self._accepts(length, self._strict if strict is None else <bint>bool(strict)):
            return self._room()
        self._out.append((data, peer))
        self._unsent_bytes += length
        queued = PyList_GET_SIZE(self._out) - self._out_head
        if self.blocked:
            return self._room() if self._is_crowded() else drained
        if queued >= BATCH or self._is_crowded():
            self._flush()
            self._in_a_row += queued
            if self._in_a_row >= IN_A_ROW or self._is_crowded():
                return self._room()
        elif not self.flush_scheduled:
            self.flush_scheduled = True
            self.reactor.flush_later(self)
        return drained

    cdef object target(self, object peer):
        """Return where to send to: None to the peer that this is connected to."""
        if type(peer) is not Peer:
            peer = self._peer_of(peer)  # of `silly.net.udp.Socket`
        if self.connected is None or peer is None or peer is self.connected:
            return peer if self.connected is None else None
        if peer != self.connected:
            raise ValueError(f"this socket is connected to {self.connected}, not to {peer}")
        return None

    cdef Peer converted(self, Peer peer):
        """Return *peer* as this socket's family has it."""
        cdef Peer other = Peer.__new__(Peer)
        if self.family == AF_INET6:
            memset(&other.name, 0, sizeof(other.name))
            other.name.sin6_family = AF_INET6
            other.name.sin6_port = peer.name.sin6_port
            other.name.sin6_addr.s6_addr[10] = other.name.sin6_addr.s6_addr[11] = 0xFF
            memcpy(
                &other.name.sin6_addr.s6_addr[12], &(<sockaddr_in *>&peer.name).sin_addr, 4
            )
        elif peer.is_mapped():
            peer.unmapped(&other.name)
        else:
            raise ValueError(f"{peer} is an IPv6 address, and this socket has {self._address}")
        return other

    cdef int end_of_turn(self) except -1:
        self.flush_scheduled = False
        if not self.blocked:
            self._flush()
        return 0

    cdef int _flush(self) except -1:
        """Send what the operating system takes now; watch for room if something is left."""
        cdef bint retried = False
        cdef Py_ssize_t left
        cdef int count, wanted, error
        while self.fd >= 0:
            left = PyList_GET_SIZE(self._out) - self._out_head
            if left == 0:
                break
            wanted = <int>min(left, SILLY_BATCH)
            count = self.send_batch(wanted)
            error = errno
            if count > 0:
                retried = False
                self._drop_sent(count)
            elif error == EINTR:
                continue
            elif error == EAGAIN or error == ENOBUFS or error == ENOMEM:
                if self._open:
                    self.blocked = True
                    self.watch(self.interest | EPOLLOUT)
                return 0
            elif is_from_network(error) and self.connected is not None and not retried:
                # It was reported for an earlier datagram; this one was not tried.
                retried = True
                self._note_receive_error(error)
                if self._open and self.reader is not None:
                    self.reactor.loop.call_soon(self._wake_soon)
            else:
                self._note_send_error(error)
        if self.interest & EPOLLOUT:
            self.watch(self.interest & ~<uint32_t>EPOLLOUT)
        return 0

    def _wake_soon(self):
        self._wake_reader()

    cdef int send_batch(self, int wanted) except -2:
        """Send up to *wanted* datagrams; return how many were sent, or -1 and set errno."""
        cdef mmsghdr messages[SILLY_BATCH]
        cdef iovec places[SILLY_BATCH]
        cdef char control[SILLY_BATCH][SILLY_CONTROL]
        cdef msghdr *header
        cdef PyObject *item
        cdef PyObject *data
        cdef Peer peer
        cdef int i, count
        cdef int64_t sent = 0
        for i in range(wanted):
            item = PyList_GET_ITEM(self._out, self._out_head + i)
            data = PyTuple_GET_ITEM(<object>item, 0)
            header = &messages[i].msg_hdr
            places[i].iov_base = PyBytes_AS_STRING(<object>data)
            places[i].iov_len = <size_t>PyBytes_GET_SIZE(<object>data)
            header.msg_iov = &places[i]
            header.msg_iovlen = 1
            header.msg_name = NULL
            header.msg_namelen = 0
            header.msg_control = NULL
            header.msg_controllen = 0
            header.msg_flags = 0
            if self.connected is None:
                peer = <Peer>PyTuple_GET_ITEM(<object>item, 1)
                header.msg_name = &peer.name
                header.msg_namelen = (
                    sizeof(sockaddr_in) if self.family == AF_INET else sizeof(sockaddr_in6)
                )
                if peer.has_local and self.answers_from:
                    header.msg_control = control[i]
                    put_pktinfo(header, &peer.local, peer.interface)
        count = sendmmsg(self.fd, messages, <unsigned int>wanted, MSG_NOSIGNAL)
        if count > 0:
            for i in range(count):
                sent += <int64_t>places[i].iov_len
            self._sent += count
            self._bytes_out += sent
            self._unsent_bytes -= sent
        return count

    # ------------------------------------------------------------------------ the end

    cdef int _release(self) except -1:
        return Source.release(self)

    cdef int disown(self) except -1:
        self._open = False
        self._mail.clear()
        self._out.clear()
        self._head = self._out_head = 0
        self._unread_bytes = self._unsent_bytes = 0
        return Source.disown(self)

    cdef int64_t _read_kernel_counter(self) except -2:
        cdef uint32_t counters[16]
        cdef socklen_t length = sizeof(counters)
        if self.fd < 0 or getsockopt(self.fd, SOL_SOCKET, SO_MEMINFO, counters, &length) < 0:
            return -1
        return counters[MEMINFO_DROPS] if length > MEMINFO_DROPS * sizeof(uint32_t) else -1

    @property
    def peer(self):
        return self.connected

    @property
    def _local_sockaddr(self):
        return self.local

    @property
    def _waits_for(self):
        return "a datagram" if self.reader is not None and self.reader.is_pending() else None


cdef int make_buffer() except -1:
    global buffer
    if buffer == NULL:
        buffer = <uint8_t *>PyMem_RawMalloc(<size_t>SILLY_BATCH * (SHORT + STRIDE))
        if buffer == NULL:
            raise MemoryError
    return 0


cdef bytes received(int number):
    """Return the datagram that is in a place of the batch."""
    cdef size_t length = batch.messages[number].msg_len
    cdef const char *begin = <const char *>batch.places[2 * number].iov_base
    cdef bytes whole
    if length <= SHORT:
        return PyBytes_FromStringAndSize(begin, <Py_ssize_t>length)
    whole = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
    memcpy(PyBytes_AS_STRING(whole), begin, SHORT)
    memcpy(
        PyBytes_AS_STRING(whole) + SHORT,
        batch.places[2 * number + 1].iov_base,
        length - SHORT,
    )
    return whole


cdef int set_up_batch(size_t room, socklen_t name_length, size_t control_length) noexcept:
    """Make `batch` ready to receive, if it is not: after each use, it is as before."""
    cdef msghdr *header
    cdef int i
    if (
        room == batch.room
        and name_length == batch.name_length
        and control_length == batch.control_length
    ):
        return 0
    batch.room = room
    batch.name_length = name_length
    batch.control_length = control_length
    for i in range(SILLY_BATCH):
        header = &batch.messages[i].msg_hdr
        batch.places[2 * i].iov_base = buffer + <size_t>i * SHORT
        batch.places[2 * i].iov_len = min(room, <size_t>SHORT)
        batch.places[2 * i + 1].iov_base = buffer + SILLY_BATCH * SHORT + <size_t>i * STRIDE
        batch.places[2 * i + 1].iov_len = room - min(room, <size_t>SHORT)
        header.msg_iov = &batch.places[2 * i]
        header.msg_iovlen = 2
        header.msg_name = &batch.names[i] if name_length else NULL
        header.msg_namelen = name_length
        header.msg_control = batch.control[i] if control_length else NULL
        header.msg_controllen = control_length
        header.msg_flags = 0
    return 0


cdef inline bint is_from_network(int error) noexcept:
    return error in (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH)


allow_instances(Datagrams)
