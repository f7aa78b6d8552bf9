"""Connections, as programs see them.

`Conn` documents the methods. The stream class of each engine (``silly._engine``) implements
them, and `StreamConn` makes a `Conn` of it; `EngineConn` is that for the engine in use. A kind
of connection that stands on something else derives from `Conn`;
`silly.testing.check_conn` checks that it keeps the promises.
"""

from __future__ import annotations

import asyncio
import io
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from silly._engine import engine
from silly._engine.interface import BATCH, HANDSHAKE_TIMEOUT, Drain, Stream
from silly._engine.stream_errors import Buffer
from silly.net import addr as addresses
from silly.net.batches import ReadBatches
from silly.net.deadline import Deadline
from silly.text import printable

if TYPE_CHECKING:
    import ssl

    from silly.net.tls.config import Client as TLSClient
    from silly.net.tls.config import Server as TLSServer
    from silly.net.tls.info import TLSInfo

__all__ = ["Conn", "ConnStats", "EngineConn", "StreamConn"]


@dataclass(frozen=True, slots=True)
class ConnStats:
    """Statistics of one connection, at the time of the call."""

    bytes_in: int
    """Bytes received, whether read or not."""
    bytes_out: int
    """Bytes written that the operating system has taken."""
    opened_at: float
    """When the connection was made: seconds since the epoch, as `time.time`."""
    last_activity: float
    """When bytes last moved in either direction, likewise."""
    wire_bytes_in: int
    """Bytes received from the network; they differ from `bytes_in` if they are encrypted."""
    wire_bytes_out: int
    """Bytes that the operating system has taken, likewise."""


class Conn(ABC):
    r"""One connection: made by `listen` (for its handler) and by `connect`.

    ``async for line in conn`` yields lines with their ``b"\n"``, and an unfinished
    last line without; the loop ends at the end of the stream.
    A line longer than `read_limit` raises `LimitExceeded`.

    ``async with conn`` closes it at the end of the block, and waits until that
    is done; it aborts it instead if the block is left by cancellation.

    A connection belongs to the event loop that made it and must not be used from
    other threads.
    """

    __slots__ = ()

    # ---------------------------------------------------------------- reading

    @abstractmethod
    def read(
        self,
        until: bytes | int | None = None,
        *,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Coroutine[Any, Any, bytes]:
        r"""Read up to a delimiter, an exact number of bytes, or whatever has arrived.

        ======================  =================================================
        ``await read(b"\n")``   all bytes up to the delimiter, and the delimiter
        ``await read(n)``       exactly *n* bytes; ``read(0)`` is ``b""`` at once
        ``await read()``        all bytes that have arrived, at least one
        ======================  =================================================

        A read loses nothing: after a timeout, a cancellation, `LimitExceeded` or
        `EndOfStream`, the bytes that arrived are kept for the next read.
        Except for ``read()``, what a read returns depends only on the bytes that
        the peer sends, not on how the network splits them.

        A read whose bytes have arrived does not suspend, except once in a thousand
        such reads in a row, to let other tasks run: a client that sends many short
        lines at once does not hold up the others.

        Args:
            until: a delimiter of one byte or more, a number of bytes, or None.
            timeout: the most seconds to wait; 0 takes only what has arrived;
                None waits without limit.
            limit: the most bytes that a delimiter read may return, including
                the delimiter; `read_limit` if None.

        Returns:
            The bytes, never ``b""`` except for ``read(0)``.

        Raises:
            EndOfStream: the peer finished sending, and the unread bytes cannot
                satisfy this read.
            LimitExceeded: the result would certainly be longer than the limit.
            TimeoutError: *timeout* seconds passed; or a limit of the listener or
                `idle_timeout` ended the connection (raised once; `is_alive` is
                then False).
            ConnectionResetError, OSError: the connection was lost; the bytes that
                arrived before can still be read.
            ConnectionClosed: this side called `close` or `abort`.
            ConcurrentRead: another task is already waiting in a read.
            TypeError, ValueError: an argument is of the wrong type or value;
                raised at the call, before the await.
        """

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    @abstractmethod
    def __anext__(self) -> Awaitable[bytes]: ...

    def batches(
        self, until: bytes | int = b"\n", *, most: int = BATCH, timeout: float | None = None
    ) -> AsyncIterator[list[bytes]]:
        r"""Iterate over lines, or frames of a fixed size, by as many as have arrived.

        ::

            async for lines in conn.batches():
                await conn.write([reply(line) for line in lines])

        For protocols whose peers send many messages without waiting for replies: one
        step of the handler serves all that have arrived. Each batch is a list of at
        least one item, and waits for no more than that. Joined, the batches are what
        single reads would return; only how they are grouped depends on the network.
        Between batches nothing is held back: the connection can be read in any other way.

        ================================  ========================================
        ``conn.batches(b"\r\n")``         lines, as ``async for line in conn`` yields
                                          them, but with this delimiter
        ``conn.batches(n)``               frames of exactly *n* bytes
        ================================  ========================================

        At the end of the stream the iteration ends. An unfinished last line is yielded
        as it is; an unfinished last frame raises `EndOfStream`.

        The iterator may be used again after a timeout, a cancellation or `LimitExceeded`:
        like a `read`, it loses nothing.

        Args:
            until: a delimiter of one byte or more, or a number of bytes.
            most: the most items in a batch. They are all taken from bytes that are
                unread, so `read_limit` bounds the bytes; this bounds the number of
                objects, and what is done before other tasks run.
            timeout: the most seconds to wait for each batch; None waits without limit.

        Raises:
            LimitExceeded: a line would certainly be longer than `read_limit`. The lines
                before it were yielded.
            EndOfStream: the stream ended within a frame; `TruncatedStream` if it was cut
                off, as for lines.
            TypeError, ValueError: an argument is of the wrong type or value; raised at
                the call.

        Everything else that `read` raises is raised by the iteration.
        """
        return ReadBatches(self, until, most, timeout)

    # ---------------------------------------------------------------- writing

    @abstractmethod
    def write(self, data: Buffer | Iterable[Buffer]) -> Drain:
        """Queue *data* to be sent; with ``await``, also wait until there is room.

        The call itself never waits: when it returns, all of *data* is queued, in
        the order of the calls, even if they come from several tasks. It is sent
        together with everything else that is written before the task suspends.
        Awaiting the result suspends only while the peer is too slow to take what
        is queued (backpressure).

        Args:
            data: bytes-like, or an iterable of bytes-like objects, sent as if
                joined. Mutable objects are copied during the call.

        Returns:
            An awaitable of None, which `asyncio.create_task` also accepts. It need
            not be awaited. Cancelling it does not unqueue anything: *data* is sent.

        Raises:
            WriteQueueFull: the queue would grow past `max_unsent` bytes; nothing
                of *data* was queued. Cannot happen if every write is awaited. (A
                single write larger than that is accepted while the queue is
                nearly empty.)
            ConnectionClosed: this side called `close`, `abort` or `close_write`.
            ConnectionResetError, BrokenPipeError, OSError: the connection was
                lost. The await also raises this if it happens meanwhile.
            TypeError: *data* is of another type, such as a `str`.
        """

    # -------------------------------------------------------------- deadlines

    def deadline(self, seconds: float | None, *, rate: float | None = None) -> Deadline:
        """Return a time limit for an exchange: everything in a ``with`` block.

        ::

            with conn.deadline(10):
                size = int.from_bytes(await conn.read(4), "big")
                frame = await conn.read(size)

        When the time is up, the connection is ended as by a limit, however the peer
        spread its bytes: a waiting read or write, or the next one, raises
        `TimeoutError`. A handler that ends with that error has ended normally; it is
        counted in `ListenerStats.ended` as ``"deadline"``. The connection is reset if
        the peer has not taken all that was written, otherwise closed. Put into the
        block what the peer owes, from its first byte on, but not the wait for that
        byte, nor your own work. Blocks may be nested; the earliest deadline counts.

        A deadline costs no timer. All open ones are checked at intervals of an eighth
        of the shortest, so a connection is ended up to a quarter of its time limit late.

        Args:
            seconds: for the whole block; None for no limit.
            rate: every *rate* bytes that move, in either direction, extend the deadline
                by one second (for long transfers, such as a file over a slow link).
                None: it is fixed.

        Raises:
            TypeError, ValueError: an argument is not a number above 0.
        """
        return Deadline(self, seconds, rate)

    # ---------------------------------------------------------------- closing

    @abstractmethod
    def close_write(self) -> None:
        """Finish sending: what is queued, then FIN (half-close, shutdown(2)).

        Reading still works; `write` raises `ConnectionClosed`. Does nothing if the
        connection is already closed, half-closed or lost.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection; returns at once. `wait_closed` waits until it is done.

        Queued bytes are still sent, for up to `linger` seconds, then FIN. If the
        peer has not taken them by then, the rest is dropped and the connection
        reset, so that the peer notices. Unread bytes are dropped. A read or write
        waiting in another task raises `ConnectionClosed`, and so does every later
        one. Closing again does nothing.
        """

    @abstractmethod
    def abort(self) -> None:
        """Reset the connection: queued bytes are dropped, and the peer sees a reset.

        A read or write waiting in another task raises `ConnectionClosed`, and so
        does every later one. Also ends the lingering of a `close`.
        """

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until the connection is closed, reset or lost, and its descriptor released.

        Neither closes it nor raises if it was lost. Safe to cancel.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None and issubclass(exc_type, asyncio.CancelledError):
            self.abort()
            return
        self.close()
        await self.wait_closed()

    # -------------------------------------------------------------- properties

    @property
    @abstractmethod
    def local_addr(self) -> str:
        """This end's address, such as ``"127.0.0.1:9999"``.

        Behind a load balancer (`proxy`), the address that the client connected to.
        """

    @property
    @abstractmethod
    def remote_addr(self) -> str:
        """The peer's address, such as ``"127.0.0.1:53124"``; ``"unix:"`` if it has no name.

        Behind a load balancer (`proxy`), the client's.
        """

    @property
    def proxy(self) -> ProxyInfo | None:
        """What the header of the PROXY protocol said; None if none was required.

        See `silly.net.proxy`.
        """
        return None

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """False once this side has closed the connection, or it was lost.

        Still True after the peer finished sending: writing still works.
        """

    @property
    @abstractmethod
    def unread_bytes(self) -> int:
        """How many bytes have arrived and are unread; ``read(unread_bytes)`` returns them."""

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """How many written bytes the operating system has not taken yet."""

    @property
    @abstractmethod
    def read_limit(self) -> int:
        """How many bytes may wait unread before receiving stops; default 1 MiB.

        Also the default limit of a delimiter read. Receiving continues beyond it
        while a read needs more.
        """

    @read_limit.setter
    @abstractmethod
    def read_limit(self, value: int) -> None: ...

    @property
    @abstractmethod
    def max_unsent(self) -> int:
        """How many bytes may wait unsent before `write` refuses more; default 16 MiB."""

    @max_unsent.setter
    @abstractmethod
    def max_unsent(self, value: int) -> None: ...

    @property
    @abstractmethod
    def linger(self) -> float:
        """For how many seconds `close` keeps sending what is queued; default 10."""

    @linger.setter
    @abstractmethod
    def linger(self, value: float) -> None: ...

    @property
    @abstractmethod
    def idle_timeout(self) -> float | None:
        """Seconds without a byte in either direction before the connection is closed; None: never.

        The waiting or next read then raises `TimeoutError`, and so does the next
        write; every later one raises `ConnectionAbortedError`. If bytes are still
        unsent (the peer takes none), the connection is reset.
        """

    @idle_timeout.setter
    @abstractmethod
    def idle_timeout(self, value: float | None) -> None: ...

    @property
    @abstractmethod
    def stats(self) -> ConnStats:
        """Bytes in and out, when the connection was opened, when bytes last moved."""

    # -------------------------------------------------------------------- encryption

    @property
    def tls(self) -> TLSInfo | None:
        """What TLS has negotiated; None if the connection is not encrypted."""
        return None

    async def start_tls(
        self,
        tls: TLSServer | TLSClient | ssl.SSLContext | bool,  # noqa: ARG002
        *,
        server_name: str | None = None,  # noqa: ARG002
        timeout: float | None = HANDSHAKE_TIMEOUT,  # noqa: ARG002
    ) -> None:
        """Encrypt the connection from now on: STARTTLS.

        Call it when both ends have agreed to, as their protocol prescribes: the server after
        it has written its consent, the client after it has read that. Nothing else changes:
        it is the same connection. What was written before is sent unencrypted. Bytes that
        have arrived but were not read take part in the handshake, so nothing that an attacker
        inserted before it is ever read as if it had been encrypted (RFC 3207, section 6).

        Args:
            tls: a `tls.Server` to be the server of the handshake; a `tls.Client`, or True
                for its defaults, to be the client; or an `ssl.SSLContext` for either.
            server_name: for clients, the name that the server's certificate must have. None:
                that of the `tls.Client`, or the host that was connected to.
            timeout: seconds for the handshake; None for no limit.

        Raises:
            ssl.SSLCertVerificationError: the certificate is not valid for that name.
            ssl.SSLError: the handshake failed.
            TimeoutError: it took too long.
            EndOfStream, ConnectionResetError, OSError: the connection ended.
            ConcurrentRead: another task is waiting in a read.
            RuntimeError: the connection is encrypted already.
            TypeError, ValueError: an argument is of the wrong type or value, or there is no
                name to check the certificate for.

            After any of them but the last three, the connection is closed.
        """
        raise io.UnsupportedOperation(f"{type(self).__name__} cannot be encrypted")

    # ------------------------------------------------------------------- its listener

    def on_draining(  # noqa: B027 - most kinds have no listener
        self, callback: Callable[[], object] | None
    ) -> None:
        """Call *callback* once when the connection's listener begins to close.

        For protocols that keep idle connections open: they can close such a connection at
        once, instead of delaying the listener for its grace period. The callback runs in
        the event loop: soon if the listener is closing already, and never if the connection
        has no listener or is closed by then. A later call replaces the callback; None
        removes it.
        """

    @property
    def _state_name(self) -> str:
        return "open" if self.is_alive else "closed"

    def __repr__(self) -> str:
        state = self._state_name
        ends = f"{printable(self.local_addr)} to {printable(self.remote_addr)}"
        return f"<Conn {ends}, {state}>"

    # ---------------------------------------------------------- for `silly.net.deadline`

    def _bytes_moved(self) -> int:
        stats = self.stats
        return stats.bytes_in + stats.bytes_out

    def _end_for_limit(self, limit: str, error: OSError) -> None:  # noqa: ARG002
        """End the connection because of *limit*. A kind that can tell its reader does so."""
        self.abort()


if TYPE_CHECKING:
    from silly.net.proxy.header import ProxyInfo

    class _StreamConn(Stream, Conn): ...

    from silly._engine.portable import Stream as _EngineStream
else:
    _StreamConn = Conn
    _EngineStream = engine.Stream


class StreamConn(_StreamConn):
    """The `Conn` over an engine's stream: ``class MyConn(Stream, StreamConn)``."""

    __slots__ = ()

    @property
    def local_addr(self) -> str:
        """See `Conn.local_addr`."""
        return addresses.format_sockaddr(self._local_sockaddr)

    @property
    def remote_addr(self) -> str:
        """See `Conn.remote_addr`."""
        return addresses.format_sockaddr(self._remote_sockaddr)

    @property
    def proxy(self) -> ProxyInfo | None:
        """See `Conn.proxy`."""
        proxy: ProxyInfo | None = self._proxy
        return proxy

    @property
    def stats(self) -> ConnStats:
        """See `Conn.stats`."""
        bytes_in, bytes_out = self._counts
        wire_bytes_in, wire_bytes_out = self._wire_counts
        opened_at, last_activity = self._times
        return ConnStats(
            bytes_in, bytes_out, opened_at, last_activity, wire_bytes_in, wire_bytes_out
        )

    @property
    def tls(self) -> TLSInfo | None:
        """See `Conn.tls`."""
        info: TLSInfo | None = self._filter_info
        return info

    async def start_tls(
        self,
        tls: TLSServer | TLSClient | ssl.SSLContext | bool,
        *,
        server_name: str | None = None,
        timeout: float | None = HANDSHAKE_TIMEOUT,
    ) -> None:
        """See `Conn.start_tls`."""
        from silly.net.tls.handshake import start  # noqa: PLC0415 - only if it is needed: slow

        await start(self, tls, server_name, timeout)

    @property
    def _state_name(self) -> str:
        return "open" if self.is_alive else "closed" if self._is_closing else "lost"

    def _bytes_moved(self) -> int:
        return sum(self._counts)


class EngineConn(_EngineStream, StreamConn):
    """The `Conn` of the engine in use; what listeners and `connect` make."""

    __slots__ = ()

    def _disown(self) -> None:
        """In a forked child: drop the descriptor, which is the parent's."""
        engine.disown(self)


engine.specialize(EngineConn)
EngineConn.__name__ = EngineConn.__qualname__ = "Conn"  # in errors of programs
