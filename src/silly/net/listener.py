"""A listener: its state, its statistics, and how it closes.

What happens to its connections is in course.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from silly._engine import engine
from silly._engine.interface import Server
from silly._logs.logger import Logger
from silly._loop.live import INTERNAL_TASK, Live
from silly._values.arguments import seconds
from silly._values.units import counted
from silly.net import addr as addresses
from silly.net.awaitables import Closing
from silly.net.course import Course, Handler
from silly.net.limits import Limits
from silly.net.listening import Opened, Serve, backlog_overflows
from silly.net.networks import Networks
from silly.net.observer import Observer
from silly.net.preface import Preface

if TYPE_CHECKING:
    from silly.net.tls.preface import Handshakes

__all__ = ["GRACE", "Listener", "ListenerState", "ListenerStats"]

logger = Logger("silly.net")

GRACE: Final = 5.0  # seconds
_AFTER_CANCEL: Final = 1.0  # seconds that a cancelled handler has to clean up
_LAST: Final = 5.0  # seconds for what comes last, even if the grace period is over
_DRAINING: Final = f"{INTERNAL_TASK}closing a listener"
_SUM_BATCH: Final = 500  # connections whose bytes are summed up without a pause
_PASSES: Final = 3  # of the loop, for the portable engine to pass on what it has accepted


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
    """Connections reset before a handler started for them, by reason.

    A field of `Limits`, ``"descriptors"``, or what a preface refused them for
    (see `silly.net.preface`).
    """
    handshakes: Mapping[str, int]
    """Handshakes of TLS that were completed, by version, such as ``"TLSv1.3"``.

    Those that continued an earlier session count as ``"TLSv1.3 resumed"``. Those that failed
    are in `refused`, or in `failed_handshakes`.
    """
    failed_handshakes: Mapping[str, int]
    """Handshakes of `Conn.start_tls` that failed, by reason: those of `refused`."""
    handshakes_put_off: int
    """Handshakes of TLS that had to wait for others: one begins at a time.

    Or for those of the same client, of which `Limits.max_handshakes_per_client` are in progress.
    """
    certificate_expires_at: float | None
    """When the first of its certificates expires, in seconds since the epoch; None if unknown."""
    ended: Mapping[str, int]
    """Connections that a limit ended, by the field of `Limits`."""
    accept_stalls: int
    """How often accepting failed for lack of memory or descriptors, and was paused."""
    handler_errors: int
    """Handlers that crashed (ends of their own connections, and limits, do not count).

    With HTTP, handlers of requests.
    """
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
    """Memory held now for such bytes, and for messages of WebSockets that are incomplete or wait
    for their handler, as counted for `Limits.memory_budget`."""
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


class Listener:
    """Accepts connections and runs a handler for each; made by `silly.net.tcp.listen`.

    ``async with listener`` closes it at the end of the block, with the default
    grace period.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        obtain: Callable[[Serve], Opened],
        backlog: int,
        *,
        busy_poll: float,
        limits: Limits,
        prefaces: Sequence[Preface],
        proxies: Networks | None,
        observers: tuple[Observer, ...],
        handshakes: Handshakes | None = None,
        start: bool = True,
    ) -> None:
        """Listen on the sockets that *obtain* returns; accept now, or once `_start` is called."""
        self._loop = loop
        self._limits = limits
        self._handshakes = handshakes
        self._are_entering = bool(prefaces)
        self._backlog = backlog
        self._busy_poll = busy_poll
        self._state = ListenerState.STARTING
        self._next_state: asyncio.Future[None] = loop.create_future()
        self._closing: asyncio.Task[None] | None = None
        self._deadline = 0.0
        self._beside: Collection[asyncio.Task[Any]] = ()
        self._last: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._hurried = asyncio.Event()
        opened = obtain(self._serve)
        self._release = opened.release
        self._sockets = opened.sockets  # those not accepted on yet
        self._servers: list[Server] = []
        self._addrs = tuple(addresses.format_sockaddr(sock.getsockname()) for sock in self._sockets)
        self._overflows_before = backlog_overflows()
        self._course = Course(
            loop,
            handler,
            self,
            name=self._addrs[0],
            limits=limits,
            prefaces=prefaces,
            proxies=proxies,
            observers=observers,
        )
        if handshakes is not None:
            self._course.handshakes = handshakes.counts
        if start:
            self._start()

    def _start(self) -> None:
        """Begin to accept."""
        sockets, self._sockets = self._sockets, []
        try:
            for sock in sockets:
                _limit_send_time(sock, self._limits)
                self._servers.append(self._serve(sock))
        except BaseException:
            for server in self._servers:
                server.close()
            for sock in sockets:
                sock.close()
            self._release()
            raise
        self._enter(ListenerState.ACCEPTING)
        Live.of(self._loop).add_listener(self)

    def _serve(self, sock: socket.socket) -> Server:
        return engine.serve(
            self._loop,
            sock,
            self._backlog,
            self._course.start,
            busy_poll=self._busy_poll,
            gate=self._course.gate,
            are_entering=self._are_entering,
        )

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
    def is_encrypted(self) -> bool:
        """Whether it was given certificates: its connections begin with TLS."""
        return self._handshakes is not None

    @property
    def connections(self) -> int:
        """How many connections are open now, including those being closed."""
        return self._course.gate.connections

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
        course = self._course
        bytes_in, bytes_out = course.past_bytes_in, course.past_bytes_out
        unsent = unread = 0
        for number, conn in enumerate(course.conns(), 1):
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
        course, gate = self._course, self._course.gate
        return ListenerStats(
            accepted=course.accepted,
            connections=gate.connections,
            peak_connections=gate.peak,
            refused=dict(gate.refused.counts),
            handshakes=dict(course.handshakes),
            failed_handshakes=dict(gate.failed_handshakes.counts),
            handshakes_put_off=0 if self._handshakes is None else self._handshakes.put_off,
            certificate_expires_at=(
                None if self._handshakes is None else self._handshakes.server.expires_at
            ),
            ended=dict(gate.ended.counts),
            accept_stalls=sum(gate.stalls.counts.values()),
            handler_errors=sum(course.crashes.values()),
            handler_errors_by_type=dict(course.crashes),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            unsent_bytes=unsent,
            unread_bytes=unread,
            held_bytes=course.budget.held,
            memory_budget=course.budget.limit,
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
        if grace == 0:
            self._hurried.set()
        if self._closing is None:
            self._set_deadline(deadline)
            with contextlib.ExitStack() as ending:  # run all steps, even if one raises
                ending.callback(self._begin_draining)
                ending.callback(self._release)
                for server in self._servers:
                    ending.callback(server.close)
                for sock in self._sockets:
                    ending.callback(sock.close)
                if grace > 0:
                    for server in self._servers:
                        server.accept_queued()
            assert self._closing is not None
        else:
            self._set_deadline(min(deadline, self._deadline))
            self._course.changed.set()
            if self._closing.cancelled():  # with all other tasks, by asyncio.run
                self._closing = self._loop.create_task(self._drain(None), name=_DRAINING)
        return Closing(self._closing)

    def _begin_draining(self) -> None:
        self._enter(ListenerState.DRAINING)
        closer = asyncio.current_task(self._loop)
        self._closing = self._loop.create_task(self._drain(closer), name=_DRAINING)

    def _set_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        self._course.close_at(deadline)

    async def _drain(self, closer: asyncio.Task[Any] | None) -> None:
        course = self._course
        own = {closer} if closer is not None and closer in self._running() else set()
        for _ in range(_PASSES if self._deadline > self._loop.time() else 0):
            await asyncio.sleep(0)
        await self._wait_drained(own)
        grace_ends = self._deadline
        running = self._running() - own
        for task in running:
            task.cancel()
        if running:
            self._set_deadline(self._loop.time() + _AFTER_CANCEL)
            await self._wait_drained(own)
        stubborn = self._running() - own
        spared = {course.handling[task] for task in own & course.handling.keys()}
        for conn in course.conns():
            if conn not in spared or conn._is_closing:
                conn.abort()
        for task in stubborn:
            logger.warning(
                "handler %s is still running after it was cancelled: %r", course.handler_name, task
            )
        if not own:  # aborted connections are gone within a pass or two of the loop
            self._set_deadline(self._loop.time() + _AFTER_CANCEL)
            await self._wait_drained(self._running())
        await self._do_last(grace_ends)
        course.stop()
        self._enter(ListenerState.CLOSED)
        live = Live.of(self._loop)
        live.listeners.discard(self)
        live.wake_if_empty()
        course.close_logs()

    async def _wait_drained(self, own: set[asyncio.Task[Any]]) -> None:
        """Wait until all handlers and connections but *own* are gone, or until the deadline."""
        course = self._course

        def changed(_: object) -> None:
            course.changed.set()

        spared = {*course.prefacing, *course.handling} & own
        while self._running() - own or course.gate.connections > len(spared):
            course.changed.clear()
            for task in self._beside:
                task.remove_done_callback(changed)
                task.add_done_callback(changed)
            left = self._deadline - self._loop.time()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await course.changed.wait()
            except TimeoutError:
                return

    def _running(self) -> set[Any]:
        """Return the tasks of handlers and prefaces, or what prefaces have in place of one."""
        return {*self._course.prefacing, *self._course.handling, *self._beside}

    async def _do_last(self, grace_ends: float) -> None:
        """Run what comes last, in what is left of the grace period or a little more."""
        if self._last is None:
            return
        last = self._loop.create_task(self._last(), name=f"{INTERNAL_TASK}what comes last")
        hurry = self._loop.create_task(self._hurried.wait(), name=f"{INTERNAL_TASK}hurry")
        left = max(grace_ends - self._loop.time(), _LAST)
        try:
            await asyncio.wait((last, hurry), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if self._hurried.is_set():
                await asyncio.wait((last,), timeout=_AFTER_CANCEL)
        finally:
            last.cancel()
            hurry.cancel()
        await asyncio.wait((last, hurry), timeout=_AFTER_CANCEL)
        if last.done() and not last.cancelled() and (error := last.exception()) is not None:
            logger.error("%s: what comes last failed", self._addrs[0], exc_info=error)

    def _extend(
        self,
        beside: Collection[asyncio.Task[Any]],
        last: Callable[[], Coroutine[Any, Any, None]] | None,
    ) -> None:
        """Let closing include more.

        Args:
            beside: the tasks that a protocol runs beside its connections, at any time; they
                are waited for and cancelled as handlers are.
            last: called when all of them are gone, before the listener is closed.
        """
        self._beside = beside
        self._last = last

    def _be_auxiliary(self) -> None:
        """Serve the program itself (its metrics, its admin socket): observers do not count it."""
        self._course.is_auxiliary = True

    def _disown(self) -> None:
        """In a forked child: drop the descriptors, which are the parent's."""
        for each in (*self._servers, *self._course.conns()):
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


def _limit_send_time(sock: socket.socket, limits: Limits) -> None:
    """Make the kernel drop closed connections whose peer acknowledges nothing.

    The sweep ends open connections; only the kernel still knows the closed ones
    (TCP_USER_TIMEOUT, tcp(7); accepted connections inherit it).
    """
    if limits.min_send_rate and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # it is a Unix socket
            milliseconds = min(int(limits.send_window * 2000), 2**31 - 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
