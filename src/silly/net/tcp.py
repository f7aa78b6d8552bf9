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
from silly._live import OWN_TASK, Live
from silly._logger import Logger
from silly._repeats import Repeats
from silly._tracebacks import clarify, place
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
from silly.net.tally import count
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
_DRAINING: Final = f"{OWN_TASK}closing a listener"
_IN_A_TURN: Final = 500  # connections summed up, until the loop has its turn
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
    """Handlers that crashed (the end of their own connections and limits do not count)."""
    handler_errors_by_type: Mapping[str, int]
    """The same, by the name of the exception's type: of 100 at most, the rest is ``"other"``."""
    bytes_in: int
    """Bytes received on all connections, past and present."""
    bytes_out: int
    """Bytes sent on all connections, past and present."""
    unsent_bytes: int
    """Bytes queued to be sent now, on all connections."""
    unread_bytes: int
    """Bytes received and not read by the handlers yet, on all connections."""
    held_bytes: int
    """Memory that connections hold now for such bytes, as `Limits.memory_budget` counts it."""
    memory_budget: int | None
    """The most that this may be, in bytes; None: no limit."""
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
        self._accepted = 0
        self._crashes: dict[str, int] = {}  # by type
        self._repeats = Repeats(loop, self._summarize_crashes)
        self._observer_failures = Repeats(loop, self._summarize_observer_failures)
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
        self._sweep = Sweep(loop, lambda: list(self._handling.values()), self._look_back)
        self._budget = MemoryBudget(loop, memory_of(limits), self._holders)
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
                _bound_closed(sock, limits)
                self._servers.append(serve(sock))
        except BaseException:
            for server in self._servers:
                server.close()
            for sock in sockets:
                sock.close()
            self._release()
            raise
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
        if (observers := observers_of(self._observers)) and not self._is_attendant:
            observation = self._observed[conn] = Observation(observers, conn, self)
            context = observation.context
        # The name is shared: a string for each of a million tasks would be a tenth of them.
        handling = self._start(conn)
        try:
            coroutine = engine.stepped(handling, loop)
            task = loop.create_task(coroutine, name=self._task_name, context=context)
        except BaseException as error:
            handling.close()
            if (failed := self._observed.get(conn)) is not None:
                failed.failed(error)
            raise
        self._handling[task] = conn
        task.add_done_callback(self._when_handled, context=self._context)
        self._sweep.start(self._sweep_interval)

    def _look_back(self, conn: Conn, now: float) -> bool:
        conn._look_back(now, self._deadlines)
        return conn._ended_by is not None

    def _holders(self) -> list[Conn]:
        return [*self._handling.values(), *self._lingering]

    def _start(self, conn: Conn) -> Coroutine[Any, Any, object]:
        try:
            handling = self._handler(conn)
        except BaseException as error:  # noqa: BLE001 - a plain function's crash is the handler's
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

    # Wherever a connection ends, it is counted, closed and forgotten first; what may raise
    # or take its time (the log, observers) comes last.

    def _handled(self, task: asyncio.Task[Any]) -> None:
        conn = self._handling.pop(task)
        error = None if task.cancelled() else task.exception()
        how = None if error is None else _fault(conn, error)
        is_new = False  # and to be logged
        if how == "handler_error":
            count(self._crashes, printable(type(error).__name__))
        elif how is not None:
            is_new = self._gate.end(how)
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
            self._log_error(conn, error, how, is_new=is_new)
        self._tell_if_over(conn)

    def _log_error(
        self, conn: Conn, error: BaseException, how: str | None, *, is_new: bool
    ) -> None:
        if how is None:
            if logger.is_enabled_for(logging.DEBUG):
                logger.debug("%s: handler ended by %r", conn.remote_addr, error)
        elif how == "handler_error":
            if self._repeats.add(printable(place(error))):
                clarify(error, whole=self._loop.get_debug())
                logger.error(
                    "%s: handler %s failed", conn.remote_addr, self._handler_name, exc_info=error
                )
        elif is_new:
            self._gate.log_end(how, conn)

    def _forget(self, conn: Conn) -> None:
        self._gate.leave(conn._client)
        limit = conn._ended_by
        is_new = limit is not None and self._gate.end(limit)
        bytes_in, bytes_out = conn._counts
        self._past_bytes_in += bytes_in
        self._past_bytes_out += bytes_out
        self._lingering.discard(conn)
        if self._closing is not None:
            self._changed.set()
        if self._observed and (observation := self._observed.get(conn)):
            observation.gone()
        if limit is not None and is_new:
            self._gate.log_end(limit, conn)
        self._tell_if_over(conn)

    def _tell_if_over(self, conn: Conn) -> None:
        if self._observed and (observation := self._observed.get(conn)) and observation.is_over:
            del self._observed[conn]
            observation.tell_ending()

    def _summarize_crashes(self, what: str, count: int) -> None:
        logger.error(
            "%s: handler %s failed %s more time%s: %s",
            self._addrs[0],
            self._handler_name,
            f"{count:,}",
            "s" if count > 1 else "",
            what,
        )

    def _summarize_observer_failures(self, what: str, count: int) -> None:
        logger.error(
            "%s: an observer failed %s more time%s: %s",
            self._addrs[0],
            f"{count:,}",
            "s" if count > 1 else "",
            what,
        )

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
        *_, sums = self._sums()
        return self._stats(*sums)

    async def _stats_in_turns(self) -> ListenerStats:
        """Return `stats`, and let the loop have its turn now and then."""
        sums = (0, 0, 0, 0)
        for sums in self._sums():  # noqa: B007
            await asyncio.sleep(0)
        return self._stats(*sums)

    def _sums(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield the bytes in, out, unsent and unread, of more connections each time.

        What is over before the next step is not lost, nor counted twice: the bytes of
        past connections are looked up first, those of the others in the connections.
        """
        bytes_in, bytes_out = self._past_bytes_in, self._past_bytes_out
        unsent = unread = 0
        for number, conn in enumerate(self._conns(), 1):
            received, sent = conn._counts
            bytes_in += received
            bytes_out += sent
            unsent += conn.unsent_bytes
            unread += conn.unread_bytes
            if number % _IN_A_TURN == 0:
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
            handler_errors=sum(self._crashes.values()),
            handler_errors_by_type=dict(self._crashes),
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
        return f"<Listener {addrs}, {self._state}, {self.connections} connections>"

    # ----------------------------------------------------------------- closing

    def close(self, grace: float = GRACE) -> Closing:
        """Stop accepting at once; let handlers finish, then cancel, then abort.

        The port is free when this returns. Connections that wait in the backlog
        are accepted before, unless *grace* is 0. Handlers have *grace* seconds to
        finish and have their last bytes sent; those still running are then
        cancelled, and connections that are still there after that are reset.
        Awaiting the result (an `asyncio.Future`, which `asyncio.create_task` takes,
        too) waits for all of it; cancelling that wait, or not awaiting it, does not
        stop the closing. Called again, it can only
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
            with contextlib.ExitStack() as ending:  # all of it, whatever a part of it raises
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
            if self._closing.cancelled():  # with all tasks, at the end of the loop
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
                "handler %s goes on although it was cancelled: %r", self._handler_name, task
            )
        if not own:  # aborted: they leave within a pass or two of the loop
            self._deadline = self._loop.time() + _AFTER_CANCEL
            await self._wait_drained({*self._handling})
        self._sweep.stop()
        self._budget.close()
        self._enter(ListenerState.CLOSED)
        live = Live.of(self._loop)
        live.listeners.discard(self)
        live.left()
        self._gate.close()
        self._repeats.close()
        self._observer_failures.close()

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


def _fault(conn: Conn, error: BaseException) -> str | None:
    """Say why a handler that raised *error* ended.

    None: its own connection ended, which is how most handlers end; or the limit of
    its connection that it met; or ``"handler_error"``. What it was decides, however it
    was wrapped: of a group each member must be so, of any other the error itself or
    what it was explicitly raised from. An error that only came after the loss, or that
    of another connection, is the handler's own.
    """
    ends: list[BaseException] = []
    try:
        if not _consists_of_ends(conn, error, ends, {}):
            return "handler_error"
    except Exception:  # noqa: BLE001 - exceptions can be programs, and chains of any length
        return "handler_error"
    if any(isinstance(end, LimitExceeded) for end in ends):
        return "read_limit"
    return "max_unsent" if any(isinstance(end, WriteQueueFull) for end in ends) else None


def _consists_of_ends(
    conn: Conn, error: BaseException | None, ends: list[BaseException], known: dict[int, bool]
) -> bool:
    """Tell whether *error* comes of the end of *conn* alone; add what that raised to *ends*."""
    if error is None:
        return False
    if complaints.is_about(conn, error):
        ends.append(error)
        return True
    if id(error) not in known:
        known[id(error)] = False  # meanwhile: a chain may lead back to where it began
        known[id(error)] = (
            isinstance(error, BaseExceptionGroup)
            and all(_consists_of_ends(conn, each, ends, known) for each in error.exceptions)
        ) or _consists_of_ends(conn, error.__cause__, ends, known)
    return known[id(error)]


def _bound_closed(sock: socket.socket, limits: Limits) -> None:
    """Have the kernel give up what it holds for a peer that takes nothing of it.

    The sweep does so for connections that are there; what is closed, only the kernel
    still knows (TCP_USER_TIMEOUT, tcp(7); accepted connections inherit it).
    """
    if limits.min_send_rate and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # of a Unix socket
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
    or raises, its connection is closed. The end or the loss of that connection is
    a normal end of a handler, however it is wrapped (a group, ``raise X from error``);
    any other exception, the loss of another connection included, is counted, logged
    with the peer's address (at a bounded rate), and hurts no other connection.

    Args:
        addr: ``"127.0.0.1:9999"``, ``"[::1]:9999"``, ``":9999"`` (all interfaces,
            IPv4 and IPv6), ``"localhost:9999"``, ``"unix:/run/x.sock"`` or
            ``"unix:@name"`` (an abstract name: Linux). A host name is resolved
            before this returns; a signal to stop breaks that off
            (`asyncio.CancelledError`). A Unix socket's file that no process has
            open any more is replaced; closing the listener removes its own.
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
        mode: permissions of a Unix socket's file, such as ``0o660``, whatever
            the umask is; None for what the umask leaves (the supervisor's, in a
            worker). A client must be allowed to write to connect.
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
    if mode is not None:
        if not isinstance(address, UnixAddress) or address.is_abstract:
            raise ValueError(f"mode is for the file of a Unix socket, and {addr!r} has none")
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
        What gives the connection when it is awaited: close that, or use it in ``async with``.
        In ``async with`` it needs no ``await``. `asyncio.create_task` takes it.

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


_connect.__qualname__ = "tcp.connect"  # as a program calls it: Python names what was not awaited
