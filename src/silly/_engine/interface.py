"""The interface of engines: `Engine`, the objects that it makes, and those that it calls.

An engine is a module. It makes a `Stream` for each connection and a `Server` for each
listening socket. It asks a `Gate` whether to admit a connection, notifies the `Owner` of a
stream that has ended, and reports memory to a `Budget`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import sys
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Sequence,
)
from typing import Any, Final, Protocol

from silly._engine.account import Account as _Account
from silly._engine.admission import Admission as _Admission
from silly._engine.stream_errors import Buffer

__all__ = [
    "BATCH",
    "HANDSHAKE_TIMEOUT",
    "LINGER",
    "MAX_UNSENT",
    "READ_LIMIT",
    "Accept",
    "Budget",
    "Consumer",
    "DatagramLimits",
    "DatagramOwner",
    "Datagrams",
    "Deadlines",
    "Drain",
    "Engine",
    "Filter",
    "Gate",
    "Owner",
    "Peer",
    "Server",
    "Stream",
    "allow_unsent",
    "packed_ip",
    "peer_window",
    "tune",
]

READ_LIMIT: Final = 1024 * 1024  # bytes
BATCH: Final = 1024  # items: the default bound of a batch
MAX_UNSENT: Final = 16 * 1024 * 1024  # bytes
LINGER: Final = 10.0  # seconds
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
UNSENT_IN_KERNEL: Final = 256 * 1024  # bytes

_INET: Final = int(socket.AF_INET)  # members of an enumeration take longer to convert
_INET6: Final = int(socket.AF_INET6)


class Drain(Coroutine[Any, Any, None]):
    """What a stream's `write` returns: awaiting it waits until the queue has room.

    It is a coroutine object, so that `asyncio.create_task` accepts it. It need not be
    awaited: the data is written anyway, and neither Python nor type checkers warn.
    """

    __slots__ = ()


def packed_ip(sockaddr: Any) -> bytes:
    """Return the IP address in *sockaddr* as packed bytes; empty if it has none (see `Gate`)."""
    if not isinstance(sockaddr, tuple):
        return b""
    host = sockaddr[0]
    if ":" not in host:
        return socket.inet_pton(_INET, host)
    return socket.inet_pton(_INET6, host.partition("%")[0])  # without the scope


def tune(sock: socket.socket) -> None:
    """Set TCP options on *sock*; the sockets that it accepts inherit them.

    Nagle's algorithm is off (RFC 9293, section 3.7.4): streams batch their writes
    already, so it would only delay them. And the kernel accepts no more than
    `UNSENT_IN_KERNEL` that it cannot send yet (TCP_NOTSENT_LOWAT, tcp(7)): otherwise it
    would hold megabytes for each peer that does not read.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # already reset: the first read reports it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            allow_unsent(sock, UNSENT_IN_KERNEL)


def allow_unsent(sock: socket.SocketType, size: int) -> None:
    """Let the kernel accept up to *size* bytes that it cannot send yet, on a TCP socket.

    Raises:
        OSError: it is another socket, or the connection was reset.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)


def peer_window(sock: socket.SocketType) -> int:
    """Return how many bytes the peer of a TCP socket said last that it can receive; 0: unknown."""
    try:  # tcpi_snd_wnd of struct tcp_info, in linux/tcp.h (Linux 5.4)
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    except (AttributeError, OSError):
        return 0
    return int.from_bytes(info[228:232], sys.byteorder)


Deadlines = tuple[float, float, float, float, float]
"""The arguments of `Stream._check_deadlines`: the first-byte timeout and the read deadline
(seconds; infinity: none), the receive rate that extends the read deadline, the minimum send
rate (bytes per second; 0: none), and the window over which it is measured (seconds)."""


class Budget(Protocol):
    """Counts the bytes that several streams hold, unread and unsent."""

    def change(self, by: int) -> None:
        """Add *by* (which may be negative) to the bytes that are held."""


class Consumer(Protocol):
    """Takes what arrives while no read waits for it: a protocol whose peers expect answers."""

    def _consume(self) -> None:
        """Note that bytes have arrived, or that the stream has ended. It must not raise.

        Called in the event loop while no task runs. It may read, without waiting.
        """

    def _drain(self) -> None:
        """Note that the connection's listener begins to close."""


class Gate(Protocol):
    """Decides which connections a server lets in, before anything is allocated for them.

    A *client* is the peer's IP address as packed bytes, 4 for IPv4 or 16 for IPv6;
    empty if it has none (a Unix socket).

    It derives from the engine's `Admission`.
    """

    def enter(self, client: bytes) -> bool:
        """Return whether to let a connection in, charged to *client*; if not, it is reset."""

    def leave(self, ticket: bytes) -> None:
        """Note that a connection that was charged to *ticket*, its client, has ended.

        The server calls this only for a connection that no stream took.
        """

    def shed(self, client: bytes) -> None:
        """Note that a connection was refused because the process is out of descriptors."""

    def stalled(self, error: int, delay: float) -> None:
        """Note that accepting failed with *error*; the server retries after *delay* seconds."""


class Owner(Protocol):
    """The object that a stream belongs to: a listener's course, or the clients of a loop."""

    @property
    def host(self) -> str | None:
        """The host that its connections were made to, as the program named it; else None."""

    def conn_closed(self, conn: Any) -> None:
        """Note that the socket of *conn* is closed. Called once."""

    def on_draining(self, conn: Any, callback: Callable[[], object] | None) -> None:
        """See `silly.net.conn.Conn.on_draining`."""

    @property
    def count_handshake(self) -> Callable[[Any, str, str | None], object] | None:
        """Counts the handshakes that its handlers do as the server (`start_tls`).

        Called with the connection, with what to count it as, such as ``"TLSv1.3"``, and with
        None; if it failed, with the reason, and with what was wrong. None: nobody counts them.
        """


class Filter(Protocol):
    """Converts a program's bytes (plaintext) to a connection's bytes (on the wire), and back.

    Its methods are called in the event loop, one at a time.
    """

    def open(self, wire: bytes) -> bytes:
        """Take received bytes, and return the plaintext that is complete now, or ``b""``.

        If they are invalid, `error` is set, and the plaintext before that is returned.
        """

    def seal(self, plaintext: bytes) -> bytes:
        """Return the bytes to send for *plaintext*. Called only when `is_ready`.

        Raises:
            OSError: it cannot. The connection ends with this error.
        """

    def pending(self) -> bytes:
        """Return the filter's own bytes to send, and forget them. Called after `open`."""

    def finish(self) -> bytes:
        """Return the last bytes to send, or ``b""``. Neither `seal` nor `finish` follows."""

    @property
    def error(self) -> OSError | None:
        """Why the received bytes are invalid.

        What `pending` returns is still sent (an alert), then the connection ends, and its
        reader gets the error once it has read what was valid.
        """

    @property
    def is_ready(self) -> bool:
        """Whether plaintext can be sealed: False until the handshake is complete."""

    @property
    def is_ended(self) -> bool:
        """Whether the peer's filter has announced the end of its stream.

        A stream that ends without it was cut off (`silly.errors.TruncatedStream`).
        """

    @property
    def info(self) -> Any:
        """What the program may know of it, once it is ready; else None."""

    @property
    def unopened(self) -> int:
        """How many received bytes belong to a message that is not complete yet."""


class Stream(Protocol):
    """One connection: the methods that `silly.net.conn.Conn` documents, and internal ones."""

    def __init__(  # noqa: PLR0917 - keywords cost each connection more
        self,
        carrier: Any,
        loop: asyncio.AbstractEventLoop,
        owner: Owner,
        read_limit: int = ...,
        max_unsent: int = ...,
        linger: float = ...,
        idle_timeout: float | None = None,
        idle_swept: bool = False,
        budget: Budget | None = None,
    ) -> None:
        """Take over *carrier*, which the engine gave to an `Accept`.

        Args:
            idle_swept: `_check_deadlines` is called periodically, so that no timer is needed.
        """

    def read(
        self,
        until: bytes | int | None = None,
        *,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Coroutine[Any, Any, bytes]: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def __anext__(self) -> Awaitable[bytes]: ...
    def batches(
        self, until: bytes | int = b"\n", *, most: int = BATCH, timeout: float | None = None
    ) -> AsyncIterator[list[bytes]]: ...
    def write(self, data: Buffer | Iterable[Buffer]) -> Drain: ...
    def close_write(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    async def wait_closed(self) -> None: ...
    def on_draining(self, callback: Callable[[], object] | None) -> None: ...
    @property
    def _count_handshake(self) -> Callable[[Any, str, str | None], object] | None: ...

    idle_timeout: float | None
    linger: float
    max_unsent: int
    read_limit: int

    @property
    def is_alive(self) -> bool: ...
    @property
    def unread_bytes(self) -> int: ...
    @property
    def unsent_bytes(self) -> int: ...

    _consumer: Consumer | None

    @property
    def _is_closing(self) -> bool:
        """Whether this end called `close` or `abort`."""

    @property
    def _is_closed(self) -> bool:
        """Whether the socket is closed."""

    @property
    def _is_ended(self) -> bool:
        """Whether the peer finished sending."""

    @property
    def _loss(self) -> OSError | None:
        """The error that ended the connection, if this end did not close it."""

    @property
    def _ended_by(self) -> str | None:
        """The limit that ended the connection."""

    @property
    def _waits_for(self) -> str | None:
        """A description of what a reader or writer waits for; None if no task waits."""

    @property
    def _counts(self) -> tuple[int, int]:
        """The program's bytes: received, and written ones that the operating system took."""

    @property
    def _wire_counts(self) -> tuple[int, int]:
        """Bytes that the operating system gave, and bytes that it took."""

    @property
    def _age(self) -> float:
        """Seconds since it was opened."""

    @property
    def _times(self) -> tuple[float, float]:
        """When it was opened and when bytes last moved: seconds since the epoch."""

    @property
    def _held_bytes(self) -> int:
        """Bytes held, unread and unsent, as reported to the budget."""

    @property
    def _fileno(self) -> int:
        """The socket's descriptor; -1 if it is closed, or if there is none."""

    @property
    def _client(self) -> bytes:
        """The peer's IP address as packed bytes (see `Gate`)."""

    @property
    def _host(self) -> str | None:
        """The host that it was connected to (see `Owner`), until it is closed."""

    @property
    def _local_sockaddr(self) -> Any:
        """The local address, in the form that the `socket` module uses."""

    @property
    def _remote_sockaddr(self) -> Any:
        """The peer's address, likewise."""

    @property
    def _proxy(self) -> Any:
        """What a preface set along with the addresses; None if it set nothing."""

    def _set_sockaddrs(self, remote: Any, local: Any, proxy: Any = None) -> None:
        """Report these addresses from now on, and *proxy* (for prefaces)."""

    def _enter(self) -> None:
        """Be served as any other from now on: prefaces have let it in (see `Engine.serve`)."""

    def _discount(self, count: int) -> None:
        """Do not count *count* of the bytes that a preface read."""

    def _check_deadlines(self, now: float, deadlines: Deadlines) -> None:
        """End the connection if one of *deadlines* has passed. Called periodically."""

    def _note_limit(self, limit: str) -> None:
        """Note that *limit*, which a protocol enforces, is what ends the connection."""

    def _expect_more(self) -> None:
        """Note that the peer is probably still sending: `close` waits for its end, up to linger."""

    def _retain(self, count: int) -> None:
        """Note that a protocol keeps *count* of the bytes that it has read: they count as held."""

    def _end_for_limit(self, limit: str, error: OSError) -> None:
        """End the connection because of *limit*, unless it is ending already.

        For ``"memory_budget"``, discard its unread bytes, and reset it even if it lingers.
        """

    def _put_filter(self, filter: Filter, received: bytes = b"") -> None:  # noqa: A002 - its name
        """Use *filter* from now on (see filter.py)."""

    def _send_file(self, file: int, offset: int, count: int) -> int:
        """Have the kernel send a part of a file at once (see filter.py)."""

    @property
    def _has_filter(self) -> bool: ...

    @property
    def _filter_info(self) -> Any:
        """What the filter tells about itself."""

    def _read_now(self) -> bytes:
        """Return what has arrived, without waiting; ``b""`` if nothing has, but may.

        Raises:
            EndOfStream, OSError: nothing will, as a read raises it.
        """

    def _is_ready(self, waiter: asyncio.Future[None]) -> bool:
        """Return whether the filter's handshake is complete; if not, *waiter* is woken later.

        Call it again then. It raises what `_wait_ready` raises.
        """

    async def _wait_ready(self) -> None:
        """Wait until the filter's handshake is complete."""


_Stream = Stream  # as `Engine` has an attribute of this name

Accept = Callable[[Any], Stream]
"""Called once for each connection with the first argument of the engine's `Stream` (a `Link`;
in the native engine a descriptor); returns the new stream. Until the stream exists, the
engine owns the connection, and resets it if this raises; then the stream owns it."""


class Server(Protocol):
    """Accepts connections on one listening socket (see accepting.py)."""

    @property
    def _fileno(self) -> int:
        """The listening socket's descriptor; -1 if it is closed."""

    def accept_queued(self) -> None:
        """Accept the connections that are in the backlog now."""

    def backlog(self) -> tuple[int, int] | None:
        """Return how many connections wait to be accepted, and how many may; None if unknown."""

    def close(self) -> None:
        """Stop accepting and close the listening socket.

        *accept* may still be called soon for connections accepted before.
        """


# ------------------------------------------------------------------------ datagrams

DatagramLimits = tuple[int, int, int, int, bool]
"""The bounds of a datagram socket: the bytes of a received datagram, the datagrams in each
queue, the bytes in the receive queue and in the send queue; and whether `send` raises if its
queue is full."""


class Peer(Hashable, Protocol):
    """Where a datagram came from, and where it can be answered."""

    @property
    def sockaddr(self) -> Any:
        """The address, in the form that the `socket` module uses."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class DatagramOwner(Protocol):
    """The object that a datagram socket belongs to."""

    def socket_closed(self, sock: Any) -> None:
        """Note that *sock* is closed. Called once."""


class Datagrams(Protocol):
    """One datagram socket: the methods that `silly.net.udp.Socket` documents, and internal ones.

    A class derived from it has a property `_address`, the text for error messages, and
    `_peer_of`, which makes a `Peer` of what else `send` is given, or raises.
    """

    def __init__(
        self,
        sock: Any,
        loop: asyncio.AbstractEventLoop,
        owner: DatagramOwner,
        *,
        limits: DatagramLimits,
        answers_from: bool = False,
    ) -> None:
        """Take over *sock*, a bound or connected `socket.socket` that does not block.

        Args:
            answers_from: the socket is bound to all addresses: note which one each datagram
                was sent to, and answer from there (IP_PKTINFO, ip(7)).
        """

    def recv(self, *, timeout: float | None = None) -> Coroutine[Any, Any, tuple[bytes, Peer]]: ...
    def __aiter__(self) -> AsyncIterator[tuple[bytes, Peer]]: ...
    def send(self, data: Buffer, peer: Any = None, *, strict: bool | None = None) -> Drain: ...
    def close(self) -> None: ...
    async def wait_closed(self) -> None: ...

    @property
    def peer(self) -> Peer | None: ...

    @property
    def _is_open(self) -> bool:
        """Whether `close` was not called."""

    @property
    def _waits_for(self) -> str | None:
        """A description of what the reader waits for; None if no task waits."""

    @property
    def _counts(self) -> dict[str, Any]:
        """The fields of `silly.net.udp.SocketStats`, by name."""

    @property
    def _local_sockaddr(self) -> Any:
        """The local address, in the form that the `socket` module uses."""


_Datagrams = Datagrams
_Peer = Peer


class Engine(Protocol):
    """A module that moves bytes."""

    @property
    def NAME(self) -> str:  # noqa: N802 - it is a constant
        """What it is called."""

    @property
    def Stream(self) -> type[_Stream]:  # noqa: N802 - it is a class
        """What it makes of connections."""

    @property
    def Datagrams(self) -> type[_Datagrams]:  # noqa: N802 - it is a class
        """What it makes of datagram sockets."""

    @property
    def Peer(self) -> type[_Peer]:  # noqa: N802 - it is a class
        """The senders of their datagrams; made of a `sockaddr`."""

    @property
    def Account(self) -> type[_Account]:  # noqa: N802 - it is a class
        """The base of a listener's memory budget, which is its streams' `Budget`."""

    @property
    def Admission(self) -> type[_Admission]:  # noqa: N802 - it is a class
        """The base of a listener's `Gate`."""

    @property
    def Starts(self) -> type[Any]:  # noqa: N802 - it is a class
        """The base of a listener's course: connections start and end (starts.py, ends.py)."""

    def serve(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        backlog: int,
        accept: Accept,
        *,
        busy_poll: float,
        gate: Gate,
        are_entering: bool,
    ) -> Server:
        """Accept connections on *sock*, which is listening, until the server is closed.

        The socket belongs to the server from now on. *accept* is called for each
        connection; an exception from it is a defect, and goes to the loop's exception
        handler.

        An engine that supports busy polling polls for *busy_poll* seconds after each event
        before it lets the loop sleep; others ignore this.

        If connections *are_entering*, an engine that decides what is served first accepts and
        serves them after all others, and few at a time, until their `_enter` is called.
        """

    async def attach(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept
    ) -> None:
        """Call *accept* for *sock*, which is connected.

        The socket belongs to the connection from now on, and is closed if this is
        cancelled.
        """

    def disown(self, inherited: object) -> None:
        """In a forked child, close its copies of the descriptors of a stream, server or socket.

        Nothing is sent, and the event loop, which shares its epoll set with the parent's,
        is not touched.
        """

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return a new loop, the best for this engine of those that the program may use."""

    def spin(self, loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None:
        """Alternate between calling *step* and serving ready descriptors, for a short time.

        For busy polling: called repeatedly, each time in a callback of *loop*, not in a
        task. It returns when the loop has something else to do. An engine without its own
        polling calls *step* once. Exceptions from *step* propagate.
        """

    def call_last(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        """Call *callback*, which takes long, once what is ready now has been served."""

    def new_waiter(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return a future that one task awaits.

        If the engine can, its `set_result` steps the task at once.
        """

    def new_callback(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[asyncio.Future[None]], object],
        context: contextvars.Context,
    ) -> asyncio.Future[None]:
        """Return a future that calls *callback* with itself, in *context*, when it is done.

        If the engine can, its `set_result` calls it at once; then a task that `start_task`
        starts meanwhile takes its first step at once, too.
        """

    def specialize(self, kind: Any) -> None:
        """Make calls of the methods of *kind* faster, a class derived from what an engine makes.

        For the class of most connections, or of most datagram sockets.
        """

    def write_each(self, streams: list[Any], data: bytes, limit: int) -> Sequence[int]:
        """Write *data* to those of *streams* that have nothing unsent; return the others' indexes.

        They may have a batch that is sent later in this turn of the loop, of up to *limit* bytes.

        For broadcasts: an engine that can does it faster than by each stream's `write`, and
        without its result. Others are streams that are not open, or have a filter; what is not
        a stream; and on an engine that cannot, all.
        """

    def start_task(  # noqa: PLR0917 - keywords would cost each connection
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, object],
        ended: Callable[[asyncio.Task[Any]], object],
        name: str | None,
        context: contextvars.Context | None,
        ended_context: contextvars.Context,
    ) -> asyncio.Task[Any]:
        """Return a new task that runs *coroutine*, which may be stepped without the task.

        *ended* is called in *ended_context* with the task when that is done, before callbacks
        that are added later: in the loop, but perhaps in the turn in which the task ended.
        """
