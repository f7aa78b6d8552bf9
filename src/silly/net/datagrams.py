"""UDP sockets, as programs see them: bound ones receive from anyone, connected ones from one."""

from __future__ import annotations

import errno
import functools
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from silly._engine import engine
from silly._engine.interface import Drain
from silly._engine.stream_errors import Buffer
from silly.net import addr as addresses
from silly.net.addr import TCPAddress
from silly.net.binding import find

__all__ = [
    "DatagramSocket",
    "EngineSocket",
    "Peer",
    "Socket",
    "SocketStats",
    "address_of",
]

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

    async def __aexit__(self, *_: object) -> None:
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

    _is_dual = False  # whether it receives IPv4, too, on an IPv6 socket

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
        address = address_of(addr, for_peer=True)
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
    def _address(self) -> str:
        """Where it is, for error messages: the peer's address if it is connected."""
        return self.local_addr if self.peer is None else str(self.peer)

    def __repr__(self) -> str:
        to = "" if self.peer is None else f" to {self.peer}"
        return f"<Socket {self.local_addr}{to}, {'open' if self.is_open else 'closed'}>"


class EngineSocket(_EngineDatagrams, DatagramSocket):
    """The `Socket` of the engine in use; what `bind` and `connect` make."""

    __slots__ = ("_is_dual",)

    def _disown(self) -> None:
        """In a forked child: drop the descriptor, which is the parent's."""
        engine.disown(self)


engine.specialize(EngineSocket)
EngineSocket.__name__ = EngineSocket.__qualname__ = "Socket"  # in errors of programs


@functools.lru_cache(maxsize=1024)
def _numeric_peer(text: str) -> Peer:
    address = address_of(text, for_peer=True)
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


def address_of(addr: str, name: str = "addr", *, for_peer: bool = False) -> TCPAddress:
    """Return the address that the argument *name* gives. Raises TypeError, ValueError."""
    address = addresses.parse(addr, name)
    if not isinstance(address, TCPAddress):
        raise ValueError(f"{name} {addr!r}: Unix sockets have no UDP")  # noqa: TRY004
    if for_peer and address.port == 0:
        raise ValueError(f"{name} {addr!r} has port 0, which is only for binding")
    return address
