"""A handler for each peer that sends datagrams, as a listener has one for each connection.

The handler gets a `Conn`: what its peer sends is read from it, each datagram after the one
before, and each write is a datagram. So a protocol of short questions and answers needs no
other code for UDP than for TCP. UDP has no end: a peer that is silent for a while is
forgotten, which its handler sees as the end of the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Self

from silly._engine import stream_errors
from silly._engine.interface import Drain, packed_ip
from silly._engine.lifecycle import OPEN
from silly._engine.portable.link import LinkEvents
from silly._engine.portable.stream import Stream
from silly._engine.stream_errors import Buffer
from silly._values.arguments import positive_seconds, size
from silly.net.conn import Conn, StreamConn
from silly.net.datagrams import Peer, Socket, SocketStats
from silly.net.opening import bind
from silly.task import fork

__all__ = ["PeerListener", "listen"]

IDLE: Final = 60.0  # seconds
MAX_PEERS: Final = 1000
READ_LIMIT: Final = 256 * 1024  # bytes from one peer that its handler has not read
GRACE: Final = 5.0  # seconds for handlers to finish
_SWEEPS: Final = 4  # looks for idle peers within the idle timeout

Handler = Callable[[Conn], Awaitable[object]]


class _PeerConn(Stream, StreamConn):
    """The connection with one peer."""

    __slots__ = ()

    def write(self, data: Buffer | Iterable[Buffer]) -> Drain:
        datagram = data if type(data) is bytes else b"".join(stream_errors.as_pieces(data))
        if self._state != OPEN:
            raise self._writer_error()
        self._bytes_out += len(datagram)
        self._last_activity = self._clock()
        link = self._link
        assert isinstance(link, _PeerLink)
        return link.socket.send(datagram, link.peer)


class _PeerLink:
    """Carries what comes from one peer; see `silly._engine.portable.link.Link`."""

    def __init__(self, listener: PeerListener, peer: Peer) -> None:
        self._listener = listener
        self._events: LinkEvents
        self._is_paused = False
        self._is_closed = False
        self.socket = listener._socket
        self.peer = peer
        self.clock = listener._loop.time
        self.heard = self.clock()
        self.local_sockaddr: Any = listener._local_sockaddr
        self.remote_sockaddr: Any = peer.sockaddr
        self.remote_ip = packed_ip(peer.sockaddr)

    def attach(self, events: LinkEvents) -> None:
        self._events = events

    def arrive(self, data: bytes) -> bool:
        """Pass on a datagram; return False if the handler has too much unread."""
        self.heard = self.clock()
        if self._is_paused or self._is_closed:
            return False
        if data:
            self._events.received(data)
        return True

    def end(self) -> None:
        """Report the end: the peer is silent, or the listener is closed."""
        self._listener._forget(self)  # what comes from now on has another handler
        if not self._is_closed:
            self._events.ended()

    def send(self, data: bytes) -> None:  # noqa: ARG002 - see `Link`
        raise AssertionError("each write is a datagram")  # pragma: no cover - see `_PeerConn`

    def unsent(self) -> int:
        return 0

    def receive_at_most(self, size: int) -> None: ...

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False

    def finish(self) -> None: ...
    def set_high_water(self, size: int) -> None: ...
    def call_when_empty(self) -> None: ...

    def has_unread(self) -> bool:
        return False

    def in_flight(self) -> int:
        return 0

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._listener._forget(self)
            self._listener._loop.call_soon(self._events.lost, None)

    abort = close


class _Owner:
    """Nobody else needs to know when such a connection is closed."""

    host: str | None = None
    count_handshake = None

    def conn_closed(self, conn: Any) -> None: ...
    def on_draining(self, conn: Any, callback: Callable[[], object] | None) -> None: ...


_OWNER: Final = _Owner()


class PeerListener:
    """Runs a handler for each peer of a UDP socket; made by `listen`."""

    def __init__(
        self, sock: Socket, handler: Handler, idle_timeout: float | None, max_peers: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._local_sockaddr: Any = sock._local_sockaddr  # type: ignore[attr-defined]
        self._handler = handler
        self._idle = idle_timeout
        self._most = max_peers
        self._links: dict[Peer, _PeerLink] = {}
        self.refused = 0
        """Datagrams that were dropped because there were too many peers, or because their
        peer's handler had not read what came before."""
        self._timer: asyncio.TimerHandle | None = None
        self._handling: set[asyncio.Task[None]] = set()
        self._serving = fork(self._serve())

    @property
    def local_addr(self) -> str:
        """The address that it receives on, with the port that was picked for port 0."""
        return self._socket.local_addr

    @property
    def peers(self) -> int:
        """How many peers have a handler now."""
        return len(self._links)

    @property
    def stats(self) -> SocketStats:
        """The statistics of its socket."""
        return self._socket.stats

    async def _serve(self) -> None:
        self._sweep()
        try:
            async for data, peer in self._socket:
                link = self._links.get(peer) or self._admit(peer)
                if link is None or not link.arrive(data):
                    self.refused += 1
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._socket.close()
            for link in list(self._links.values()):
                link.end()
            if self._handling:
                self._loop.call_later(GRACE, self._cancel)

    def _cancel(self) -> None:
        """Cancel the handlers that still run some time after the end."""
        for task in self._handling:
            task.cancel()

    def _admit(self, peer: Peer) -> _PeerLink | None:
        if len(self._links) >= self._most:
            return None
        link = self._links[peer] = _PeerLink(self, peer)
        conn = _PeerConn(link, self._loop, _OWNER, read_limit=READ_LIMIT)
        task = fork(self._handle, conn)
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)
        return link

    async def _handle(self, conn: _PeerConn) -> None:
        try:
            await self._handler(conn)
        except Exception as error:
            if not stream_errors.belongs_to(conn, error):  # not the end of this peer
                raise
        finally:
            conn.close()

    def _forget(self, link: _PeerLink) -> None:
        if self._links.get(link.peer) is link:
            del self._links[link.peer]

    def _sweep(self) -> None:
        """End the connections of silent peers."""
        if self._idle is None or not self._socket.is_open:
            return
        self._timer = self._loop.call_later(self._idle / _SWEEPS, self._sweep)
        oldest = self._loop.time() - self._idle
        for link in [each for each in self._links.values() if each.heard <= oldest]:
            link.end()

    def close(self) -> None:
        """Free the port; handlers see the end of what their peers sent.

        Those that still run five seconds later are cancelled.
        """
        self._socket.close()

    async def wait_closed(self) -> None:
        """Wait until it has been closed, by any task. Safe to cancel."""
        await self._socket.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PeerListener {self.local_addr}, {self.peers} peers>"


def listen(
    addr: str,
    handler: Handler,
    *,
    idle_timeout: float | None = IDLE,
    max_peers: int = MAX_PEERS,
    **options: Any,
) -> PeerListener:
    """Receive datagrams on *addr*, and run ``handler(conn)`` in a task for each peer.

    A program that serves connections serves datagrams with one changed line. The handler
    reads what its peer sends, each datagram after the one before; each write is a datagram. It
    sees the end of the stream when its peer is silent, or when the listener is closed, which
    a signal to stop does. What UDP loses is missing.

    Args:
        addr: see `bind`.
        handler: a coroutine function of one argument, a `silly.net.tcp.Conn`.
        idle_timeout: seconds after which a silent peer is forgotten; None: never.
        max_peers: how many peers have a handler at a time; datagrams of others are dropped
            and counted in `PeerListener.refused`. Senders may be forged.
        options: see `bind`.

    Raises:
        OSError, TypeError, ValueError, RuntimeError: see `bind`.
    """
    if not callable(handler):
        raise TypeError(
            f"handler must be a coroutine function taking the connection, "
            f"not {type(handler).__name__}"
        )
    idle_timeout = positive_seconds(idle_timeout, "idle_timeout")
    size(max_peers, "max_peers", least=1)
    return PeerListener(bind(addr, **options), handler, idle_timeout, max_peers)
