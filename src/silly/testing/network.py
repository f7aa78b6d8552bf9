"""UDP in memory: sockets without ports, on a network that may lose, repeat and reorder."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from typing import Any, Final

from silly._engine.portable.datagrams import Datagrams, Peer
from silly._engine.portable.udp import DatagramEvents
from silly._values.arguments import size
from silly.net import udp
from silly.net.datagrams import DatagramSocket
from silly.net.opening import limits
from silly.testing.faults.datagrams import (
    NO_DATAGRAM_FAULTS,
    DatagramFaults,
    DatagramFlow,
    Way,
)

__all__ = ["MemoryNetwork"]

_RECEIVE_BUFFER: Final = 256 * 1024  # bytes
_OVERHEAD: Final = 64  # bytes of the buffer that each datagram takes besides its data


class MemorySocket(Datagrams, DatagramSocket):
    """A socket of a `MemoryNetwork`; built on the portable engine's datagrams."""

    __slots__ = ()

    def _peer_of(self, peer: Any) -> Peer | None:
        if isinstance(peer, str):
            return _peer(peer)
        return super()._peer_of(peer)

    async def resolve(self, addr: str) -> Peer:
        """Return the peer at *addr*, such as ``"memory:1"``."""
        return _peer(addr)

    def _disown(self) -> None: ...


def _peer(addr: str) -> Peer:
    host, _, number = addr.partition(":")
    if host != "memory" or not number.isdecimal():
        raise ValueError(f"{addr!r} is not an address of a memory network, such as 'memory:1'")
    return Peer((host, int(number)))


class _Owner:
    """Nobody needs to know when such a socket is closed."""

    def socket_closed(self, sock: MemorySocket) -> None: ...


_OWNER: Final = _Owner()


class _MemoryCarrier:
    """Carries datagrams to other sockets of the network; see `Carrier`."""

    family: int = socket.AF_INET

    def __init__(self, network: MemoryNetwork, name: Any, peer: Any, room: int) -> None:
        self._network = network
        self._loop = network._loop
        self._room = room  # bytes left in the "kernel's buffer"
        self._drops = 0
        self._arrived: deque[tuple[bytes, Any]] = deque()
        self._refused = False
        self._scheduled = False
        self.local_sockaddr = name
        self.peer_sockaddr = peer
        self.events: DatagramEvents | None = None

    def start(self, events: DatagramEvents) -> None:
        self.events = events

    def send(self, data: bytes, name: Any, via: Any) -> None:  # noqa: ARG002 - see `Carrier`
        self._network._send(self, data, name or self.peer_sockaddr)

    def arrive(self, data: bytes, sender: Any) -> None:
        if self.peer_sockaddr not in (None, sender):
            return  # from another one than its peer
        if len(data) + _OVERHEAD > self._room:
            self._drops += 1
            return
        self._room -= len(data) + _OVERHEAD
        self._arrived.append((data, sender))
        self._schedule()

    def refuse(self) -> None:
        """Report that nobody receives what was sent, as ICMP does to connected sockets."""
        if self.peer_sockaddr is not None:
            self._refused = True
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self.events is not None:
            self.receive_last()
            self.events.arrived()

    def receive_last(self) -> None:
        assert self.events is not None
        while self._arrived:
            data, sender = self._arrived.popleft()
            self._room += len(data) + _OVERHEAD
            self.events.received(data, sender, None)
        if self._refused:
            self._refused = False
            self.events.failed(errno.ECONNREFUSED)

    def call_when_room(self) -> None: ...

    def drops(self) -> int:
        return self._drops

    def close(self) -> None:
        self.events = None
        self._network._carriers.pop(self.local_sockaddr, None)

    disown = close


class MemoryNetwork:
    """A network in memory, for programs that use UDP::

        network = MemoryNetwork(DatagramFaults(loss=0.1, seed=1))
        server = network.bind()
        client = network.connect(server)

    Its sockets behave as those of `silly.net.udp`, with addresses such as ``"memory:1"``. With
    the virtual clock, a test of timeouts takes no real time, and the same seed gives the same
    losses.

    Raises:
        TypeError: *faults* is not a `silly.testing.faults.DatagramFaults`.
        RuntimeError: no event loop is running.
    """

    def __init__(self, faults: DatagramFaults = NO_DATAGRAM_FAULTS) -> None:
        if not isinstance(faults, DatagramFaults):
            raise TypeError(f"faults must be a DatagramFaults, not {type(faults).__name__}")
        self._loop = asyncio.get_running_loop()
        self._carriers: dict[Any, _MemoryCarrier] = {}
        self._made = 0
        self.flow = DatagramFlow(faults)
        """The record of all datagrams of the network."""
        self._way = Way(self.flow)

    def bind(self, *, receive_buffer: int = _RECEIVE_BUFFER, **bounds: Any) -> udp.Socket:
        """Return a socket that receives from anyone on this network.

        Args:
            receive_buffer: bytes that stand for the operating system's buffer: what does not
                fit is counted as dropped by the kernel.
            bounds: ``max_datagram``, ``max_queued``, ``read_limit``, ``max_unsent`` and
                ``strict``; see `silly.net.udp.bind`.
        """
        return self._new(None, receive_buffer, bounds)

    def connect(
        self,
        peer: udp.Socket | str,
        *,
        receive_buffer: int = _RECEIVE_BUFFER,
        **bounds: Any,
    ) -> udp.Socket:
        """Return a socket that talks to *peer* only: a socket of this network, or its address."""
        addr = peer if isinstance(peer, str) else peer.local_addr
        return self._new(_peer(addr).sockaddr, receive_buffer, bounds)

    def _new(self, peer: Any, receive_buffer: int, bounds: dict[str, Any]) -> udp.Socket:
        size(receive_buffer, "receive_buffer", least=1)
        self._made += 1
        name = ("memory", self._made)
        carrier = _MemoryCarrier(self, name, peer, receive_buffer)
        sock = MemorySocket(carrier, self._loop, _OWNER, limits=limits(**bounds))
        self._carriers[name] = carrier
        return sock

    def _send(self, source: _MemoryCarrier, data: bytes, target: Any) -> None:
        for delay, copy in self._way.take(data):
            if delay:
                self._loop.call_later(delay, self._arrive, source, copy, target)
            else:
                self._arrive(source, copy, target)

    def _arrive(self, source: _MemoryCarrier, data: bytes, target: Any) -> None:
        self._way.pass_on()
        carrier = self._carriers.get(target)
        if carrier is not None:
            carrier.arrive(data, source.local_sockaddr)
        else:
            source.refuse()
