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
import contextvars
import dataclasses
import enum
import errno
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Self

from silly._arguments import positive_seconds, seconds, seconds_or_none, size
from silly._engine import engine
from silly._engine.interface import Server
from silly._engine.stream import LINGER, MAX_UNSENT, READ_LIMIT
from silly._live import Live
from silly.errors import ConnectionClosed, EndOfStream, LimitExceeded, WriteQueueFull
from silly.net import addr as addresses
from silly.net.access_log import AccessLog
from silly.net.addr import TCPAddress
from silly.net.conn import Conn, ConnStats
from silly.net.dialing import dial
from silly.net.gate import Gate
from silly.net.limits import Limits
from silly.net.listening import backlog_overflows, obtain_sockets
from silly.net.observer import Observation, Observer, checked, observers_of
from silly.net.sweep import Sweep

__all__ = [
    "Conn",
    "ConnStats",
    "Limits",
    "Listener",
    "ListenerState",
    "ListenerStats",
    "connect",
    "listen",
]

logger = logging.getLogger("silly.net")

BACKLOG: Final = 128
GRACE: Final = 5.0  # seconds
_AFTER_CANCEL: Final = 1.0  # seconds that a cancelled handler has to clean up
_PASSES: Final = 3  # of the loop, until the portable engine has handed on what it accepted

Handler = Callable[["Conn"], Awaitable[object]]


class ListenerState(enum.StrEnum):
    """Where a listener is in its life; it only ever goes on to the next."""

    STARTING = "starting"
    """Being set up: nothing is accepted yet."""
    ACCEPTING = "accepting"
    """Bound and accepting; so it is when `listen` returns."""
    DRAINING = "draining"
    """`Listener.close` was called: the port is free; handlers finish, or are cancelled."""
    CLOSED = "closed"
    """All handlers and connections are gone."""

    @property
    def _rank(self) -> int:
        return _STATES.index(self)


_STATES: Final = tuple(ListenerState)


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """The record of a listener, at the time of asking."""

    accepted: int
    """Connections accepted so far, and given to a handler."""
    connections: int
    """Connections that are alive now."""
    peak_connections: int
    """The most that were alive at a time."""
    refused: Mapping[str, int]
    """Connections that were reset at once, by reason: a field of `Limits`, or ``"descriptors"``."""
    ended: Mapping[str, int]
    """Connections that a limit ended, by the field of `Limits`."""
    accept_stalls: int
    """How often accepting failed and was put off for a moment: no memory or descriptors left."""
    handler_errors: int
    """Handlers that crashed (lost connections, ended streams and limits do not count)."""
    handler_errors_by_type: Mapping[str, int]
    """The same, by the name of the exception's type."""
    bytes_in: int
    """Bytes received on all connections, past and present."""
    bytes_out: int
    """Bytes sent on all connections, past and present."""
    unsent_bytes: int
    """Bytes queued to be sent now, on all connections."""
    unread_bytes: int
    """Bytes received and not read by the handlers yet, on all connections."""
    backlog_used: int | None
    """Connections that wait to be accepted; None where the system does not tell."""
    backlog_size: int | None
    """How many of them the system lets wait (it may be fewer than asked for)."""
    backlog_overflows: int | None
    """Connections that found a full backlog since this listener began.

    Of all listeners of this machine (of its network namespace): the kernel does
    not count them apart (ListenOverflows of ``/proc/net/netstat``).
    """


if TYPE_CHECKING:
    from silly._engine.stream import Stream as _EngineStream
else:
    _EngineStream = engine.Stream


class _Conn(_EngineStream, Conn):
    """A connection of the engine in use."""

    __slots__ = ()

    def _disown(self) -> None:
        engine.disown(self)


# Losing the connection is how most handlers end; these are no defects of theirs.
_NORMAL_ENDS: Final = (
    EndOfStream,
    ConnectionClosed,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
)
_LIMITS: Final = (LimitExceeded, WriteQueueFull)  # nor are these, but they are counted


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
        limits: Limits,
        observers: tuple[Observer, ...],
    ) -> None:
        self._loop = loop
        self._handler = handler
        self._limits = limits
        self._observers = observers
        self._observed: dict[Conn, Observation] = {}
        self._is_attendant = False  # its connections are not observed
        self._state = ListenerState.STARTING
        self._next_state: asyncio.Future[None] = loop.create_future()
        # A connection is in one of these: with its handler, or lingering after it.
        self._handling: dict[asyncio.Task[Any], Conn] = {}
        self._lingering: set[Conn] = set()
        # Bound once: a method object for each of a million connections would be megabytes.
        self._when_handled = self._handled
        self._context = contextvars.copy_context()  # a copy for each would be as much
        self._when_gone = self._forget
        self._accepted = self._handler_errors = 0
        self._errors_by_type: dict[str, int] = {}
        self._past_bytes_in = self._past_bytes_out = 0
        self._closing: asyncio.Task[None] | None = None
        self._deadline = 0.0
        self._changed = asyncio.Event()  # while closing: something ended, or the deadline moved

        def serve(sock: socket.socket) -> Server:
            return engine.serve(
                loop, sock, backlog, self._accept, busy_poll=busy_poll, gate=self._gate
            )

        opened = obtain_sockets(address, backlog, reuse_port=reuse_port, serve=serve)
        self._release = opened.release
        sockets = opened.sockets
        self._addrs = tuple(addresses.format_sockaddr(sock.getsockname()) for sock in sockets)
        self._task_name = f"{_name(handler)} on {self._addrs[0]}"
        self._overflows_before = backlog_overflows()
        self._gate = Gate(loop, limits, self._addrs[0])
        self._sweep = Sweep(loop, limits, lambda: list(self._handling.values()))
        self._conn_limits: dict[str, Any] = {
            "read_limit": limits.read_limit,
            "max_unsent": limits.max_unsent,
            "linger": limits.linger,
            "idle_timeout": limits.idle_timeout,
            "idle_swept": True,
        }
        self._servers = [serve(sock) for sock in sockets]
        self._enter(ListenerState.ACCEPTING)
        Live.of(loop).listens(self)

    # ------------------------------------------------------------- connections

    def _accept(self, link: Any) -> Conn:
        loop = self._loop
        conn = _Conn(link, loop, self._when_gone, **self._conn_limits)
        if self._closing is not None and loop.time() >= self._deadline:  # too late
            self._lingering.add(conn)
            loop.call_soon(conn.abort)
            return conn
        self._accepted += 1
        context = None
        if (observers := observers_of(self._observers)) and not self._is_attendant:
            observation = self._observed[conn] = Observation(observers, conn, self)
            context = observation.context
        # The name is shared: a string for each of a million tasks would be a tenth of them.
        coroutine = engine.stepped(self._start(conn), loop)
        task = loop.create_task(coroutine, name=self._task_name, context=context)
        self._handling[task] = conn
        task.add_done_callback(self._when_handled, context=self._context)
        self._sweep.start()
        return conn

    def _start(self, conn: Conn) -> Coroutine[Any, Any, object]:
        try:
            handling = self._handler(conn)
        except Exception as error:  # noqa: BLE001 - a plain function's crash is the handler's
            return _raise(error)
        if isinstance(handling, CoroutineType):
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
        how = None
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, _NORMAL_ENDS) or (
                isinstance(error, TimeoutError) and not (conn.is_alive or conn._is_closing)
            ):
                if logger.isEnabledFor(logging.DEBUG):
                    logger.debug("%s: handler ended by %r", conn.remote_addr, error)
            elif isinstance(error, _LIMITS) and error.address == conn.remote_addr:
                limit = "read_limit" if isinstance(error, LimitExceeded) else "max_unsent"
                self._gate.end(limit, conn)
                how = limit
            else:
                how = "handler_error"
                self._handler_errors += 1
                kind = type(error).__name__
                self._errors_by_type[kind] = self._errors_by_type.get(kind, 0) + 1
                logger.error(
                    "%s: handler %s failed", conn.remote_addr, _name(self._handler), exc_info=error
                )
        if self._observed and (observation := self._observed.get(conn)):
            observation.handled(task, how)
            if observation.is_over:
                del self._observed[conn]
        conn.close()
        if not conn._is_gone:
            self._lingering.add(conn)
        if self._closing is not None:
            self._changed.set()

    def _forget(self, conn: Conn) -> None:
        self._gate.leave(conn._client)
        if conn._ended_by is not None:
            self._gate.end(conn._ended_by, conn)
        bytes_in, bytes_out = conn._counts
        self._past_bytes_in += bytes_in
        self._past_bytes_out += bytes_out
        self._lingering.discard(conn)
        if self._observed and (observation := self._observed.get(conn)):
            observation.gone()
            if observation.is_over:
                del self._observed[conn]
        if self._closing is not None:
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
        return self._gate.connections

    @property
    def limits(self) -> Limits:
        """The limits that its connections are under."""
        return self._limits

    @property
    def is_accepting(self) -> bool:
        """False once `close` was called."""
        return self._state is ListenerState.ACCEPTING

    @property
    def state(self) -> ListenerState:
        """Where it is in its life: starting, accepting, draining, closed."""
        return self._state

    async def wait(self, state: ListenerState | str) -> None:
        """Wait until *state* is reached, or was passed already. Safe to cancel.

        Raises:
            ValueError: *state* is not a `ListenerState`, nor the text of one.
        """
        wanted = ListenerState(state)._rank
        while self._state._rank < wanted:
            await asyncio.shield(self._next_state)

    def _enter(self, state: ListenerState) -> None:
        self._state = state
        reached, self._next_state = self._next_state, self._loop.create_future()
        reached.set_result(None)

    @property
    def stats(self) -> ListenerStats:
        """Counts of connections, refusals, errors and bytes. Asks each live connection."""
        bytes_in, bytes_out = self._past_bytes_in, self._past_bytes_out
        unsent = unread = 0
        for conn in self._conns():
            received, sent = conn._counts
            bytes_in += received
            bytes_out += sent
            unsent += conn.unsent_bytes
            unread += conn.unread_bytes
        backlogs = [backlog for server in self._servers if (backlog := server.backlog())]
        overflows = backlog_overflows()
        gate = self._gate
        return ListenerStats(
            accepted=self._accepted,
            connections=gate.connections,
            peak_connections=gate.peak,
            refused=dict(gate.refused.counts),
            ended=dict(gate.ended.counts),
            accept_stalls=sum(gate.stalls.counts.values()),
            handler_errors=self._handler_errors,
            handler_errors_by_type=dict(self._errors_by_type),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            unsent_bytes=unsent,
            unread_bytes=unread,
            backlog_used=sum(used for used, _ in backlogs) if backlogs else None,
            backlog_size=sum(size for _, size in backlogs) if backlogs else None,
            backlog_overflows=(
                None
                if overflows is None or self._overflows_before is None
                else overflows - self._overflows_before
            ),
        )

    def __repr__(self) -> str:
        addrs = " ".join(self._addrs)
        return f"<Listener {addrs}, {self._state}, {self.connections} connections>"

    # ----------------------------------------------------------------- closing

    def close(self, grace: float = GRACE) -> asyncio.Future[None]:
        """Stop accepting at once; let handlers finish, then cancel, then abort.

        The port is free when this returns. Connections that wait in the backlog
        are accepted before, unless *grace* is 0. Handlers have *grace* seconds to
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
            self._deadline = deadline
            for server in self._servers:
                if grace > 0:
                    server.accept_queued()
                server.close()
            self._release()
            self._enter(ListenerState.DRAINING)
            self._closing = self._loop.create_task(self._drain(asyncio.current_task(self._loop)))
        else:
            self._deadline = min(deadline, self._deadline)
            self._changed.set()
            if self._closing.cancelled():  # with all tasks, at the end of the loop
                self._closing = self._loop.create_task(self._drain(None))
        return asyncio.shield(self._closing)

    async def _drain(self, closer: asyncio.Task[Any] | None) -> None:
        own = {closer} if closer is not None and closer in self._handling else set()
        for _ in range(_PASSES if self._deadline > self._loop.time() else 0):
            await asyncio.sleep(0)
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
        self._sweep.stop()
        self._gate.close()
        self._enter(ListenerState.CLOSED)

    async def _wait_drained(self, own: set[asyncio.Task[Any]]) -> None:
        """Wait until handlers and connections are gone, or the deadline."""
        while self._handling.keys() - own or self._gate.connections > len(own):
            self._changed.clear()
            left = self._deadline - self._loop.time()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _disown(self) -> None:
        """In a forked child: have nothing open that is the parent's."""
        for each in (*self._servers, *self._conns()):
            engine.disown(each)

    async def wait_closed(self) -> None:
        """Wait until `close`, by whomever it was called, is done. Safe to cancel."""
        await self.wait(ListenerState.CLOSED)

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


class _Unset(enum.Enum):
    FROM_LIMITS = "from limits"

    def __repr__(self) -> str:
        return "FROM_LIMITS"


FROM_LIMITS: Final = _Unset.FROM_LIMITS


def _checked_limits(limits: Limits | None, **overrides: Any) -> Limits:
    if limits is None:
        limits = Limits.from_env()
    elif not isinstance(limits, Limits):
        raise TypeError(f"limits must be a Limits or None, not {type(limits).__name__}")
    given = {name: value for name, value in overrides.items() if value is not FROM_LIMITS}
    return dataclasses.replace(limits, **given) if given else limits


def listen(
    addr: str,
    handler: Handler,
    backlog: int = BACKLOG,
    *,
    limits: Limits | None = None,
    read_limit: int | _Unset = FROM_LIMITS,
    max_unsent: int | _Unset = FROM_LIMITS,
    linger: float | _Unset = FROM_LIMITS,
    idle_timeout: float | _Unset | None = FROM_LIMITS,
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
            name is resolved before this returns; a signal to stop breaks that off
            (`asyncio.CancelledError`).
        handler: a coroutine function of one argument, the `Conn`.
        backlog: how many connections may wait to be accepted (listen(2)).
        limits: what its clients may take; None for the defaults, or what the
            environment says (`Limits.from_env`).
        read_limit: bytes, instead of what *limits* says; see `Conn.read_limit`.
        max_unsent: bytes, likewise; see `Conn.max_unsent`.
        linger: seconds, likewise; see `Conn.linger`.
        idle_timeout: seconds, or None for no timeout, likewise; see `Limits`.
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
        TypeError, ValueError: an argument, or a variable of the environment, is of
            the wrong type or value.
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
    limits = _checked_limits(
        limits,
        read_limit=read_limit,
        max_unsent=max_unsent,
        linger=linger,
        idle_timeout=idle_timeout,
    )
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
    limits = {
        "read_limit": size(read_limit, "read_limit", least=1),
        "max_unsent": size(max_unsent, "max_unsent", least=1),
        "linger": seconds(linger, "linger"),
        "idle_timeout": positive_seconds(idle_timeout, "idle_timeout"),
    }
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
