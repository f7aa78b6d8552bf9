r"""TCP (and Unix-socket) services and clients: one coroutine for each connection.

`listen` runs a handler for every incoming connection; `connect` opens one.
Both use a `Conn`::

    async def echo(conn):
        async for line in conn:
            await conn.write(line)

    tcp.listen("127.0.0.1:9999", echo)
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import enum
import errno
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Self

from silly._arguments import positive_seconds, seconds, seconds_or_none, size
from silly._awaitables import Closing, Connecting
from silly._engine import complaints, engine
from silly._engine.interface import Server
from silly._engine.stream import LINGER, MAX_UNSENT, READ_LIMIT
from silly._live import INTERNAL_TASK, Live
from silly._logger import Logger
from silly._tracebacks import clarify
from silly._units import counted
from silly.errors import LimitExceeded, WriteQueueFull
from silly.net import addr as addresses
from silly.net.access_log import AccessLog
from silly.net.addr import TCPAddress, UnixAddress
from silly.net.budget import MemoryBudget, memory_of
from silly.net.conn import Conn, ConnStats
from silly.net.dialing import dial
from silly.net.gate import Gate
from silly.net.limits import Limits
from silly.net.listening import backlog_overflows, obtain_sockets
from silly.net.observer import Observation, Observer, checked, observers_of
from silly.net.sweep import Sweep, deadlines_of
from silly.net.tally import Tally
from silly.text import printable

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

logger = Logger("silly.net")

BACKLOG: Final = 128
GRACE: Final = 5.0  # seconds
_AFTER_CANCEL: Final = 1.0  # seconds that a cancelled handler has to clean up
_DRAINING: Final = f"{INTERNAL_TASK}closing a listener"
_SUM_BATCH: Final = 500  # connections whose bytes are summed up without a pause
_PASSES: Final = 3  # of the loop, for the portable engine to pass on what it has accepted

Handler = Callable[["Conn"], Awaitable[object]]


class ListenerState(enum.StrEnum):
    """The states of a listener, which it passes through in this order."""

    STARTING = "starting"
    """Being set up: nothing is accepted yet."""
    ACCEPTING = "accepting"
    """Bound and accepting: the state when `listen` returns."""
    DRAINING = "draining"
    """`Listener.close` was called: the port is free; handlers finish or are cancelled."""
    CLOSED = "closed"
    """All handlers and connections are gone."""

    @property
    def _rank(self) -> int:
        return _STATES.index(self)


_STATES: Final = tuple(ListenerState)


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """Statistics of a listener, at the time of the call."""

    accepted: int
    """Connections accepted so far, with a handler started for each."""
    connections: int
    """Connections open now."""
    peak_connections: int
    """The most connections that were open at the same time."""
    refused: Mapping[str, int]
    """Connections reset on arrival, by reason: a field of `Limits`, or ``"descriptors"``."""
    ended: Mapping[str, int]
    """Connections that a limit ended, by the field of `Limits`."""
    accept_stalls: int
    """How often accepting failed for lack of memory or descriptors, and was paused."""
    handler_errors: int
    """Handlers that crashed (ends of their own connections, and limits, do not count)."""
    handler_errors_by_type: Mapping[str, int]
    """The same, by exception type; types beyond the first 100 count as ``"other"``."""
    bytes_in: int
    """Bytes received on all connections, past and present."""
    bytes_out: int
    """Bytes sent on all connections, past and present."""
    unsent_bytes: int
    """Bytes queued for sending now, on all connections."""
    unread_bytes: int
    """Bytes received but not yet read by the handlers, on all connections."""
    held_bytes: int
    """Memory held now for such bytes, as counted for `Limits.memory_budget`."""
    memory_budget: int | None
    """The limit of `held_bytes`, in bytes; None: no limit."""
    backlog_used: int | None
    """Connections waiting to be accepted; None where the system does not say."""
    backlog_size: int | None
    """How many connections the system lets wait (possibly fewer than requested)."""
    backlog_overflows: int | None
    """Connections dropped because of a full backlog, since this listener was made.

    Counts all listeners of this machine (network namespace), because the kernel does
    not separate them (ListenOverflows in ``/proc/net/netstat``).
    """


if TYPE_CHECKING:
    from silly._engine.stream import Stream as _EngineStream
else:
    _EngineStream = engine.Stream


class _Conn(_EngineStream, Conn):
    """The `Conn` of the engine in use."""

    __slots__ = ()

    def _disown(self) -> None:
        engine.disown(self)


class Listener:
    """Accepts connections and runs a handler for each; made by `listen`.

    ``async with listener`` closes it at the end of the block, with the default
    grace period.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        address: addresses.Address,
        backlog: int,
        *,
        reuse_port: bool,
        mode: int | None,
        busy_poll: float,
        limits: Limits,
        observers: tuple[Observer, ...],
    ) -> None:
        self._loop = loop
        self._handler = handler
        self._limits = limits
        self._observers = observers
        self._observed: dict[Conn, Observation] = {}
        self._is_auxiliary = False  # if True, its connections are not observed
        self._state = ListenerState.STARTING
        self._next_state: asyncio.Future[None] = loop.create_future()
        # Each connection is in one of these: while its handler runs, or lingering after it.
        self._handling: dict[asyncio.Task[Any], Conn] = {}
        self._lingering: set[Conn] = set()
        # Shared by all connections: with a million of them, a bound method or a context for
        # each would take megabytes.
        self._on_handled = self._handled
        self._on_gone = self._forget
        self._context = contextvars.copy_context()
        self._accepted = 0
        self._crashes = Tally(loop, self._summarize_crashes)  # by type
        self._observer_failures = Tally(loop, self._summarize_observer_failures)
        self._past_bytes_in = self._past_bytes_out = 0
        self._closing: asyncio.Task[None] | None = None
        self._deadline = 0.0
        self._changed = asyncio.Event()  # while closing: something ended, or the deadline moved

        def serve(sock: socket.socket) -> Server:
            return engine.serve(
                loop, sock, backlog, self._accept, busy_poll=busy_poll, gate=self._gate
            )

        opened = obtain_sockets(address, backlog, reuse_port=reuse_port, mode=mode, serve=serve)
        self._release = opened.release
        sockets = opened.sockets
        self._addrs = tuple(addresses.format_sockaddr(sock.getsockname()) for sock in sockets)
        self._handler_name = _name(handler)
        self._task_name = f"{self._handler_name} on {self._addrs[0]}"
        self._overflows_before = backlog_overflows()
        self._gate = Gate(loop, limits, self._addrs[0])
        self._deadlines, self._sweep_interval = deadlines_of(limits)
        self._sweep = Sweep(loop, lambda: list(self._handling.values()), self._check_deadlines)
        self._budget = MemoryBudget(loop, memory_of(limits), self._all_conns)
        self._conn_limits: dict[str, Any] = {
            "read_limit": limits.read_limit,
            "max_unsent": limits.max_unsent,
            "linger": limits.linger,
            "idle_timeout": limits.idle_timeout,
            "idle_swept": True,
            "budget": self._budget,
        }
        self._servers: list[Server] = []
        try:
            for sock in sockets:
                _limit_send_time(sock, limits)
                self._servers.append(serve(sock))
        except BaseException:
            for server in self._servers:
                server.close()
            for sock in sockets:
                sock.close()
            self._release()
            raise
        self._enter(ListenerState.ACCEPTING)
        Live.of(loop).add_listener(self)

    # ------------------------------------------------------------- connections

    def _accept(self, link: Any) -> Conn:
        loop = self._loop
        conn = _Conn(link, loop, self._on_gone, **self._conn_limits)
        if self._closing is not None and loop.time() >= self._deadline:  # too late
            self._lingering.add(conn)
            loop.call_soon(conn.abort)
            return conn
        try:
            self._serve(conn)
        except BaseException:
            conn.abort()
            raise
        self._accepted += 1
        return conn

    def _serve(self, conn: Conn) -> None:
        """Run the handler for *conn*."""
        loop = self._loop
        context = None
        if (observers := observers_of(self._observers)) and not self._is_auxiliary:
            observation = self._observed[conn] = Observation(observers, conn, self)
            context = observation.context
        # The task name is shared: with a million tasks, a string for each would be a tenth of
        # their memory.
        handling = self._call_handler(conn)
        try:
            coroutine = engine.stepped(handling, loop)
            task = loop.create_task(coroutine, name=self._task_name, context=context)
        except BaseException as error:
            handling.close()
            if (failed := self._observed.get(conn)) is not None:
                failed.failed(error)
            raise
        self._handling[task] = conn
        task.add_done_callback(self._on_handled, context=self._context)
        self._sweep.start(self._sweep_interval)

    def _check_deadlines(self, conn: Conn, now: float) -> bool:
        conn._look_back(now, self._deadlines)
        return conn._ended_by is not None

    def _all_conns(self) -> list[Conn]:
        return [*self._handling.values(), *self._lingering]

    def _call_handler(self, conn: Conn) -> Coroutine[Any, Any, object]:
        try:
            handling = self._handler(conn)
        except BaseException as error:  # noqa: BLE001 - a plain function may crash, too
            return _raise(error)
        if isinstance(handling, CoroutineType):
            return handling
        if inspect.isawaitable(handling):
            return _await(handling)
        return _raise(
            TypeError(
                f"handler {self._handler_name} returned {type(handling).__name__}, not a "
                f"coroutine: declare it with `async def`"
            )
        )

    # When a connection ends, it is counted, closed and forgotten first; what may raise or
    # take long (logging, observers) comes last.

    def _handled(self, task: asyncio.Task[Any]) -> None:
        conn = self._handling.pop(task)
        error = None if task.cancelled() else task.exception()
        how = None if error is None else _fault(conn, error)
        log_it = False
        if how == "handler_error":
            log_it = self._crashes.add(printable(type(error).__name__))
        elif how is not None:
            log_it = self._gate.end(how)
        if self._observed and (observation := self._observed.get(conn)):
            observation.handled(task, how)
        try:
            conn.close()
        finally:
            if not conn._is_gone:
                self._lingering.add(conn)
            if self._closing is not None:
                self._changed.set()
        if error is not None:
            self._log_error(conn, error, how, log_it=log_it)
        self._notify_if_over(conn)

    def _log_error(
        self, conn: Conn, error: BaseException, how: str | None, *, log_it: bool
    ) -> None:
        if how is None:
            if logger.is_enabled_for(logging.DEBUG):
                logger.debug("%s: handler ended by %r", conn.remote_addr, error)
        elif log_it and how == "handler_error":
            clarify(error, whole=self._loop.get_debug())
            logger.error(
                "%s: handler %s failed", conn.remote_addr, self._handler_name, exc_info=error
            )
        elif log_it:
            self._gate.log_end(how, conn)

    def _forget(self, conn: Conn) -> None:
        self._gate.leave(conn._client)
        limit = conn._ended_by
        log_it = limit is not None and self._gate.end(limit)
        bytes_in, bytes_out = conn._counts
        self._past_bytes_in += bytes_in
        self._past_bytes_out += bytes_out
        self._lingering.discard(conn)
        if self._closing is not None:
            self._changed.set()
        if self._observed and (observation := self._observed.get(conn)):
            observation.gone()
        if limit is not None and log_it:
            self._gate.log_end(limit, conn)
        self._notify_if_over(conn)

    def _notify_if_over(self, conn: Conn) -> None:
        if self._observed and (observation := self._observed.get(conn)) and observation.is_over:
            del self._observed[conn]
            observation.notify_closed()

    def _summarize_crashes(self, kind: str, count: int) -> None:
        logger.error(
            "%s: handler %s failed %s: %s",
            self._addrs[0],
            self._handler_name,
            counted(count, "more time"),
            kind,
        )

    def _summarize_observer_failures(self, which: str, count: int) -> None:
        logger.error(
            "%s: observer %s failed %s", self._addrs[0], which, counted(count, "more time")
        )

    def _conns(self) -> list[Conn]:
        """Return the connections that are open."""
        handled = [conn for conn in self._handling.values() if not conn._is_gone]
        return [*handled, *self._lingering]

    # -------------------------------------------------------------- properties

    @property
    def local_addr(self) -> str:
        """The address that it listens on, with the port that was picked for port 0.

        If there are several (``":9999"``, ``"localhost:9999"``), the first; see `local_addrs`.
        """
        return self._addrs[0]

    @property
    def local_addrs(self) -> tuple[str, ...]:
        """All addresses that it listens on; they share one port."""
        return self._addrs

    @property
    def connections(self) -> int:
        """How many connections are open now, including those being closed."""
        return self._gate.connections

    @property
    def limits(self) -> Limits:
        """The limits of its connections."""
        return self._limits

    @property
    def is_accepting(self) -> bool:
        """False once `close` has been called."""
        return self._state is ListenerState.ACCEPTING

    @property
    def state(self) -> ListenerState:
        """The state of the listener: starting, accepting, draining or closed."""
        return self._state

    async def wait(self, state: ListenerState | str) -> None:
        """Wait until *state* is reached or passed. Safe to cancel.

        Raises:
            ValueError: *state* is neither a `ListenerState` nor the text of one.
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
        """Counts of connections, refusals, errors and bytes; takes time for each connection."""
        *_, sums = self._sums()
        return self._stats(*sums)

    async def _stats_in_batches(self) -> ListenerStats:
        """Return `stats`, letting the event loop run between batches of connections."""
        sums = (0, 0, 0, 0)
        for sums in self._sums():  # noqa: B007
            await asyncio.sleep(0)
        return self._stats(*sums)

    def _sums(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield running sums of the bytes in, out, unsent and unread, after each batch.

        A connection that ends between batches is counted exactly once: the sums of past
        connections are read first, and the list of open ones is made then.
        """
        bytes_in, bytes_out = self._past_bytes_in, self._past_bytes_out
        unsent = unread = 0
        for number, conn in enumerate(self._conns(), 1):
            received, sent = conn._counts
            bytes_in += received
            bytes_out += sent
            unsent += conn.unsent_bytes
            unread += conn.unread_bytes
            if number % _SUM_BATCH == 0:
                yield bytes_in, bytes_out, unsent, unread
        yield bytes_in, bytes_out, unsent, unread

    def _stats(self, bytes_in: int, bytes_out: int, unsent: int, unread: int) -> ListenerStats:
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
            handler_errors=sum(self._crashes.counts.values()),
            handler_errors_by_type=dict(self._crashes.counts),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            unsent_bytes=unsent,
            unread_bytes=unread,
            held_bytes=self._budget.held,
            memory_budget=self._budget.limit,
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
        return f"<Listener {addrs}, {self._state}, {counted(self.connections, 'connection')}>"

    # ----------------------------------------------------------------- closing

    def close(self, grace: float = GRACE) -> Closing:
        """Stop accepting at once; let handlers finish, then cancel them, then reset the rest.

        The port is free when this returns. Connections waiting in the backlog are
        accepted first, unless *grace* is 0. Handlers have *grace* seconds to finish and
        get their last bytes sent; those still running are then cancelled, and
        connections still open after that are reset. Awaiting the result (an
        `asyncio.Future`, which `asyncio.create_task` also accepts) waits for all of it;
        cancelling that wait, or not awaiting it, does not stop the closing. Calling it
        again can only shorten the grace period. A handler may close its own listener:
        that handler is neither waited for nor cancelled.

        Args:
            grace: seconds; 0 cancels at once.

        Raises:
            TypeError, ValueError: *grace* is not a number of seconds; at the call.
        """
        deadline = self._loop.time() + seconds(grace, "grace")
        if self._closing is None:
            self._deadline = deadline
            with contextlib.ExitStack() as ending:  # run all steps, even if one raises
                ending.callback(self._begin_draining)
                ending.callback(self._release)
                for server in self._servers:
                    ending.callback(server.close)
                if grace > 0:
                    for server in self._servers:
                        server.accept_queued()
            assert self._closing is not None
        else:
            self._deadline = min(deadline, self._deadline)
            self._changed.set()
            if self._closing.cancelled():  # with all other tasks, by asyncio.run
                self._closing = self._loop.create_task(self._drain(None), name=_DRAINING)
        return Closing(self._closing)

    def _begin_draining(self) -> None:
        self._enter(ListenerState.DRAINING)
        closer = asyncio.current_task(self._loop)
        self._closing = self._loop.create_task(self._drain(closer), name=_DRAINING)

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
        stubborn = self._handling.keys() - own
        spared = {self._handling[task] for task in own & self._handling.keys()}
        for conn in self._conns():
            if conn not in spared or conn._is_closing:
                conn.abort()
        for task in stubborn:
            logger.warning(
                "handler %s is still running after it was cancelled: %r", self._handler_name, task
            )
        if not own:  # aborted connections are gone within a pass or two of the loop
            self._deadline = self._loop.time() + _AFTER_CANCEL
            await self._wait_drained({*self._handling})
        self._sweep.stop()
        self._budget.close()
        self._enter(ListenerState.CLOSED)
        live = Live.of(self._loop)
        live.listeners.discard(self)
        live.wake_if_empty()
        self._gate.close()
        self._crashes.close()
        self._observer_failures.close()

    async def _wait_drained(self, own: set[asyncio.Task[Any]]) -> None:
        """Wait until all handlers and connections but *own* are gone, or until the deadline."""
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
        """In a forked child: drop the descriptors, which are the parent's."""
        for each in (*self._servers, *self._conns()):
            engine.disown(each)

    async def wait_closed(self) -> None:
        """Wait until the listener has been closed, by any task. Safe to cancel."""
        await self.wait(ListenerState.CLOSED)

    async def serve_forever(self) -> None:
        """Wait until the listener is closed; on cancellation, close it with the default grace."""
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            await self.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _fault(conn: Conn, error: BaseException) -> str | None:
    """Return why a handler that raised *error* ended.

    That is None if its own connection ended (as for most handlers), the limit of its
    connection that it exceeded, or ``"handler_error"``. Wrapping is looked through: an
    exception group counts as an end if every member does, any other exception if it or
    its explicit cause does. An error that merely followed the loss, or that is about
    another connection, is a handler error.
    """
    ends: list[BaseException] = []
    try:
        if not _consists_of_ends(conn, error, ends, {}):
            return "handler_error"
    except Exception:  # noqa: BLE001 - exceptions may have code of their own, or endless chains
        return "handler_error"
    if any(isinstance(end, LimitExceeded) for end in ends):
        return "read_limit"
    return "max_unsent" if any(isinstance(end, WriteQueueFull) for end in ends) else None


def _consists_of_ends(
    conn: Conn, error: BaseException | None, ends: list[BaseException], known: dict[int, bool]
) -> bool:
    """Return whether *error* comes only from the end of *conn*; collect its errors in *ends*."""
    if error is None:
        return False
    if complaints.is_about(conn, error):
        ends.append(error)
        return True
    if id(error) not in known:
        known[id(error)] = False  # for now: chains may be circular
        known[id(error)] = (
            isinstance(error, BaseExceptionGroup)
            and all(_consists_of_ends(conn, each, ends, known) for each in error.exceptions)
        ) or _consists_of_ends(conn, error.__cause__, ends, known)
    return known[id(error)]


def _limit_send_time(sock: socket.socket, limits: Limits) -> None:
    """Make the kernel drop closed connections whose peer takes no data.

    The sweep ends open connections; only the kernel still knows the closed ones
    (TCP_USER_TIMEOUT, tcp(7); accepted connections inherit it).
    """
    if limits.min_send_rate and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # it is a Unix socket
            milliseconds = min(int(limits.send_window * 2000), 2**31 - 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


async def _raise(error: BaseException) -> object:
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
    mode: int | None = None,
    busy_poll: float = 0,
    access_log: bool = False,
    observer: Observer | None = None,
) -> Listener:
    """Listen on *addr* and run ``handler(conn)`` in a task of its own for each connection.

    When this returns, the socket is bound and connections are queued; port 0 has
    been replaced by a free one (`Listener.local_addr`). When a handler returns
    or raises, its connection is closed. An exception that comes from the end or loss of
    that connection is a normal end of the handler, even if it is wrapped (in a group, or
    by ``raise X from error``). Any other exception, including the loss of another
    connection, is counted, logged with the peer's address (at a bounded rate), and does
    not affect other connections.

    Args:
        addr: ``"127.0.0.1:9999"``, ``"[::1]:9999"``, ``":9999"`` (all interfaces,
            IPv4 and IPv6), ``"localhost:9999"``, ``"unix:/run/x.sock"`` or
            ``"unix:@name"`` (an abstract name: Linux). A host name is resolved
            before this returns; a signal to stop interrupts that
            (`asyncio.CancelledError`). An existing Unix socket file is replaced if
            no process has it open; closing the listener removes its file.
        handler: a coroutine function of one argument, the `Conn`.
        backlog: how many connections may wait to be accepted (listen(2)).
        limits: the resources that its clients may use; None for
            `Limits.from_env`: flags, environment, defaults.
        read_limit: bytes, overriding *limits*; see `Conn.read_limit`.
        max_unsent: bytes, likewise; see `Conn.max_unsent`.
        linger: seconds, likewise; see `Conn.linger`.
        idle_timeout: seconds, or None for no timeout, likewise; see `Limits`.
        reuse_port: let several processes listen on the same port (SO_REUSEPORT,
            socket(7)).
        mode: permissions of a Unix socket's file, such as ``0o660``, regardless of
            the umask; None for what the umask leaves (in a worker, the
            supervisor's). Clients need write permission to connect.
        busy_poll: seconds for which the event loop keeps polling after each event
            before it sleeps. This spends processor time to save the time of waking
            up, which is most of a round trip with few connections. 0.0001 is a good
            value on a dedicated core. The largest value among the listeners of a
            loop counts. The portable engine ignores it.
        access_log: log a line for each connection when it is over, to the logger
            ``silly.access``; see `silly.net.access_log`.
        observer: an object to notify of each connection; see `silly.net.observer`.

    Raises:
        OSError: the address is in use (EADDRINUSE), not available on this machine or
            not permitted, or its name cannot be resolved; the error names the address.
        TypeError, ValueError: an argument or an environment variable has the wrong
            type or value.
        RuntimeError: no event loop is running.
    """
    address = addresses.parse(addr)
    if not callable(handler):
        raise TypeError(
            f"handler must be a coroutine function taking the connection, "
            f"not {type(handler).__name__}"
        )
    size(backlog, "backlog", least=1)
    if mode is not None:
        if not isinstance(address, UnixAddress) or address.is_abstract:
            raise ValueError(f"mode needs the file of a Unix socket, and {addr!r} has none")
        if size(mode, "mode", least=0) > 0o777:
            raise ValueError(f"mode must be permissions, 0 to 0o777, not {mode:#o}")
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
        mode=mode,
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
) -> Connecting[Conn]:
    """Connect to *addr*: ``async with tcp.connect(addr) as conn``, or ``await tcp.connect(addr)``.

    If a name has several addresses, they are raced: a new attempt starts every 250 ms,
    alternating between address families (RFC 8305), and the first to succeed is used.

    Args:
        addr: as for `listen`; ``":9999"`` is this machine.
        timeout: seconds for everything, including name resolution; None leaves it to
            the operating system (minutes).
        bind: the local address to connect from, such as ``"127.0.0.2:0"``.
        read_limit: bytes; see `Conn.read_limit`.
        max_unsent: bytes; see `Conn.max_unsent`.
        linger: seconds; see `Conn.linger`.
        idle_timeout: seconds, or None; see `Conn.idle_timeout`.

    Returns:
        An object to await for the `Conn`, or to use in ``async with`` directly.
        `asyncio.create_task` also accepts it.

    Raises:
        ConnectionRefusedError: no program listens on *addr*.
        TimeoutError: not connected in time.
        OSError: unreachable, unresolvable (`socket.gaierror`), and so on; the error
            names the address. If several addresses were tried, it is the error of
            the first, with a note for each attempt.
        TypeError, ValueError: an argument has the wrong type or value; raised
            at the call, before the await.
    """
    address = addresses.parse(addr)
    if isinstance(address, TCPAddress) and address.port == 0:
        raise ValueError(
            f"addr {addr!r} has port 0, which is only for listening: give the peer's port"
        )
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
    return Connecting(_connect(address, timeout, local, limits))


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
        live.wake_if_empty()

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


_connect.__qualname__ = "tcp.connect"  # for Python's warning if it is never awaited
