"""A datagram socket, over any carrier: one of the operating system, or one in memory.

What is sent in one turn of the loop leaves together at its end (turn.py), as on the native
engine, although each datagram takes its own system call here.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, Protocol

from silly._engine import stream_errors
from silly._engine.drain import DRAINED
from silly._engine.interface import DatagramLimits, DatagramOwner, Drain
from silly._engine.mailbox import BATCH, IN_A_ROW, Mailbox
from silly._engine.portable.turn import turns
from silly._engine.portable.udp import DatagramEvents, UDPCarrier
from silly._engine.stream_errors import Buffer
from silly._values.addresses import format_sockaddr
from silly._values.arguments import seconds_or_none

__all__ = ["Carrier", "Datagrams", "Peer"]

_FROM_NETWORK: Final = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
_FULL: Final = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
_MAPPED: Final = "::ffff:"  # begins an IPv4 address, as IPv6 sockets have them (RFC 4291)


class Peer:
    """Where a datagram came from: hashable, and compared by its address.

    ``str(peer)`` is its text, made when it is asked for. An answer to it leaves from the
    address that the datagram was sent to.
    """

    __slots__ = ("_name", "_via", "sockaddr")

    def __init__(self, sockaddr: Any, via: Any = None) -> None:
        self._name = sockaddr  # as its socket has it
        self._via = via  # of its carrier: how to answer from where the datagram was sent to
        self.sockaddr = _unmapped(sockaddr)

    @property
    def host(self) -> str:
        """Its IP address, as text."""
        host: str = self.sockaddr[0]
        return host

    @property
    def port(self) -> int:
        """Its port."""
        port: int = self.sockaddr[1]
        return port

    def __hash__(self) -> int:
        return hash(self.sockaddr)

    def __eq__(self, other: object) -> bool:
        if type(other) is not Peer:
            return NotImplemented
        same: bool = self.sockaddr == other.sockaddr
        return same

    def __str__(self) -> str:
        return format_sockaddr(self.sockaddr)

    def __repr__(self) -> str:
        return f"<Peer {self}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Peer, (self.sockaddr,)


def _unmapped(sockaddr: Any) -> Any:
    """Return *sockaddr* with an IPv4 address if it is mapped, and without a flow label."""
    if len(sockaddr) == 2:
        return sockaddr
    host: str = sockaddr[0]
    if host.startswith(_MAPPED) and "." in host:
        return host.removeprefix(_MAPPED), sockaddr[1]
    return host.partition("%")[0], sockaddr[1], 0, sockaddr[3]


class Carrier(Protocol):
    """What carries datagrams."""

    family: int
    local_sockaddr: Any
    peer_sockaddr: Any  # what it is connected to; None: nothing

    def start(self, events: DatagramEvents) -> None:
        """Report to *events* from now on."""

    def send(self, data: bytes, name: Any, via: Any) -> None:
        """Send a datagram to *name*, or if that is None to what this is connected to.

        Raises:
            OSError: it was not sent; `BlockingIOError`: there is no room.
        """

    def call_when_room(self) -> None:
        """Call `DatagramEvents.has_room` once, when there is room."""

    def receive_last(self) -> None:
        """Report everything that has arrived."""

    def drops(self) -> int:
        """Return how many datagrams were dropped below, modulo 2**32; -1: unknown."""

    def close(self) -> None: ...
    def disown(self) -> None: ...


class Datagrams(Mailbox):
    """A datagram socket."""

    __slots__ = (
        "__weakref__",
        "_blocked",
        "_carrier",
        "_connected",
        "_flush_scheduled",
        "_name_length",
        "_reading",
        "_waiter",
    )

    def __init__(
        self,
        sock: socket.socket | Carrier,
        loop: asyncio.AbstractEventLoop,
        owner: DatagramOwner,
        *,
        limits: DatagramLimits,
        answers_from: bool = False,
    ) -> None:
        self._begin(loop, owner, limits)
        self._reading = False
        self._waiter: asyncio.Future[None] | None = None
        self._flush_scheduled = False
        self._blocked = False  # the carrier has no room
        carrier: Carrier
        if isinstance(sock, socket.socket):
            carrier = UDPCarrier(loop, sock, self._max_datagram, answers_from=answers_from)
        else:
            carrier = sock
        self._carrier = carrier
        self._name_length = len(carrier.local_sockaddr)
        if carrier.family == socket.AF_INET6:
            self._max_payload = 65527
        peer = carrier.peer_sockaddr
        self._connected = None if peer is None else Peer(peer)
        carrier.start(self)

    # ---------------------------------------------------------------------- receiving

    def recv(self, *, timeout: float | None = None) -> Coroutine[Any, Any, tuple[bytes, Peer]]:
        if timeout is not None:
            timeout = seconds_or_none(timeout, "timeout")
        return self._recv(timeout)

    async def _recv(self, timeout: float | None) -> tuple[bytes, Peer]:
        item = await self._next(timeout)
        if item is None:
            raise self._closed_error()
        return item

    _recv.__qualname__ = "Socket.recv"  # for Python's "was never awaited" warning

    def __aiter__(self) -> AsyncIterator[tuple[bytes, Peer]]:
        return _Iterator(self)

    async def _next(self, timeout: float | None) -> tuple[bytes, Peer] | None:
        """Return the next datagram; None if the socket is closed."""
        if self._in_a_row >= IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)
        if self._reading:
            raise self._concurrent_error()
        if self._open and not self._has_mail() and self._pending_error is None:
            timer = None
            if timeout is not None:
                timer = self._loop.call_later(timeout, self._wake_reader)
            try:
                await self._suspend()
            finally:
                self._reading = False
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        if self._has_mail():
            item: tuple[bytes, Peer] = self._take()
            return item
        if (error := self._take_error()) is not None:
            raise error
        if not self._open:
            return None
        assert timeout is not None
        raise self._timeout_error(timeout)

    def _suspend(self) -> asyncio.Future[None]:
        if self._out:
            self.end_of_turn()
        self._reading = True
        self._in_a_row = 0
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake_reader(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def received(self, data: bytes, sockaddr: Any, via: Any) -> None:
        self._put(data, self._connected or Peer(sockaddr, via))

    def truncated(self) -> None:
        self._truncated += 1

    def failed(self, number: int) -> None:
        self._note_receive_error(number)

    def arrived(self) -> None:
        if self._has_mail() or self._pending_error is not None:
            self._wake_reader()

    def _receive_last(self) -> None:
        self._carrier.receive_last()

    # ------------------------------------------------------------------------ sending

    def send(self, data: Buffer, peer: Any = None, *, strict: bool | None = None) -> Drain:
        if type(data) is not bytes:
            data = stream_errors.as_datagram(data)
        if type(peer) is not Peer or self._connected is not None:
            peer = self._target(peer)
        if peer is not None and len(peer._name) != self._name_length:
            peer = self._converted(peer)
        length = len(data)
        if not self._accepts(length, self._strict if strict is None else bool(strict)):
            return self._room()
        self._out.append((data, peer))
        self._unsent_bytes += length
        if self._blocked:
            return self._room() if self._is_crowded() else DRAINED
        queued = len(self._out) - self._out_head
        if queued >= BATCH or self._is_crowded():
            self._flush()
            self._in_a_row += queued
            if self._in_a_row >= IN_A_ROW or self._is_crowded():
                return self._room()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            turns.of(self._loop).add(self, self._loop)
        return DRAINED

    def _target(self, peer: Any) -> Peer | None:
        """Return where to send to: None to the peer that this is connected to."""
        if type(peer) is not Peer:
            peer = self._peer_of(peer)  # type: ignore[attr-defined] # of `silly.net.udp.Socket`
        if self._connected is None:
            target: Peer = peer
            return target
        if peer is not None and peer != self._connected:
            raise ValueError(f"this socket is connected to {self._connected}, not to {peer}")
        return None

    def _converted(self, peer: Peer) -> Peer:
        """Return *peer* as this socket's family has it."""
        host, port, *rest = peer.sockaddr
        if self._carrier.family == socket.AF_INET6:
            return Peer((_MAPPED + host, port, 0, 0))
        if rest:
            raise ValueError(f"{peer} is an IPv6 address, and this socket has {self._name()}")
        return Peer((host, port))

    def end_of_turn(self) -> None:
        self._flush_scheduled = False
        if not self._blocked:
            self._flush()

    def _flush(self) -> None:
        retried = False
        while self._out:
            data, peer = self._out[self._out_head]
            try:
                if peer is None:
                    self._carrier.send(data, None, None)
                else:
                    self._carrier.send(data, peer._name, peer._via)
            except OSError as error:
                number = error.errno or errno.EIO
                if number in _FULL:
                    if self._open:
                        self._blocked = True
                        self._carrier.call_when_room()
                    return
                if number in _FROM_NETWORK and self._connected is not None and not retried:
                    # It was reported for an earlier datagram; this one was not tried.
                    retried = True
                    self._note_receive_error(number)
                    self.arrived()
                else:
                    self._note_send_error(number)
            else:
                retried = False
                self._sent += 1
                self._bytes_out += len(data)
                self._unsent_bytes -= len(data)
                self._drop_sent(1)

    def has_room(self) -> None:
        self._blocked = False
        self._flush()

    # ------------------------------------------------------------------------ the end

    def _release(self) -> None:
        self._carrier.close()

    def disown(self) -> None:
        """In a forked child: drop the descriptor, which is the parent's."""
        self._open = False
        self._mail.clear()
        self._out.clear()
        self._head = self._out_head = self._unread_bytes = self._unsent_bytes = 0
        self._carrier.disown()

    def _read_kernel_counter(self) -> int:
        return self._carrier.drops()

    @property
    def peer(self) -> Peer | None:
        return self._connected

    @property
    def _local_sockaddr(self) -> Any:
        return self._carrier.local_sockaddr

    @property
    def _waits_for(self) -> str | None:
        return "a datagram" if self._reading else None


class _Iterator:
    """The iterator of ``async for``: it ends when the socket is closed."""

    __slots__ = ("_socket",)

    def __init__(self, socket: Datagrams) -> None:
        self._socket = socket

    def __aiter__(self) -> _Iterator:
        return self

    async def __anext__(self) -> tuple[bytes, Peer]:
        item = await self._socket._next(None)
        if item is None:
            raise StopAsyncIteration
        return item
