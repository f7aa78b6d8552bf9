"""A connection, as programs see it.

`Conn` says what a connection does; the engines do it. Each engine has a stream
class with these methods (``silly._engine``), of which `silly.net.tcp` makes the
connections that `listen` and `connect` give out.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from silly._engine.interface import Deadlines, Drain
from silly._engine.stream_errors import Buffer
from silly.net import addr as addresses
from silly.net.deadline import Deadline
from silly.text import printable

__all__ = ["Conn", "ConnStats"]


@dataclass(frozen=True, slots=True)
class ConnStats:
    """The record of one connection, at the time of asking."""

    bytes_in: int
    """Bytes received, read or not."""
    bytes_out: int
    """Bytes written that the operating system took."""
    opened_at: float
    """When the connection was made: seconds since the epoch, as `time.time`."""
    last_activity: float
    """When bytes last moved, either way; likewise."""


class Conn(ABC):
    r"""One connection: made by `listen` (for its handler) and by `connect`.

    ``async for line in conn`` yields lines with their ``b"\n"``; the peer's
    unfinished last line comes as it is; the loop ends at the end of the stream.
    A line longer than `read_limit` raises `LimitExceeded`.

    ``async with conn`` closes it at the end of the block, and waits until that
    is done; it aborts it instead if the block is left by cancellation.

    A connection belongs to the event loop that made it; it is not for use from
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
        r"""Read up to a delimiter, an exact number of bytes, or whatever is there.

        ======================  =================================================
        ``await read(b"\n")``   all bytes up to the delimiter, and the delimiter
        ``await read(n)``       exactly *n* bytes; ``read(0)`` is ``b""`` at once
        ``await read()``        all bytes that are there, at least one
        ======================  =================================================

        A read loses nothing: after a timeout, a cancellation, `LimitExceeded` or
        `EndOfStream`, the bytes that arrived are still there for the next read.
        Except for ``read()``, what a read returns depends only on the bytes that
        the peer sends, not on how the network cuts them into pieces.

        A read whose bytes are there does not suspend, except that after a thousand
        such reads in a row one gives all others a turn: a client that sends many
        short lines at once keeps nobody waiting.

        Args:
            until: a delimiter of one byte or more, a number of bytes, or None.
            timeout: seconds to wait at most; 0 only looks at what has arrived;
                None waits without end.
            limit: the longest result in bytes, delimiter included, that a
                delimiter read may return; `read_limit` if None.

        Returns:
            The bytes, never ``b""`` except for ``read(0)``.

        Raises:
            EndOfStream: the peer finished sending, and the unread bytes cannot
                satisfy this read.
            LimitExceeded: it is certain that the result would be longer than
                the limit.
            TimeoutError: *timeout* seconds went by; or, once, a limit of the
                listener or `idle_timeout` ended the connection (`is_alive` tells).
            ConnectionResetError, OSError: the connection was lost; what arrived
                before can still be read.
            ConnectionClosed: this side called `close` or `abort`.
            ConcurrentRead: another task is waiting in a read.
            TypeError, ValueError: an argument is of the wrong type or value;
                raised at the call, before the await.
        """

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    @abstractmethod
    def __anext__(self) -> Awaitable[bytes]: ...

    # ---------------------------------------------------------------- writing

    @abstractmethod
    def write(self, data: Buffer | Iterable[Buffer]) -> Drain:
        """Queue *data* to be sent; with ``await``, also wait until there is room.

        The call itself never waits: *data* is queued when it returns, all of it,
        in the order of the calls, whichever tasks make them. It is sent with
        everything else that is written before the task suspends. Awaiting the
        result waits while the peer is too slow to take what is queued
        (backpressure), and only then suspends.

        Args:
            data: bytes-like, or an iterable of bytes-like objects, sent as if
                joined. What is not immutable is copied at the call.

        Returns:
            An awaitable of None, which `asyncio.create_task` takes, too. It need not
            be awaited. Cancelling it takes nothing back: what was queued is sent.

        Raises:
            WriteQueueFull: this would take the queue past `max_unsent` bytes;
                nothing of it was queued. (A single write larger than that is
                accepted while the queue is nearly empty.) Does not happen to
                who awaits each write.
            ConnectionClosed: this side called `close`, `abort` or `close_write`.
            ConnectionResetError, BrokenPipeError, OSError: the connection was
                lost. The await raises this also if it happens while it waits.
            TypeError: *data* is something else, such as a `str`.
        """

    # -------------------------------------------------------------- deadlines

    def deadline(self, seconds: float | None, *, rate: float | None = None) -> Deadline:
        """Return a time limit for an exchange: everything in a ``with`` block.

        ::

            with conn.deadline(10):
                size = int.from_bytes(await conn.read(4), "big")
                frame = await conn.read(size)

        A peer that has not done its part in time, however it spread its bytes, is
        ended as by a limit: a read or write that waits, or the next one, raises
        `TimeoutError`; the handler's end by that is a normal one, counted in
        `ListenerStats.ended` as ``"deadline"``. If the peer has not taken all that
        was written, the connection is reset, else closed. Put into the block what the
        peer owes, from its first byte on: not the wait for that byte, nor work of
        your own. Blocks may be nested; the one that ends first counts.

        It costs no timer. Deadlines are looked at every so often (an eighth of the
        shortest that is open): a connection is ended at its deadline, or up to a
        quarter of it later.

        Args:
            seconds: for the whole block; None for no limit.
            rate: bytes/second that are fast enough: for every *rate* bytes that move,
                either way, the deadline is a second later. For what is long, such as a
                file over a slow link. None: it is not put off.

        Raises:
            TypeError, ValueError: an argument is no number above 0.
        """
        return Deadline(self, seconds, rate)

    # ---------------------------------------------------------------- closing

    @abstractmethod
    def close_write(self) -> None:
        """Finish sending: what is queued, then FIN (half-close, shutdown(2)).

        Reading goes on; `write` raises `ConnectionClosed`. Without effect when
        the connection is closed, half-closed or lost already.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection; returns at once. `wait_closed` waits for the end of it.

        What is queued is still sent, for up to `linger` seconds, then FIN. If the
        peer has not taken it by then, the rest is dropped and the connection
        reset, so that the peer can tell. Unread bytes are dropped. A read or
        write that waits in another task raises `ConnectionClosed`, and so does
        every later one. Closing twice is without effect.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop the connection: what is queued is thrown away, and the peer sees a reset.

        A read or write that waits in another task raises `ConnectionClosed`, and
        so does every later one. Also ends a `close` that still lingers.
        """

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until the connection is gone: closed, reset or lost, its descriptor released.

        Does not close it, and does not raise if it was lost. Safe to cancel.
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
    def local_addr(self) -> str:
        """This end's address, such as ``"127.0.0.1:9999"``."""
        return addresses.format_sockaddr(self._local_sockaddr)

    @property
    def remote_addr(self) -> str:
        """The other end's address, such as ``"127.0.0.1:53124"``; ``"unix:"`` if it has no name."""
        return addresses.format_sockaddr(self._remote_sockaddr)

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """False once this side closed the connection, or it was lost.

        A peer that only finished sending leaves it alive: writing still works.
        """

    @property
    @abstractmethod
    def unread_bytes(self) -> int:
        """How many bytes have arrived and were not read: ``read(unread_bytes)`` gets them."""

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """How many written bytes the operating system has not taken yet."""

    @property
    @abstractmethod
    def read_limit(self) -> int:
        """How many bytes may wait unread before receiving stops; default 1 MiB.

        Also the default limit of a delimiter read. Receiving goes on past it
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
        """For how many seconds `close` goes on sending what is queued; default 10."""

    @linger.setter
    @abstractmethod
    def linger(self, value: float) -> None: ...

    @property
    @abstractmethod
    def idle_timeout(self) -> float | None:
        """Seconds without a byte either way after which the connection is closed; None: never.

        A read that waits, or the next one, then raises `TimeoutError`, and so does
        the next write; every later one `ConnectionAbortedError`. If bytes are still
        unsent (the peer takes none), the connection is reset.
        """

    @idle_timeout.setter
    @abstractmethod
    def idle_timeout(self, value: float | None) -> None: ...

    @property
    def stats(self) -> ConnStats:
        """Bytes in and out, when it was opened, when bytes last moved."""
        bytes_in, bytes_out = self._counts
        opened_at, last_activity = self._times
        return ConnStats(bytes_in, bytes_out, opened_at, last_activity)

    def __repr__(self) -> str:
        state = "open" if self.is_alive else "closed" if self._is_closing else "lost"
        ends = f"{printable(self.local_addr)} to {printable(self.remote_addr)}"
        return f"<Conn {ends}, {state}>"

    # ------------------------------------------------ what the engine's stream tells

    @property
    @abstractmethod
    def _is_closing(self) -> bool: ...

    @property
    @abstractmethod
    def _is_closed(self) -> bool: ...

    @property
    @abstractmethod
    def _is_ended(self) -> bool: ...

    @property
    @abstractmethod
    def _loss(self) -> OSError | None: ...

    @property
    @abstractmethod
    def _waits_for(self) -> str | None: ...

    @property
    @abstractmethod
    def _ended_by(self) -> str | None: ...

    @property
    @abstractmethod
    def _held_bytes(self) -> int: ...

    @abstractmethod
    def _end_for_limit(self, limit: str, error: OSError) -> None: ...

    @abstractmethod
    def _check_deadlines(self, now: float, deadlines: Deadlines) -> None: ...

    @property
    @abstractmethod
    def _client(self) -> bytes: ...

    @property
    @abstractmethod
    def _local_sockaddr(self) -> Any: ...

    @property
    @abstractmethod
    def _remote_sockaddr(self) -> Any: ...

    @property
    @abstractmethod
    def _counts(self) -> tuple[int, int]: ...

    @property
    @abstractmethod
    def _times(self) -> tuple[float, float]: ...
