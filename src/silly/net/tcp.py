r"""TCP (and Unix-socket) services and clients: one coroutine for each connection.

`listen` gives every connection that comes in to a handler; `connect` opens one.
Both speak to the other side through a `Conn`::

    async def echo(conn):
        async for line in conn:
            await conn.write(line)

    tcp.listen("127.0.0.1:9999", echo)
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from silly._arguments import seconds, seconds_or_none, size
from silly._engine import engine
from silly._engine.stream import LINGER, MAX_UNSENT, READ_LIMIT
from silly._live import Live
from silly.errors import ConnectionClosed, EndOfStream
from silly.net import addr as addresses
from silly.net.access_log import AccessLog
from silly.net.addr import TCPAddress, UnixAddress
from silly.net.conn import Conn, ConnStats
from silly.net.dialing import dial
from silly.net.listening import open_sockets, unlink_path
from silly.net.observer import Observation, Observer, checked, observers_of

__all__ = ["Conn", "ConnStats", "Listener", "ListenerStats", "connect", "listen"]

logger = logging.getLogger("silly.net")

BACKLOG: Final = 128
GRACE: Final = 5.0  # seconds
_AFTER_CANCEL: Final = 1.0  # seconds that a cancelled handler has to clean up

Handler = Callable[["Conn"], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """The record of a listener, at the time of asking."""

    accepted: int
    """Connections accepted so far."""
    connections: int
    """Connections that are alive now."""
    handler_errors: int
    """Handlers that crashed (lost connections and ended streams do not count)."""
    bytes_in: int
    """Bytes received on all connections, past and present."""
    bytes_out: int
    """Bytes sent on all connections, past and present."""


if TYPE_CHECKING:
    from silly._engine.stream import Stream as _EngineStream
else:
    _EngineStream = engine.Stream


class _Conn(_EngineStream, Conn):
    """A connection of the engine in use."""

    __slots__ = ()


# Losing the connection is how most handlers end; these are no defects of theirs.
_NORMAL_ENDS: Final = (
    EndOfStream,
    ConnectionClosed,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
)


class Listener:
    """Accepts connections and runs a handler for each; `listen` makes them.

    ``async with listener`` closes it at the end of the block, with the default
    grace.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        address: addresses.Address,
        backlog: int,
        *,
        reuse_port: bool,
        busy_poll: float,
        limits: dict[str, Any],
        observers: tuple[Observer, ...],
    ) -> None:
        self._loop = loop
        self._handler = handler
        self._limits = limits
        self._observers = observers
        self._observed: dict[Conn, Observation] = {}
        # A connection is in one of these: with its handler, or lingering after it.
        self._handling: dict[asyncio.Task[Any], Conn] = {}
        self._lingering: set[Conn] = set()
        self._alive = 0
        # Bound once: a method object for each of a million connections would be megabytes.
        self._when_handled = self._handled
        self._when_gone = self._forget
        self._accepted = self._handler_errors = 0
        self._past_bytes_in = self._past_bytes_out = 0
        self._accepting = True
        self._closing: asyncio.Task[None] | None = None
        self._deadline = 0.0
        self._changed = asyncio.Event()  # a connection or handler ended, or the deadline moved
        self._closed: asyncio.Future[None] = loop.create_future()
        self._path = address.path if isinstance(address, UnixAddress) else None

        sockets = open_sockets(address, backlog, reuse_port=reuse_port)
        self._addrs = tuple(addresses.format_sockaddr(sock.getsockname()) for sock in sockets)
        self._task_name = f"{_name(handler)} on {self._addrs[0]}"
        self._servers = [
            engine.serve(loop, sock, backlog, self._accept, busy_poll) for sock in sockets
        ]
        Live.of(loop).listeners.add(self)

    # ------------------------------------------------------------- connections

    def _accept(self, link: Any) -> Conn:
        conn = _Conn(link, self._loop, self._when_gone, **self._limits)
        self._alive += 1
        if not self._accepting:  # it was in the backlog when this listener closed
            self._lingering.add(conn)
            self._loop.call_soon(conn.abort)
            return conn
        self._accepted += 1
        context = None
        if observers := observers_of(self._observers):
            observation = self._observed[conn] = Observation(observers, conn, self)
            context = observation.context
        # The name is shared: a string for each of a million tasks would be a tenth of them.
        coroutine = engine.stepped(self._start(conn))
        task = self._loop.create_task(coroutine, name=self._task_name, context=context)
        self._handling[task] = conn
        task.add_done_callback(self._when_handled)
        return conn

    def _start(self, conn: Conn) -> Coroutine[Any, Any, object]:
        try:
            handling = self._handler(conn)
        except Exception as error:  # noqa: BLE001 - a plain function's crash is the handler's
            return _raise(error)
        if inspect.iscoroutine(handling):
            return handling
        if inspect.isawaitable(handling):
            return _await(handling)
        return _raise(
            TypeError(
                f"handler {_name(self._handler)} returned {type(handling).__name__}, not a "
                f"coroutine: declare it with `async def`"
            )
        )

    def _handled(self, task: asyncio.Task[Any]) -> None:
        conn = self._handling.pop(task)
        crashed = False
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, _NORMAL_ENDS) or (
                isinstance(error, TimeoutError) and not (conn.is_alive or conn._is_closing)
            ):
                logger.debug("%s: handler ended by %r", conn.remote_addr, error)
            else:
                crashed = True
                self._handler_errors += 1
                logger.error(
                    "%s: handler %s failed", conn.remote_addr, _name(self._handler), exc_info=error
                )
        if self._observed and (observation := self._observed.get(conn)):
            observation.handled(task, crashed=crashed)
            if observation.is_over:
                del self._observed[conn]
        conn.close()
        if not conn._is_gone:
            self._lingering.add(conn)
        self._changed.set()

    def _forget(self, conn: Conn) -> None:
        self._alive -= 1
        bytes_in, bytes_out = conn._counts
        self._past_bytes_in += bytes_in
        self._past_bytes_out += bytes_out
        self._lingering.discard(conn)
        if self._observed and (observation := self._observed.get(conn)):
            observation.gone()
            if observation.is_over:
                del self._observed[conn]
        self._changed.set()

    def _conns(self) -> list[Conn]:
        """All connections that are alive."""
        handled = [conn for conn in self._handling.values() if not conn._is_gone]
        return [*handled, *self._lingering]

    # -------------------------------------------------------------- properties

    @property
    def local_addr(self) -> str:
        """The address it listens on, with the port that was picked for port 0.

        Of several (``":9999"``, ``"localhost:9999"``), the first; see `local_addrs`.
        """
        return self._addrs[0]

    @property
    def local_addrs(self) -> tuple[str, ...]:
        """All addresses it listens on; they share one port."""
        return self._addrs

    @property
    def connections(self) -> int:
        """How many connections are alive now, those that are being closed included."""
        return self._alive

    @property
    def is_accepting(self) -> bool:
        """False once `close` was called."""
        return self._accepting

    @property
    def stats(self) -> ListenerStats:
        """Counts of connections, handler errors and bytes."""
        live = [conn._counts for conn in self._conns()]
        return ListenerStats(
            accepted=self._accepted,
            connections=self._alive,
            handler_errors=self._handler_errors,
            bytes_in=self._past_bytes_in + sum(bytes_in for bytes_in, _ in live),
            bytes_out=self._past_bytes_out + sum(bytes_out for _, bytes_out in live),
        )

    def __repr__(self) -> str:
        state = "accepting" if self._accepting else "closed" if self._closed.done() else "closing"
        return f"<Listener {' '.join(self._addrs)}, {state}, {self._alive} connections>"

    # ----------------------------------------------------------------- closing

    def close(self, grace: float = GRACE) -> asyncio.Future[None]:
        """Stop accepting at once; let handlers finish, then cancel, then abort.

        The port is free when this returns. Handlers have *grace* seconds to
        finish and have their last bytes sent; those still running are then
        cancelled, and connections that are still there after that are reset.
        Awaiting the result waits for all of it; cancelling that wait, or not
        awaiting it, does not stop the closing. Called again, it can only
        shorten the grace. A handler may close its own listener; it is not
        waited for, nor cancelled.

        Args:
            grace: seconds; 0 cancels at once.

        Raises:
            TypeError, ValueError: *grace* is not a number of seconds; at the call.
        """
        deadline = self._loop.time() + seconds(grace, "grace")
        if self._closing is None:
            self._accepting = False
            for server in self._servers:
                server.close()
            if self._path is not None:
                unlink_path(self._path)
            self._deadline = deadline
            self._closing = self._loop.create_task(self._drain(asyncio.current_task(self._loop)))
        else:
            self._deadline = min(deadline, self._deadline)
            self._changed.set()
        return asyncio.shield(self._closing)

    async def _drain(self, closer: asyncio.Task[Any] | None) -> None:
        own = {closer} if closer is not None and closer in self._handling else set()
        await self._wait_drained(own)
        for task in self._handling.keys() - own:
            task.cancel()
        if self._handling.keys() - own:
            self._deadline = self._loop.time() + _AFTER_CANCEL
            await self._wait_drained(own)
        for task in self._handling.keys() - own:
            logger.warning(
                "handler %s goes on although it was cancelled: %r", _name(self._handler), task
            )
        for conn in self._conns():
            if not own or conn._is_closing:
                conn.abort()
        if not own:  # aborted: they leave within a pass or two of the loop
            self._deadline = self._loop.time() + _AFTER_CANCEL
            await self._wait_drained({*self._handling})
        live = Live.of(self._loop)
        live.listeners.discard(self)
        live.left()
        if not self._closed.done():
            self._closed.set_result(None)

    async def _wait_drained(self, own: set[asyncio.Task[Any]]) -> None:
        """Wait until handlers and connections are gone, or the deadline."""
        while self._handling.keys() - own or self._alive > len(own):
            self._changed.clear()
            left = self._deadline - self._loop.time()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def wait_closed(self) -> None:
        """Wait until `close`, by whomever it was called, is done. Safe to cancel."""
        await asyncio.shield(self._closed)

    async def serve_forever(self) -> None:
        """Wait until the listener is closed; if this is cancelled, close it (default grace)."""
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            await self.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _raise(error: Exception) -> object:
    raise error


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _name(handler: Handler) -> str:
    return getattr(handler, "__qualname__", None) or repr(handler)


def _running_loop(what: str) -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            f"tcp.{what}() needs a running event loop: start the script with "
            "`silly FILE.py`, or call it inside silly.run(main())"
        ) from None


def _checked_limits(
    read_limit: int, max_unsent: int, linger: float, idle_timeout: float | None
) -> dict[str, Any]:
    idle_timeout = seconds_or_none(idle_timeout, "idle_timeout")
    if idle_timeout == 0:
        raise ValueError("idle_timeout must be more than 0 seconds, or None for no timeout")
    return {
        "read_limit": size(read_limit, "read_limit", least=1),
        "max_unsent": size(max_unsent, "max_unsent", least=1),
        "linger": seconds(linger, "linger"),
        "idle_timeout": idle_timeout,
    }


def listen(
    addr: str,
    handler: Handler,
    backlog: int = BACKLOG,
    *,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    linger: float = LINGER,
    idle_timeout: float | None = None,
    reuse_port: bool = False,
    busy_poll: float = 0,
    access_log: bool = False,
    observer: Observer | None = None,
) -> Listener:
    """Listen on *addr* and run ``handler(conn)`` in a task of its own for each connection.

    When this returns, the socket is bound and connections are queued; port 0 has
    been replaced by a free one (`Listener.local_addr`). When a handler returns
    or raises, its connection is closed. `EndOfStream` and the loss of the
    connection are normal ends of a handler; any other exception is logged with
    the peer's address, counted, and hurts no other connection.

    Args:
        addr: ``"127.0.0.1:9999"``, ``"[::1]:9999"``, ``":9999"`` (all interfaces,
            IPv4 and IPv6), ``"localhost:9999"`` or ``"unix:/run/x.sock"``. A host
            name is resolved before this returns.
        handler: a coroutine function of one argument, the `Conn`.
        backlog: how many connections may wait to be accepted (listen(2)).
        read_limit: bytes; see `Conn.read_limit`.
        max_unsent: bytes; see `Conn.max_unsent`.
        linger: seconds; see `Conn.linger`.
        idle_timeout: seconds, or None; see `Conn.idle_timeout`.
        reuse_port: let several processes listen on the same port (SO_REUSEPORT,
            socket(7)).
        busy_poll: seconds for which the event loop goes on looking for more after
            each event, before it sleeps. Spends processor time to save the time
            that waking up takes: with few connections that is most of a round
            trip. 0.0001 is a good value on a core of its own. Of several
            listeners on one loop the largest counts. The portable engine sleeps
            all the same.
        access_log: log a line for each connection when it is over, to the logger
            ``silly.access``; see `silly.net.access_log`.
        observer: what is told of each connection; see `silly.net.observer`.

    Raises:
        OSError: the address is in use (EADDRINUSE), not of this machine, not
            permitted, or its name cannot be resolved; the address is in it.
        TypeError, ValueError: an argument is of the wrong type or value.
        RuntimeError: no event loop is running.
    """
    address = addresses.parse(addr)
    if not callable(handler):
        raise TypeError(
            f"handler must be a coroutine function taking the connection, "
            f"not {type(handler).__name__}"
        )
    size(backlog, "backlog", least=1)
    busy_poll = seconds(busy_poll, "busy_poll")
    limits = _checked_limits(read_limit, max_unsent, linger, idle_timeout)
    observers = () if observer is None else (checked(observer),)
    if access_log:
        observers = (*observers, AccessLog())
    loop = _running_loop("listen")
    return Listener(
        loop,
        handler,
        address,
        backlog,
        reuse_port=reuse_port,
        busy_poll=busy_poll,
        limits=limits,
        observers=observers,
    )


def connect(
    addr: str,
    *,
    timeout: float | None = None,
    bind: str | None = None,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    linger: float = LINGER,
    idle_timeout: float | None = None,
) -> Coroutine[Any, Any, Conn]:
    """Connect to *addr*.

    A name that has several addresses is tried at all of them, one joining the
    race every 250 ms, families taking turns (RFC 8305); the first to answer
    wins.

    Args:
        addr: as for `listen`; ``":9999"`` is this machine.
        timeout: seconds for all of it, resolving included; None leaves it to the
            operating system (minutes).
        bind: the local address to connect from, such as ``"127.0.0.2:0"``.
        read_limit: bytes; see `Conn.read_limit`.
        max_unsent: bytes; see `Conn.max_unsent`.
        linger: seconds; see `Conn.linger`.
        idle_timeout: seconds, or None; see `Conn.idle_timeout`.

    Returns:
        The connection. Close it, or use it in ``async with``.

    Raises:
        ConnectionRefusedError: nobody listens there.
        TimeoutError: no answer in time.
        OSError: unreachable, unresolvable (`socket.gaierror`), and so on; the
            address is in it. When several addresses were tried, the error of the
            first, with notes about each.
        TypeError, ValueError: an argument is of the wrong type or value; raised
            at the call, before the await.
    """
    address = addresses.parse(addr)
    if isinstance(address, TCPAddress) and address.port == 0:
        raise ValueError(f"addr {addr!r} has port 0: that is for listening, name the peer's port")
    local: TCPAddress | None = None
    if bind is not None:
        parsed = addresses.parse(bind, "bind")
        if not isinstance(parsed, TCPAddress) or not isinstance(address, TCPAddress):
            raise ValueError(f"bind {bind!r} to {addr!r}: only TCP connections can be bound")
        local = parsed
    timeout = seconds_or_none(timeout, "timeout")
    limits = _checked_limits(read_limit, max_unsent, linger, idle_timeout)
    return _connect(address, timeout, local, limits)


async def _connect(
    address: addresses.Address,
    timeout: float | None,
    bind: TCPAddress | None,
    limits: dict[str, Any],
) -> Conn:
    loop = asyncio.get_running_loop()
    live = Live.of(loop)
    made: list[Conn] = []

    def forget(conn: Conn) -> None:
        live.conns.discard(conn)
        live.left()

    def accept(link: Any) -> Conn:
        conn = _Conn(link, loop, forget, **limits)
        live.conns.add(conn)
        made.append(conn)
        return conn

    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            await engine.attach(loop, await dial(loop, address, bind), accept)
    except BaseException as error:
        for conn in made:
            conn.abort()
        if isinstance(error, TimeoutError) and limit.expired():
            raise TimeoutError(
                errno.ETIMEDOUT, f"Not connected within {timeout:g} seconds", str(address)
            ) from None
        raise
    return made[0]
