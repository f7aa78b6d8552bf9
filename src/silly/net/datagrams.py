"""UDP sockets: bound ones receive from anyone, connected ones talk to one peer."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

from silly._engine import engine
from silly._engine.interface import DatagramLimits, Drain
from silly._engine.stream_errors import Buffer
from silly._loop.live import Live
from silly._loop.registry import PerLoop
from silly._values.arguments import seconds_or_none, size
from silly.net import addr as addresses
from silly.net.addr import TCPAddress
from silly.net.awaitables import Connecting
from silly.net.binding import (
    Group,
    SocketOptions,
    find,
    group,
    is_everywhere,
    open_bound,
    open_to,
)
from silly.net.listening import has_source

__all__ = [
    "DatagramSocket",
    "EngineSocket",
    "Peer",
    "Socket",
    "SocketStats",
    "bind",
    "connect",
    "limits",
    "totals",
]

MAX_DATAGRAM: Final = 65535  # bytes
MAX_QUEUED: Final = 4096  # datagrams in each queue
READ_LIMIT: Final = 4 * 1024 * 1024  # bytes in the receive queue
MAX_UNSENT: Final = 4 * 1024 * 1024  # bytes in the send queue
RECEIVE_BUFFER: Final = 4 * 1024 * 1024  # bytes that the operating system is asked to hold

if TYPE_CHECKING:
    from silly._engine.portable import Datagrams as _EngineDatagrams
    from silly._engine.portable import Peer
else:
    _EngineDatagrams = engine.Datagrams
    Peer = engine.Peer


@dataclass(frozen=True, slots=True)
class SocketStats:
    """Statistics of a UDP socket, at the time of the call.

    Every datagram that reached the socket is in exactly one of `received`, `unread`,
    `dropped_by_queue`, `truncated` and `dropped_by_kernel`, or still in the operating
    system's buffer. Every one that was given to `Socket.send` without an exception is in
    one of `sent`, `unsent`, `send_dropped` and `send_errors`.
    """

    received: int
    """Datagrams that the program has received."""
    bytes_in: int
    """Their bytes, without headers."""
    sent: int
    """Datagrams that the operating system has taken."""
    bytes_out: int
    """Their bytes, without headers."""
    dropped_by_kernel: int | None
    """Datagrams that the operating system dropped, mostly because its buffer was full
    (SO_RXQ_OVFL, socket(7)); None where it does not say."""
    dropped_by_queue: int
    """Datagrams dropped because the receive queue was full, or unread when it was closed."""
    truncated: int
    """Datagrams longer than ``max_datagram``, which were dropped."""
    send_dropped: int
    """Datagrams not sent because the send queue was full, or unsent when the socket was closed."""
    send_errors: Mapping[str, int]
    """Datagrams that the operating system refused to send, by the name of the error."""
    receive_errors: Mapping[str, int]
    """Errors that the network reported for datagrams sent earlier, by name, such as
    ``"ECONNREFUSED"``: no program receives them. Only connected sockets are told."""
    unread: int
    """Datagrams in the receive queue now."""
    unread_bytes: int
    """Their bytes."""
    unsent: int
    """Datagrams in the send queue now."""
    unsent_bytes: int
    """Their bytes."""


class Socket(ABC):
    """A UDP socket: made by `bind` and `connect`.

    ``async for data, peer in sock`` receives datagrams until the socket is closed, by
    `close` or with the program. ``async with sock`` closes it at the end of the block.

    A socket belongs to the event loop that made it and must not be used from other threads.
    """

    __slots__ = ()

    @abstractmethod
    def recv(self, *, timeout: float | None = None) -> Coroutine[Any, Any, tuple[bytes, Peer]]:
        """Receive one datagram: ``data, peer = await sock.recv()``.

        A datagram is received whole; it may be empty. If the read is cancelled or times
        out, no datagram is lost.

        Args:
            timeout: seconds; 0 takes only what has already been received.

        Raises:
            TimeoutError: none came in time. The socket can still be used.
            ConnectionRefusedError: on a connected socket: the peer's machine reports that
                no program receives there (ICMP). The socket can still be used. Other
                errors that the network reports are raised likewise.
            ConnectionClosed: this socket was closed.
            ConcurrentRead: another task is receiving.
        """

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[tuple[bytes, Peer]]:
        """Receive datagrams until the socket is closed."""

    @abstractmethod
    def send(
        self, data: Buffer, peer: Peer | str | None = None, *, strict: bool | None = None
    ) -> Drain:
        """Send a datagram to *peer*; never waits.

        All that is sent in one turn of the loop leaves together. If the send queue is full,
        the datagram is dropped and counted. Awaiting the result waits until the queue has
        room: a task that awaits each `send` loses none here.

        Args:
            data: bytes-like; up to 65,507 bytes (IPv4) or 65,527 (IPv6). Copied unless it is
                `bytes`. What does not fit into a packet of the network is fragmented, or
                refused (EMSGSIZE, counted in `SocketStats.send_errors`).
            peer: the sender of a datagram, what `resolve` returned, or an address such as
                ``"127.0.0.1:9999"``, without a host name. Not needed on a connected socket.
            strict: whether to raise `WriteQueueFull` instead of dropping; None: as given
                to `bind` or `connect`.

        Raises:
            ConnectionClosed: this socket was closed.
            WriteQueueFull: the queue is full, and *strict* is set.
            ValueError: *data* is too long, or *peer* cannot be reached from this socket.
            TypeError: an argument is of the wrong type, or *peer* is missing.
        """

    @abstractmethod
    async def resolve(self, addr: str) -> Peer:
        """Return the peer at *addr*, which may have a host name; without a host, this machine.

        Raises:
            OSError: the name cannot be resolved, or has no address of this socket's family.
            ValueError: *addr* is not an address.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the socket now, and free its port.

        What was sent in this turn is passed to the operating system if that takes it.
        Datagrams that were not received are dropped, and counted. Loops over the socket
        end; waiting calls of `recv` raise `ConnectionClosed`.
        """

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until the socket has been closed, by any task. Safe to cancel."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """False once the socket is closed."""

    @property
    @abstractmethod
    def local_addr(self) -> str:
        """The address that it is bound to, with the port that was picked for port 0."""

    @property
    @abstractmethod
    def peer(self) -> Peer | None:
        """The peer that it is connected to; None if it was made by `bind`."""

    @property
    @abstractmethod
    def is_bound(self) -> bool:
        """Whether it receives from anyone: made by `bind`."""

    @property
    @abstractmethod
    def stats(self) -> SocketStats:
        """Counts of datagrams, by what became of them."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


if TYPE_CHECKING:

    class _DatagramSocket(Socket):
        """With what `silly._engine.interface.Datagrams` gives."""

        @property
        def _is_open(self) -> bool: ...
        @property
        def _counts(self) -> dict[str, Any]: ...
        @property
        def _local_sockaddr(self) -> Any: ...

else:
    _DatagramSocket = Socket


class DatagramSocket(_DatagramSocket):
    """The `Socket` over an engine's datagrams: ``class MySocket(Datagrams, DatagramSocket)``."""

    __slots__ = ()

    @property
    def local_addr(self) -> str:
        """See `Socket.local_addr`."""
        local = self._local_sockaddr
        if len(local) == 4 and local[0] == "::" and self._is_dual:
            return str(TCPAddress("", local[1]))
        return addresses.format_sockaddr(local)

    @property
    def is_open(self) -> bool:
        """See `Socket.is_open`."""
        return self._is_open

    @property
    def is_bound(self) -> bool:
        """See `Socket.is_bound`."""
        return self.peer is None

    @property
    def stats(self) -> SocketStats:
        """See `Socket.stats`."""
        return SocketStats(**self._counts)

    async def resolve(self, addr: str) -> Peer:
        """See `Socket.resolve`."""
        address = _address(addr, for_peer=True)
        found = await find(address)
        ours = socket.AF_INET if len(self._local_sockaddr) == 2 else socket.AF_INET6
        usable = [sockaddr for family, sockaddr in found if family == ours]
        if ours == socket.AF_INET6 and self._is_dual:
            usable = [sockaddr for _, sockaddr in found]
        if not usable:
            what = f"It has no address of the family of {self.local_addr}"
            raise OSError(errno.EAFNOSUPPORT, what, addr)
        return Peer(usable[0])

    def _peer_of(self, peer: Any) -> Peer | None:
        """Return the peer for an argument of `send` that is not a `Peer`."""
        if peer is None and self.peer is not None:
            return None
        if isinstance(peer, str):
            return _numeric_peer(peer)
        if peer is None:
            raise TypeError("send(data, peer): peer is missing, and this socket is not connected")
        raise TypeError(
            "peer must be the sender of a datagram, or a str such as '127.0.0.1:9999', "
            f"not {type(peer).__name__}"
        )

    @property
    def _is_dual(self) -> bool:
        """Whether it receives IPv4, too, on an IPv6 socket."""
        return False

    @property
    def _address(self) -> str:
        """Where it is, for error messages: the peer's address if it is connected."""
        return self.local_addr if self.peer is None else str(self.peer)

    def __repr__(self) -> str:
        to = "" if self.peer is None else f" to {self.peer}"
        return f"<Socket {self.local_addr}{to}, {'open' if self.is_open else 'closed'}>"


class EngineSocket(_EngineDatagrams, DatagramSocket):
    """The `Socket` of the engine in use; what `bind` and `connect` make."""

    __slots__ = ("_dual",)

    _dual: bool

    @property
    def _is_dual(self) -> bool:
        return self._dual

    def _disown(self) -> None:
        """In a forked child: drop the descriptor, which is the parent's."""
        engine.disown(self)


engine.specialize(EngineSocket)
EngineSocket.__name__ = EngineSocket.__qualname__ = "Socket"  # in errors of programs


@functools.lru_cache(maxsize=1024)
def _numeric_peer(text: str) -> Peer:
    address = _address(text, for_peer=True)
    try:
        found = socket.getaddrinfo(
            address.host or None,
            address.port,
            type=socket.SOCK_DGRAM,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
    except socket.gaierror:
        raise ValueError(
            f"peer {text!r} has a host name: use `await sock.resolve({text!r})`"
        ) from None
    return Peer(found[0][4])


def _address(addr: str, name: str = "addr", *, for_peer: bool = False) -> TCPAddress:
    address = addresses.parse(addr, name)
    if not isinstance(address, TCPAddress):
        raise ValueError(f"{name} {addr!r}: Unix sockets have no UDP")  # noqa: TRY004
    if for_peer and address.port == 0:
        raise ValueError(f"{name} {addr!r} has port 0, which is only for binding")
    return address


def limits(
    max_datagram: int = MAX_DATAGRAM,
    max_queued: int = MAX_QUEUED,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    strict: bool = False,
) -> DatagramLimits:
    """Check the bounds of a socket, and return them as engines take them.

    Raises:
        TypeError, ValueError: one of them has the wrong type or value.
    """
    return (
        min(size(max_datagram, "max_datagram", least=1), MAX_DATAGRAM),
        min(size(max_queued, "max_queued", least=1), 1 << 40),
        min(size(read_limit, "read_limit", least=1), 1 << 60),
        min(size(max_unsent, "max_unsent", least=1), 1 << 60),
        bool(strict),
    )


def _groups(multicast: str | Iterable[str] | None) -> tuple[Group, ...]:
    if multicast is None:
        return ()
    return tuple(group(each) for each in ([multicast] if isinstance(multicast, str) else multicast))


class _Sockets:
    """The owner of the sockets of one event loop: counts those that are closed, too."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._live = Live.of(loop)
        self._past: dict[str, Any] = {}

    def socket_closed(self, sock: EngineSocket) -> None:
        self._past = _sum(self._past, sock._counts)
        self._live.socket_closed(sock)

    def totals(self) -> dict[str, Any]:
        totals = self._past
        sockets = cast("set[EngineSocket]", self._live.sockets)
        for sock in list(sockets):
            totals = _sum(totals, sock._counts)
        return {"sockets": len(sockets), **totals}


_sockets: Final = PerLoop("sockets", _Sockets)


def _sum(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the sums of two results of `Datagrams._counts`."""
    sums = dict(first)
    for name, value in second.items():
        if isinstance(value, dict):
            sums[name] = _sum(sums.get(name, {}), value)
        else:
            sums[name] = sums.get(name, 0) + (value or 0)
    return sums


def totals(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """Return the sums of `SocketStats` of all sockets of *loop*, past and present, by name.

    ``sockets`` is how many are open now.
    """
    return _sockets.of(loop).totals()


def _adopt(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, bounds: DatagramLimits
) -> EngineSocket:
    """Return a `Socket` over *sock*, which belongs to it from now on."""
    owner = _sockets.of(loop)
    try:
        local = sock.getsockname()
        dual = sock.family == socket.AF_INET6 and not sock.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )
        made = EngineSocket(sock, loop, owner, limits=bounds, answers_from=is_everywhere(local))
    except BaseException:
        sock.close()
        raise
    made._dual = dual
    Live.of(loop).add_socket(made)
    return made


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "udp.bind() needs a running event loop: start the script with "
            "`silly FILE.py`, or call it inside silly.run(main())"
        ) from None


def bind(
    addr: str,
    *,
    reuse_port: bool = False,
    multicast: str | Iterable[str] | None = None,
    multicast_hops: int | None = None,
    broadcast: bool = False,
    max_datagram: int = MAX_DATAGRAM,
    max_queued: int = MAX_QUEUED,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    receive_buffer: int | None = RECEIVE_BUFFER,
    strict: bool = False,
) -> Socket:
    """Return a UDP socket that is bound to *addr* and receives from anyone.

    It keeps the program running until it is closed; a signal to stop closes it.

    Args:
        addr: ``"127.0.0.1:9999"``, ``"[::1]:9999"``, ``":9999"`` (all interfaces, IPv4 and
            IPv6); port 0 picks a free one (`Socket.local_addr`). A host name is resolved
            before this returns, and the first of its addresses that can be bound is used.
        reuse_port: let several sockets have the same address; the kernel distributes the
            peers among them (SO_REUSEPORT, socket(7)). Workers always do, so that each has
            a socket of its own.
        multicast: the group, or the groups, whose datagrams it receives, such as
            ``"239.1.2.3"``, or ``"239.1.2.3%eth0"`` to name the interface. Several programs
            on one machine can then bind the same port.
        multicast_hops: how many routers may forward what it sends to groups: 1, the
            default, is this network only; 0 is this machine.
        broadcast: allow sending to broadcast addresses (SO_BROADCAST).
        max_datagram: bytes; longer datagrams are dropped and counted.
        max_queued: datagrams in each of its two queues, received and to be sent.
        read_limit: bytes in the receive queue; what comes above is dropped and counted.
        max_unsent: bytes in the send queue; see `Socket.send`.
        receive_buffer: bytes that the operating system is asked to hold for the program
            (SO_RCVBUF), which it limits (net.core.rmem_max); None leaves its default.
        strict: `Socket.send` raises `WriteQueueFull` if the queue is full.

    Raises:
        OSError: the address is in use (EADDRINUSE), not available on this machine or
            not permitted, its name cannot be resolved, or the group cannot be joined;
            the error names the address.
        TypeError, ValueError: an argument has the wrong type or value.
        RuntimeError: no event loop is running.
    """
    address = _address(addr)
    options = SocketOptions(
        reuse_port=reuse_port or has_source(),
        broadcast=broadcast,
        groups=_groups(multicast),
        hops=None if multicast_hops is None else min(size(multicast_hops, "multicast_hops"), 255),
        receive_buffer=_buffer(receive_buffer),
    )
    bounds = limits(max_datagram, max_queued, read_limit, max_unsent, strict)
    loop = _running_loop()
    return _adopt(loop, open_bound(address, options), bounds)


def connect(
    addr: str,
    *,
    timeout: float | None = None,
    bind: str | None = None,
    broadcast: bool = False,
    max_datagram: int = MAX_DATAGRAM,
    max_queued: int = MAX_QUEUED,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    receive_buffer: int | None = RECEIVE_BUFFER,
    strict: bool = False,
) -> Connecting[Socket]:
    """Return a UDP socket that talks to *addr* only: ``sock = await udp.connect(addr)``.

    Nothing is sent: whether a program receives there shows only later, as an error of
    `Socket.recv`, and only if its machine reports it. Datagrams from others are not received.

    Args:
        addr: as for `bind`; a host name is resolved, and the first of its addresses that
            there is a route to is used. ``":9999"`` is this machine.
        timeout: seconds for name resolution; None leaves it to the operating system.
        bind: the local address to send from, such as ``"127.0.0.2:0"``.
        broadcast, max_datagram, max_queued, read_limit, max_unsent, receive_buffer, strict:
            see `bind`.

    Returns:
        An object to await for the `Socket`, or to use in ``async with`` directly.

    Raises:
        OSError: the name cannot be resolved (`socket.gaierror`), or there is no route; the
            error names the address.
        TimeoutError: the name was not resolved in time.
        TypeError, ValueError: an argument has the wrong type or value; raised at the call.
    """
    address = _address(addr, for_peer=True)
    local = None if bind is None else _address(bind, "bind")
    timeout = seconds_or_none(timeout, "timeout")
    options = SocketOptions(broadcast=broadcast, receive_buffer=_buffer(receive_buffer))
    bounds = limits(max_datagram, max_queued, read_limit, max_unsent, strict)
    return Connecting(_connect(address, local, timeout, options, bounds))


async def _connect(
    address: TCPAddress,
    local: TCPAddress | None,
    timeout: float | None,
    options: SocketOptions,
    bounds: DatagramLimits,
) -> Socket:
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            found = await find(address)
            own = None if local is None else await find(local)
    except TimeoutError:
        if limit.expired():
            what = f"Not resolved within {timeout:g} seconds"
            raise TimeoutError(errno.ETIMEDOUT, what, str(address)) from None
        raise
    return _adopt(loop, open_to(address, found, own, options), bounds)


_connect.__qualname__ = "udp.connect"  # for Python's warning if it is never awaited


def _buffer(value: int | None) -> int | None:
    return None if value is None else size(value, "receive_buffer", least=1)
