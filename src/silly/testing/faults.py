"""Bad networks: connections that delay, slice, stall, reset, half-close and drop.

A `Faults` describes what goes wrong in one direction: *up* is from the client to
the server, *down* is from the server to the client. There are two ways to use it:

- `proxy` listens on an address and forwards to another, in real time;
- `memory_pair` joins two connections in memory, for the virtual clock.

A connection passes through a relay, which has two flows. A flow takes pieces
from its source while it holds less than its window, so a receiver that does not
read slows the sender down. Each piece is due when its latency has passed; it then
leaves in slices, at the rate that the bandwidth allows. The end of the source
(FIN, reset) is queued behind the data. Bytes are never reordered, changed or
repeated: TCP does not do that.

A fault *after* a number of bytes is applied when exactly that many were forwarded
in its direction; a fault *at* a time is applied when the session has that age.
All randomness comes from `Faults.seed`: the same faults cut and delay the same
pieces in the same way. `Session` records what was done; the ``repr`` of its faults
is Python code that creates them again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Self

from silly._engine.interface import LINGER, MAX_UNSENT, READ_LIMIT
from silly._values.arguments import seconds, size
from silly.errors import ConnectionClosed, EndOfStream
from silly.net import addr as addresses
from silly.net import tcp
from silly.net.conn import Conn
from silly.task import fork
from silly.testing import memory

__all__ = ["Applied", "Faults", "Flow", "Proxy", "Session", "memory_pair", "proxy"]

_WINDOW: Final = 64 * 1024  # bytes
_TICK: Final = 0.01  # seconds; a limited bandwidth sends the bytes of one tick as one slice
_PASSES: Final = 4  # iterations of the loop until a write reaches a reader in the same loop


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Faults:
    """The faults of one direction of a connection; without arguments, none.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """

    latency: float = 0.0
    """Seconds for which each piece is held."""
    jitter: float = 0.0
    """The largest random extra delay of a piece in seconds; pieces stay in order."""
    bandwidth: float = math.inf
    """Bytes per second."""
    slice: int | tuple[int, int] | None = None
    """Cut the stream into slices of this many bytes, or of random sizes in this range."""
    gap: float = 0.0
    """Seconds between two slices; even with 0, a peer in this loop reads each one separately."""
    stall_after: int | None = None
    """Forward this many bytes, then nothing for `stall_for`."""
    stall_at: float | None = None
    """Forward nothing for `stall_for` when the session is this many seconds old."""
    stall_for: float = math.inf
    """How long a stall lasts, in seconds; by default, forever."""
    half_close_after: int | None = None
    """Forward this many bytes, then a FIN, and discard the rest."""
    half_close_at: float | None = None
    """Likewise, when the session is this many seconds old."""
    reset_after: int | None = None
    """Forward this many bytes, then reset both sides."""
    reset_at: float | None = None
    """Likewise, when the session is this many seconds old."""
    drop_after: int | None = None
    """Forward this many bytes, then close both sides without delivering what is held."""
    drop_at: float | None = None
    """Likewise, when the session is this many seconds old."""
    seed: int = 0
    """The seed for jitter and random slices."""

    def __post_init__(self) -> None:
        for name in ("latency", "jitter", "gap", "stall_for"):
            if seconds(getattr(self, name), name) == math.inf and name != "stall_for":
                raise ValueError(f"{name} must be finite; to forward nothing, use stall_after=0")
        for kind in ("stall", "half_close", "reset", "drop"):
            if (after := getattr(self, f"{kind}_after")) is not None:
                size(after, f"{kind}_after")
            if (at := getattr(self, f"{kind}_at")) is not None:
                seconds(at, f"{kind}_at")
        if isinstance(self.bandwidth, bool) or not isinstance(self.bandwidth, (int, float)):
            raise TypeError(
                f"bandwidth must be a number of bytes per second, "
                f"not {type(self.bandwidth).__name__} {self.bandwidth!r}"
            )
        if not self.bandwidth > 0:
            raise ValueError(
                f"bandwidth must be more than 0 bytes per second, not {self.bandwidth}"
            )
        if isinstance(self.slice, tuple):
            if len(self.slice) != 2:
                raise ValueError(f"slice must be a size or a pair of sizes, not {self.slice!r}")
            smallest, largest = self.slice
            size(largest, "slice[1]", least=size(smallest, "slice[0]", least=1))
        elif self.slice is not None:
            size(self.slice, "slice", least=1)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int, not {type(self.seed).__name__} {self.seed!r}")

    def __repr__(self) -> str:
        given = (
            f"{item.name}={getattr(self, item.name)!r}"
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != item.default
        )
        return f"Faults({', '.join(given)})"

    @property
    def is_lossless(self) -> bool:
        """True if every byte arrives eventually: nothing is reset, dropped or discarded."""
        stalls = self.stall_after is not None or self.stall_at is not None
        ends = (
            self.half_close_after,
            self.half_close_at,
            self.reset_after,
            self.reset_at,
            self.drop_after,
            self.drop_at,
        )
        return all(end is None for end in ends) and not (stalls and self.stall_for == math.inf)

    @classmethod
    def random(cls, seed: int, *, lossless: bool = False) -> Faults:
        """Return a random choice of faults, of every kind and size.

        Args:
            seed: any number; the same seed always gives the same faults.
            lossless: choose only faults that lose no byte (see `is_lossless`).
        """
        draw = random.Random(seed)  # noqa: S311 - repeatable, not a secret
        chosen: dict[str, Any] = {"seed": seed}
        if draw.random() < 0.4:
            chosen["latency"] = round(draw.uniform(0.001, 0.2), 3)
        if draw.random() < 0.3:
            chosen["jitter"] = round(draw.uniform(0.001, 0.1), 3)
        if draw.random() < 0.3:
            chosen["bandwidth"] = draw.choice((1_000, 10_000, 100_000, 1_000_000))
        if draw.random() < 0.5:
            smallest = draw.choice((1, 1, 2, 10, 100, 1000))
            chosen["slice"] = draw.choice((smallest, (smallest, smallest * draw.randint(2, 20))))
        if "slice" in chosen and draw.random() < 0.3:
            chosen["gap"] = round(draw.uniform(0.001, 0.01), 3)
        kinds = ["stall"] if lossless else ["stall", "half_close", "reset", "drop"]
        if draw.random() < (0.3 if lossless else 0.6):
            kind = draw.choice(kinds)
            if draw.random() < 0.7:
                chosen[f"{kind}_after"] = draw.choice((0, 1, draw.randint(2, 10_000)))
            else:
                chosen[f"{kind}_at"] = round(draw.uniform(0, 1), 3)
            if kind == "stall" and (lossless or draw.random() < 0.7):
                chosen["stall_for"] = round(draw.uniform(0.01, 2), 3)
        return cls(**chosen)


FaultsOf = Faults | Callable[[int], Faults]

_NONE: Final = Faults()


class Applied(NamedTuple):
    """A fault that was applied: its name, the session's age in seconds, the forwarded bytes."""

    fault: str
    at: float
    after: int


@dataclass(slots=True)
class Flow:
    """The record of one direction of a session."""

    faults: Faults
    """The faults it was given."""
    received: int = 0
    """Bytes taken from the sender."""
    forwarded: int = 0
    """Bytes passed on to the receiver; the rest is held, discarded or dropped."""
    applied: list[Applied] = field(default_factory=list)
    """The stalls, half-closes, resets and drops that were applied, in order."""


@dataclass(slots=True)
class Session:
    """The record of one connection through a proxy."""

    index: int
    """Its number, from 0, in the order of arrival."""
    up: Flow
    """From the client to the server."""
    down: Flow
    """From the server to the client."""
    end: Literal["", "closed", "reset", "dropped", "unreachable", "stopped"] = ""
    """How it ended: both sides finished (``closed``); one was lost, or a fault reset it
    (``reset``); a fault dropped it; the server could not be reached; the proxy was closed
    (``stopped``). Empty while it lasts."""


# ------------------------------------------------------------------------ relaying

_FIN: Final = object()
_RESET: Final = object()


class _Flow:
    """One direction of a relay: the pieces it holds, and its receiving and sending tasks."""

    def __init__(
        self, relay: _Relay, record: Flow, source: Conn, target: Conn, window: int
    ) -> None:
        self._relay = relay
        self._record = record
        self._faults = record.faults
        self._source = source
        self._target = target
        self._window = window
        self._draw = random.Random(record.faults.seed)  # noqa: S311 - repeatable
        self._loop = asyncio.get_running_loop()
        self._held: deque[tuple[float, Any]] = deque()  # when an item is due, and the item
        self._held_bytes = 0
        self._changed = asyncio.Event()  # an item was added, or there is room again
        self._last_due = self._line_free = 0.0
        self._stalls = self._faults.stall_after is not None or self._faults.stall_at is not None
        self.open = True  # the target still gets data
        self.finished = False  # the FIN was passed on

    def start(self) -> list[asyncio.TimerHandle]:
        """Set the timers of the faults with a time."""
        faults, start = self._faults, self._relay.start
        timed = (
            (faults.half_close_at, self._half_close, ()),
            (faults.reset_at, self._end, ("reset",)),
            (faults.drop_at, self._end, ("dropped",)),
        )
        return [
            self._loop.call_at(start + at, call, *args)
            for at, call, args in timed
            if at is not None and at != math.inf
        ]

    # ---------------------------------------------------------------- receiving

    async def receive(self) -> None:
        try:
            while True:
                while self._held_bytes >= self._window:
                    self._changed.clear()
                    await self._changed.wait()
                piece = await self._source.read()
                self._record.received += len(piece)
                self._held_bytes += len(piece)
                self._put(piece)
        except EndOfStream:
            self._put(_FIN)
            await self._source.wait_closed()  # it may still be reset
        except OSError:
            pass
        self._put(_RESET)

    def _put(self, item: Any) -> None:
        delay = self._faults.latency
        if self._faults.jitter:
            delay += self._draw.random() * self._faults.jitter
        self._last_due = max(self._last_due, self._loop.time() + delay)
        self._held.append((self._last_due, item))
        self._changed.set()

    # --------------------------------------------------------------- forwarding

    async def deliver(self) -> None:
        await self._apply_after()
        while True:
            while not self._held:
                self._changed.clear()
                await self._changed.wait()
            due, item = self._held[0]
            await self._sleep_until(due)
            await self._stall()
            self._held.popleft()
            if item is _FIN:
                self._finish()
            elif item is _RESET:
                self._relay.end("reset")
            else:
                await self._forward(item)

    async def _forward(self, piece: bytes) -> None:
        at = 0
        while at < len(piece):
            count = len(piece) - at
            if self.open:
                count = self._cut(count)
                await self._transmit(count)
                await self._stall()
            if self.open:
                await self._write(piece[at : at + count])
                await self._apply_after()
            at += count
            self._held_bytes -= count
            self._changed.set()
            if self.open and self._faults.slice is not None:
                await asyncio.sleep(self._faults.gap)
                await _passes()

    def _cut(self, count: int) -> int:
        """Return how many of *count* bytes the next slice has."""
        faults, forwarded = self._faults, self._record.forwarded
        if isinstance(faults.slice, tuple):
            count = min(count, self._draw.randint(*faults.slice))
        elif faults.slice is not None:
            count = min(count, faults.slice)
        if faults.bandwidth != math.inf:
            count = min(count, max(1, int(faults.bandwidth * _TICK)))
        for after in (
            faults.stall_after,
            faults.half_close_after,
            faults.reset_after,
            faults.drop_after,
        ):
            if after is not None and after > forwarded:
                count = min(count, after - forwarded)
        return count

    async def _transmit(self, count: int) -> None:
        """Wait as long as the bandwidth needs for *count* bytes."""
        if self._faults.bandwidth != math.inf:
            self._line_free = max(self._line_free, self._loop.time())
            self._line_free += count / self._faults.bandwidth
            await self._sleep_until(self._line_free)

    async def _write(self, data: bytes) -> None:
        try:
            self._record.forwarded += len(data)
            await self._target.write(data)
        except (OSError, ConnectionClosed):
            self.open = False  # lost; the other flow, which reads from it, ends the relay

    async def _stall(self) -> None:
        faults = self._faults
        if not self._stalls:
            return
        now = self._loop.time()
        if faults.stall_after is not None and self._record.forwarded >= faults.stall_after:
            until = now + faults.stall_for
        elif faults.stall_at is not None and now >= self._relay.start + faults.stall_at:
            until = self._relay.start + faults.stall_at + faults.stall_for
        else:
            return
        self._stalls = False
        if until > now:
            self._note("stall")
            await self._sleep_until(until)

    async def _apply_after(self) -> None:
        """Apply the faults that are due after the bytes forwarded so far."""
        faults, forwarded = self._faults, self._record.forwarded
        if faults.half_close_after == forwarded and self.open:
            self._half_close()
        if forwarded in (faults.reset_after, faults.drop_after):
            await _passes()  # let the forwarded bytes arrive first
            self._end("reset" if faults.reset_after == forwarded else "dropped")

    def _half_close(self) -> None:
        if self.open:
            self._note("half_close")
            self.open = False
            self._target.close_write()

    def _end(self, how: Literal["reset", "dropped"]) -> None:
        if self._relay.is_ended:
            return
        self._note("reset" if how == "reset" else "drop")
        self._relay.end(how)

    def _finish(self) -> None:
        if self.open:
            self.open = False
            self._target.close_write()
        self.finished = True
        self._relay.flow_finished()

    def _note(self, fault: str) -> None:
        age = self._loop.time() - self._relay.start
        self._record.applied.append(Applied(fault, round(age, 6), self._record.forwarded))

    async def _sleep_until(self, when: float) -> None:
        if when == math.inf:
            await self._loop.create_future()
        elif when > (now := self._loop.time()):
            await asyncio.sleep(when - now)


class _Relay:
    """Carries the bytes of one session."""

    def __init__(self, session: Session, client: Conn, server: Conn, window: int) -> None:
        self._session = session
        self._conns = (client, server)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self.start = self._loop.time()
        self._flows = (
            _Flow(self, session.up, client, server, window),
            _Flow(self, session.down, server, client, window),
        )

    async def run(self) -> None:
        """Forward bytes until the session has ended and both connections are gone."""
        timers = [timer for flow in self._flows for timer in flow.start()]
        tasks = [
            self._loop.create_task(work())
            for flow in self._flows
            for work in (flow.receive, flow.deliver)
        ]
        for task in tasks:
            task.add_done_callback(self._task_done)
        try:
            try:
                await self._ended
            finally:
                for timer in timers:
                    timer.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            if self._session.end != "reset":
                for conn in self._conns:
                    conn.close()
                for conn in self._conns:
                    await conn.wait_closed()
        finally:
            self._session.end = self._session.end or "stopped"
            for conn in self._conns:
                conn.abort()
            for conn in self._conns:
                await conn.wait_closed()

    @property
    def is_ended(self) -> bool:
        return self._ended.done()

    def end(self, how: Literal["closed", "reset", "dropped"]) -> None:
        if not self.is_ended:
            self._session.end = how
            self._ended.set_result(None)
            for flow in self._flows:
                flow.open = False

    def flow_finished(self) -> None:
        if all(flow.finished for flow in self._flows):
            self.end("closed")

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not (task.cancelled() or self._ended.done()) and task.exception() is not None:
            self._ended.set_exception(task.exception())  # type: ignore[arg-type]


async def _passes() -> None:
    for _ in range(_PASSES):
        await asyncio.sleep(0)


# ---------------------------------------------------------------- proxy, memory pair


class Proxy:
    """Listens and forwards connections with faults; made by `proxy`."""

    def __init__(self, addr: str, upstream: str, up: FaultsOf, down: FaultsOf, window: int) -> None:
        self._addr = addr
        self._upstream = upstream
        self._up = up
        self._down = down
        self._window = window
        self._listener: tcp.Listener | None = None
        self._sessions: list[Session] = []

    @property
    def local_addr(self) -> str:
        """The address it listens on, with the port that was chosen for port 0.

        Raises:
            RuntimeError: the proxy was not entered (``async with``).
        """
        if self._listener is None:
            raise RuntimeError("the proxy listens only inside `async with`")
        return self._listener.local_addr

    @property
    def sessions(self) -> list[Session]:
        """The records of all connections so far, in order of arrival."""
        return self._sessions

    def __repr__(self) -> str:
        return f"<Proxy {self._addr} to {self._upstream}, {len(self._sessions)} sessions>"

    async def __aenter__(self) -> Self:
        self._listener = tcp.listen(self._addr, self._relay, read_limit=self._window)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        await self._listener.close(0)

    async def _relay(self, client: Conn) -> None:
        index = len(self._sessions)
        session = Session(index, _flow(self._up, index), _flow(self._down, index))
        self._sessions.append(session)
        try:
            server = await tcp.connect(self._upstream, read_limit=self._window)
        except OSError:
            session.end = "unreachable"
            client.abort()
            return
        await _Relay(session, client, server, self._window).run()


def proxy(
    addr: str,
    upstream: str,
    *,
    up: FaultsOf = _NONE,
    down: FaultsOf = _NONE,
    window: int = _WINDOW,
) -> Proxy:
    """Return a proxy from *addr* to *upstream*, which listens inside ``async with``::

        async with faults.proxy("127.0.0.1:0", server, down=Faults(latency=0.05)) as proxy:
            conn = await tcp.connect(proxy.local_addr)

    At the end of the block the proxy closes and resets open connections. A client
    is reset if *upstream* cannot be reached.

    Args:
        addr: where to listen; see `silly.net.tcp.listen`.
        upstream: where to connect for each client.
        up: the faults from client to server, or a function that returns them for
            the number of a connection, counted from 0.
        down: the same from server to client.
        window: bytes that each direction holds before it stops reading. The
            buffers of the connections on both sides come on top.

    Raises:
        OSError: from ``async with``; see `silly.net.tcp.listen`.
        TypeError, ValueError: an argument is of the wrong type or value.
    """
    addresses.parse(addr)
    addresses.parse(upstream, "upstream")
    _check(up, down, window)
    return Proxy(addr, upstream, up, down, window)


async def memory_pair(
    *,
    up: FaultsOf = _NONE,
    down: FaultsOf = _NONE,
    window: int = _WINDOW,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    linger: float = LINGER,
    idle_timeout: float | None = None,
) -> tuple[Conn, Conn, Session]:
    """Return a client and a server joined in memory through faults, and their `Session`.

    They are like the connections of `silly.testing.memory_pair`; with
    `silly.testing.run_virtual`, latency and stalls take no real time. The relay
    between them ends when both connections are gone.

    Args:
        up: the faults from client to server; see `proxy` (the number is 0).
        down: the faults from server to client.
        window: bytes that each direction holds before it stops reading.
        read_limit: bytes, for both connections; see `Conn.read_limit`.
        max_unsent: bytes; see `Conn.max_unsent`.
        linger: seconds; see `Conn.linger`.
        idle_timeout: seconds, or None; see `Conn.idle_timeout`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """
    _check(up, down, window)
    inner = {"window": window, "read_limit": window}
    client, near = memory.memory_pair(**inner)
    far, server = memory.memory_pair(**inner)
    for conn in (client, server):
        conn.read_limit = read_limit
        conn.max_unsent = max_unsent
        conn.linger = linger
        conn.idle_timeout = idle_timeout
    session = Session(0, _flow(up, 0), _flow(down, 0))
    relay = _Relay(session, near, far, window)

    async def end_with_both() -> None:
        await client.wait_closed()
        await server.wait_closed()
        relay.end("closed")

    async def carry() -> None:
        watch = asyncio.ensure_future(end_with_both())
        try:
            await relay.run()
        finally:
            watch.cancel()

    fork(carry)
    return client, server, session


def _check(up: FaultsOf, down: FaultsOf, window: int) -> None:
    for name, value in (("up", up), ("down", down)):
        if not (isinstance(value, Faults) or callable(value)):
            raise TypeError(
                f"{name} must be a Faults or a function that returns one for the number of "
                f"a connection, not {type(value).__name__}"
            )
    size(window, "window", least=1)


def _flow(faults: FaultsOf, index: int) -> Flow:
    return Flow(faults if isinstance(faults, Faults) else faults(index))
