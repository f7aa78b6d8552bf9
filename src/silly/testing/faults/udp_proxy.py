"""A proxy for datagrams, with faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Self

from silly._values.arguments import size
from silly.errors import ConnectionClosed
from silly.net import addr as addresses
from silly.net import udp
from silly.task import fork
from silly.testing.faults.datagrams import (
    NO_DATAGRAM_FAULTS,
    DatagramFaults,
    DatagramFlow,
    Way,
)

__all__ = ["DatagramSession", "UDPProxy", "udp_proxy"]

CLIENTS: Final = 1000
_WAITING: Final = 1000  # datagrams of a client that has no socket yet

DatagramFaultsOf = DatagramFaults | Callable[[int], DatagramFaults]


@dataclass(slots=True)
class DatagramSession:
    """The record of one client of a proxy."""

    index: int
    """Its number, from 0, in the order of arrival."""
    client: str
    """Its address."""
    up: DatagramFlow
    """From the client to the server."""
    down: DatagramFlow
    """From the server to the client."""


class _Client:
    """One client: its socket to the server, and both ways."""

    def __init__(self, session: DatagramSession, peer: udp.Peer) -> None:
        self.peer = peer
        self.up = Way(session.up)
        self.down = Way(session.down)
        self.upstream: udp.Socket | None = None
        self.waiting: list[bytes] = []  # until there is a socket


class UDPProxy:
    """Forwards datagrams with faults; made by `udp_proxy`."""

    def __init__(
        self, addr: str, upstream: str, up: DatagramFaultsOf, down: DatagramFaultsOf, clients: int
    ) -> None:
        self._addr = addr
        self._upstream = upstream
        self._faults = (up, down)
        self._most = clients
        self._socket: udp.Socket | None = None
        self._clients: dict[udp.Peer, _Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._sessions: list[DatagramSession] = []

    @property
    def local_addr(self) -> str:
        """The address it receives on, with the port that was chosen for port 0.

        Raises:
            RuntimeError: the proxy was not entered (``async with``).
        """
        if self._socket is None:
            raise RuntimeError("the proxy receives only inside `async with`")
        return self._socket.local_addr

    @property
    def sessions(self) -> list[DatagramSession]:
        """The records of all clients so far, in order of arrival."""
        return self._sessions

    def __repr__(self) -> str:
        return f"<UDPProxy {self._addr} to {self._upstream}, {len(self._sessions)} clients>"

    async def __aenter__(self) -> Self:
        self._socket = udp.bind(self._addr)
        self._start(self._receive(self._socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._socket is not None
        self._socket.close()
        for timer in self._timers:
            timer.cancel()
        for client in list(self._clients.values()):
            if client.upstream is not None:
                client.upstream.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = fork(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _receive(self, sock: udp.Socket) -> None:
        async for data, peer in sock:
            client = self._clients.get(peer) or self._admit(peer)
            for delay, copy in client.up.take(data):
                self._later(delay, self._send_up, client, copy)

    def _admit(self, peer: udp.Peer) -> _Client:
        index = len(self._sessions)
        up, down = (
            each if isinstance(each, DatagramFaults) else each(index) for each in self._faults
        )
        session = DatagramSession(index, str(peer), DatagramFlow(up), DatagramFlow(down))
        self._sessions.append(session)
        if len(self._clients) >= self._most:  # forget the one that came first
            oldest = self._clients.pop(next(iter(self._clients)))
            if oldest.upstream is not None:
                oldest.upstream.close()
        client = self._clients[peer] = _Client(session, peer)
        self._start(self._answer(client))
        return client

    async def _answer(self, client: _Client) -> None:
        async with udp.connect(self._upstream) as upstream:
            client.upstream = upstream
            waiting, client.waiting = client.waiting, []
            for data in waiting:
                upstream.send(data)
            while True:
                try:
                    data, _ = await upstream.recv()
                except ConnectionClosed:
                    return
                except OSError:  # no program receives there: its sender finds out by itself
                    continue
                for delay, copy in client.down.take(data):
                    self._later(delay, self._send_down, client, copy)

    def _later(
        self, delay: float, send: Callable[[_Client, bytes], None], client: _Client, data: bytes
    ) -> None:
        if not delay:
            send(client, data)
            return

        def forward() -> None:
            self._timers.discard(timer)
            send(client, data)

        timer = asyncio.get_running_loop().call_later(delay, forward)
        self._timers.add(timer)

    def _send_up(self, client: _Client, data: bytes) -> None:
        client.up.pass_on()
        if client.upstream is None:
            del client.waiting[:-_WAITING]
            client.waiting.append(data)
        elif client.upstream.is_open:
            client.upstream.send(data)

    def _send_down(self, client: _Client, data: bytes) -> None:
        client.down.pass_on()
        if self._socket is not None and self._socket.is_open:
            self._socket.send(data, client.peer)


def udp_proxy(
    addr: str,
    upstream: str,
    *,
    up: DatagramFaultsOf = NO_DATAGRAM_FAULTS,
    down: DatagramFaultsOf = NO_DATAGRAM_FAULTS,
    clients: int = CLIENTS,
) -> UDPProxy:
    """Return a proxy for datagrams from *addr* to *upstream*, used in ``async with``::

        async with faults.udp_proxy("127.0.0.1:0", server, up=DatagramFaults(loss=0.1)) as proxy:
            sock = await udp.connect(proxy.local_addr)

    Each client gets a socket of its own to *upstream*, by which the proxy tells the answers
    apart. At the end of the block, what is still on its way is lost.

    Args:
        addr: where to receive; see `silly.net.udp.bind`.
        upstream: where to send what clients send.
        up: the faults from clients to the server, or a function that returns them for the
            number of a client, counted from 0.
        down: the same from the server to clients.
        clients: how many to remember; then the one that came first is forgotten.

    Raises:
        OSError: from ``async with``; see `silly.net.udp.bind`.
        TypeError, ValueError: an argument is of the wrong type or value.
    """
    addresses.parse(addr)
    addresses.parse(upstream, "upstream")
    for name, value in (("up", up), ("down", down)):
        if not (isinstance(value, DatagramFaults) or callable(value)):
            raise TypeError(
                f"{name} must be a DatagramFaults or a function that returns one for the number "
                f"of a client, not {type(value).__name__}"
            )
    size(clients, "clients", least=1)
    return UDPProxy(addr, upstream, up, down, clients)
