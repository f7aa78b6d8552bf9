"""Random sessions over bad networks: each byte is accounted for.

A session is a client and a server, connected by a proxy with random faults. Both follow
a random script (read in each way, write, sleep, be cancelled, half-close, close, abort,
crash). The bytes received are always a prefix of those sent, and all of them unless the
faults, an abort or a close explain the loss. Every error is documented for its cause.
Afterwards, no task, descriptor or connection is left, and the server still answers.

Sessions are also encrypted: then, an end of the stream is only taken for one if the other end
has finished and everything has arrived.

The suite runs two hundred sessions, the same each time; ``make sessions`` runs many
new ones on each engine. Time is virtual, the sockets are real.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import gc
import logging
import os
import selectors
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import silly
from silly._loop.live import Live
from silly.errors import (
    ConnectionClosed,
    EndOfStream,
    LimitExceeded,
    TruncatedStream,
    WriteQueueFull,
)
from silly.net import tcp
from silly.net.tcp import Conn
from silly.testing import VirtualClockLoop, faults
from silly.testing.clock import _JumpingSelector
from silly.testing.faults import Faults
from tests.conftest import open_descriptors
from tests.net.tls import certificates

SESSIONS: Final = int(os.environ.get("SILLY_SESSIONS", "0"))
ANY: Final = "127.0.0.1:0"
LONG: Final = 100_000.0  # seconds; virtual
PATIENT: Final = tcp.Limits(  # the faults may delay the peer for long
    handshake_timeout=None,
    idle_timeout=None,
    first_byte_timeout=None,
    read_deadline=None,
    min_receive_rate=None,
    min_send_rate=None,
)
LARGE: Final = 400_000  # bytes: more than socket buffers, window and high-water marks hold

Op = tuple[Any, ...]


@functools.cache
def stream_of(name: str) -> bytes:
    factor = {"client": 10_007, "server": 999_983}[name]
    return b"\n".join([b"%d" % (number * factor) for number in range(300_000)])


class _ImpatientSelector(_JumpingSelector):
    """Jumps over short times at once (loopback is immediate), over long ones after a moment."""

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready: list[Any] = selectors.DefaultSelector.select(self, 0)
        if not ready and timeout > 30:
            ready = selectors.DefaultSelector.select(self, 0.05)
        if not ready:
            self.loop.jump(timeout)
        return ready


class ImpatientLoop(VirtualClockLoop):
    def __init__(self) -> None:
        selector = _ImpatientSelector()
        selector.loop = self
        self._now = 0.0
        self.threads_at_work = 0
        asyncio.SelectorEventLoop.__init__(self, selector)


class Peer:
    """One end of a session: follows its script, and counts bytes."""

    def __init__(self, name: str, lossless: bool) -> None:
        self.name = name
        self.outgoing = stream_of(name)
        self.incoming = stream_of("server" if name == "client" else "client")
        self.lossless = lossless
        self.other: Peer
        self.conn: Conn | None = None
        self.encrypted = False
        self.task: asyncio.Task[Any] | None = None
        self.ops: asyncio.Queue[Op] = asyncio.Queue()
        self.sent = self.received = 0
        self.finished = False  # close_write, or one of the following
        self.closed = False  # close, abort, or the handler ended
        self.aborted = False
        self.interrupted = False  # cancelled, but not noticed yet
        self.drained = asyncio.Event()  # or the task ended earlier
        self.busy = False
        self.log: list[str] = []

    # what may explain missing bytes and errors

    def may_end(self) -> bool:
        return self.other.finished or not self.lossless

    def may_break(self) -> bool:
        return self.other.closed or self.closed or not self.lossless

    async def run(self, conn: Conn) -> None:
        self.conn = conn
        self.task = asyncio.current_task()
        try:
            await self.follow(conn)
        finally:
            self.drained.set()

    async def follow(self, conn: Conn) -> None:
        while True:
            try:
                op = await self.ops.get()
                if op[0] in ("return", "crash"):
                    self.log.append(op[0])
                    self.finished = self.closed = True
                    if op[0] == "crash":
                        raise ZeroDivisionError("on purpose")
                    return
                self.busy = True
                await self.perform(conn, *op)
            except asyncio.CancelledError:
                if not self.interrupted:
                    raise
                self.interrupted = False
                self.log.append("  interrupted")
            finally:
                self.busy = False

    async def perform(self, conn: Conn, what: str, *values: Any) -> None:
        self.log.append(f"{what} {values}")
        if what == "read":
            await self.read(conn, *values)
        elif what == "lines":
            await self.iterate(conn, *values)
        elif what == "write":
            await self.write(conn, *values)
        elif what == "sleep":
            await asyncio.sleep(*values)
        elif what == "read_limit":
            conn.read_limit = values[0]
        elif what == "drain":
            await self.drain(conn)
        else:
            self.finished = True
            self.closed = self.closed or what != "close_write"
            self.aborted = self.aborted or what == "abort"
            getattr(conn, what)()

    # ------------------------------------------------------------------ reading

    def got(self, data: bytes) -> None:
        expected = self.incoming[self.received : self.received + len(data)]
        assert data == expected, f"{self.name} got {data!r} instead of {expected!r}"
        self.received += len(data)
        assert self.received <= self.other.sent
        self.log.append(f"  got {len(data)}")

    async def read(self, conn: Conn, until: Any, timeout: float | None, limit: int | None) -> None:
        limited = {"limit": limit} if isinstance(until, bytes) else {}
        held = conn.unread_bytes
        try:
            data = await conn.read(until, timeout=timeout, **limited)
        except LimitExceeded:
            assert isinstance(until, bytes)
            assert conn.unread_bytes >= (limit or conn.read_limit) - len(until) + 1
            assert conn.unread_bytes >= held
        except TimeoutError:
            assert timeout is not None
            assert conn.unread_bytes >= held
        except Exception as error:
            self.read_failed(conn, error)
        else:
            if isinstance(until, int):
                assert len(data) == until
            elif isinstance(until, bytes):
                assert data.find(until) == len(data) - len(until)
                assert len(data) <= (limit or conn.read_limit)
            else:
                assert data
            self.got(data)

    def read_failed(self, conn: Conn, error: Exception) -> None:
        self.log.append(f"  {error!r}")
        if isinstance(error, EndOfStream):
            assert self.may_end()
            assert not self.closed
            self.check_end(error)
            at = self.received
            assert error.partial == self.incoming[at : at + len(error.partial)]
            assert conn.unread_bytes == len(error.partial)
        elif isinstance(error, ConnectionClosed):
            assert self.closed
            assert conn.unread_bytes == 0
        elif isinstance(error, ConnectionResetError | BrokenPipeError):
            assert self.may_break()
            assert not conn.is_alive
        else:
            raise error

    def check_end(self, error: EndOfStream | None) -> None:
        """Check that an end that was announced is the end."""
        if isinstance(error, TruncatedStream):
            assert self.encrypted
            assert self.may_break()
        elif self.encrypted:
            unread = 0 if error is None else len(error.partial)
            assert self.other.finished
            assert self.received + unread == self.other.sent

    async def iterate(self, conn: Conn, count: int) -> None:
        try:
            for _ in range(count):
                line = await anext(conn)
                assert line.find(b"\n") in (-1, len(line) - 1)
                self.got(line)
        except StopAsyncIteration:
            self.check_end(None)
            assert self.may_end()
            assert conn.unread_bytes == 0
        except LimitExceeded:
            assert conn.unread_bytes >= conn.read_limit
        except Exception as error:
            self.read_failed(conn, error)

    # ------------------------------------------------------------------ writing

    async def write(self, conn: Conn, size: int, pieces: int, awaited: bool) -> None:
        data = self.outgoing[self.sent : self.sent + size]
        cut = max(1, len(data) // pieces)
        try:
            if pieces == 1:
                writing = conn.write(data)
            else:
                writing = conn.write([data[at : at + cut] for at in range(0, len(data), cut)])
            self.sent += len(data)
            if awaited:
                await writing
        except WriteQueueFull:
            assert conn.unsent_bytes + size > conn.max_unsent
        except ConnectionClosed:
            assert self.finished
        except (ConnectionResetError, BrokenPipeError) as error:
            self.log.append(f"  {error!r}")
            assert self.may_break()
            assert not conn.is_alive

    async def drain(self, conn: Conn) -> None:
        """Finish sending, and read to the end."""
        self.finished = True
        conn.close_write()
        try:
            while True:
                self.got(await conn.read())
        except Exception as error:
            self.read_failed(conn, error)
        self.drained.set()


sizes = st.one_of(st.integers(0, 50), st.integers(0, 3_000))
times = st.sampled_from([0.0, 0.0, 0.001, 0.05, 1.0])
peer_names = st.sampled_from(["client", "server"])


@st.composite
def some_faults(draw: st.DrawFn) -> Faults:
    chosen: dict[str, Any] = {}
    if draw(st.booleans()):
        chosen["slice"] = draw(
            st.sampled_from([1, 7, 1000, 5000, (1, 3), (1, 100), (500, 9000), 70_000])
        )
    if draw(st.booleans()):
        chosen["latency"] = draw(st.sampled_from([0.001, 0.05, 0.5]))
        chosen["jitter"] = draw(st.sampled_from([0.0, 0.05]))
    if draw(st.sampled_from([True, False, False])):
        chosen["bandwidth"] = draw(st.sampled_from([50_000, 1_000_000]))
    kind = draw(
        st.sampled_from([None, None, None, None, "stall", "stall", "half_close", "reset", "drop"])
    )
    if kind is not None:
        if draw(st.booleans()):
            chosen[f"{kind}_after"] = draw(st.one_of(st.integers(0, 100), st.integers(0, LARGE)))
        else:
            chosen[f"{kind}_at"] = draw(st.sampled_from([0.0, 0.001, 0.05, 0.5, 2.0]))
        if kind == "stall" and draw(st.sampled_from([True, True, True, False])):
            chosen["stall_for"] = draw(st.sampled_from([0.01, 1.0, 60.0]))
    return Faults(**chosen, seed=draw(st.integers(0, 1000)))


def has_small_slices(some: Faults) -> bool:
    """Return whether *some* cuts the stream into slices too small for megabytes."""
    if some.bandwidth < 1_000_000:
        return True
    least = some.slice[0] if isinstance(some.slice, tuple) else some.slice
    return least is not None and least < 500


class Sessions(RuleBasedStateMachine):
    """One session, and the checks after it."""

    tally: ClassVar[collections.Counter[str]] = collections.Counter()
    encrypted: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.descriptors = open_descriptors()
        self.loop = ImpatientLoop()
        self.reported: list[str] = []
        self.loop.set_exception_handler(lambda _loop, context: self.reported.append(repr(context)))
        self.crashes = 0
        self.started = False

    @initialize(
        up=some_faults(),
        down=some_faults(),
        window=st.sampled_from([100, 5_000, 65_536]),
        read_limit=st.sampled_from([16, 1000, 1024 * 1024]),
        max_unsent=st.sampled_from([1000, 100_000, 16 * 1024 * 1024]),
    )
    def start(
        self, up: Faults, down: Faults, window: int, read_limit: int, max_unsent: int
    ) -> None:
        self.started = True
        lossless = up.is_lossless and down.is_lossless
        self.large = 2_000 if has_small_slices(up) or has_small_slices(down) else LARGE
        self.client, self.server = Peer("client", lossless), Peer("server", lossless)
        self.client.other, self.server.other = self.server, self.client
        self.client.encrypted = self.server.encrypted = self.encrypted
        limits: Any = {"read_limit": read_limit, "max_unsent": max_unsent, "linger": LONG}
        self.loop.run_until_complete(self._start(up, down, window, limits))

    async def _start(self, up: Faults, down: Faults, window: int, limits: Any) -> None:
        server = certificates.server() if self.encrypted else None
        self.listener = tcp.listen(ANY, self._serve, limits=PATIENT, tls=server, **limits)
        self.proxy = faults.proxy(ANY, self.listener.local_addr, up=up, down=down, window=window)
        await self.proxy.__aenter__()
        client = self.encrypted and certificates.client()
        try:
            conn = await tcp.connect(self.proxy.local_addr, tls=client, timeout=LONG, **limits)
        except OSError:  # during the handshake
            assert self.encrypted
            assert not self.client.lossless
        else:
            self.running = asyncio.ensure_future(self.client.run(conn))
        while not (self.proxy.sessions and (self.server.conn or self.proxy.sessions[0].end)):
            await asyncio.sleep(0.001)
            if self.encrypted and not self.client.lossless:
                break  # the handshake may never end

    async def _serve(self, conn: Conn) -> None:
        if self.server.conn is None:
            await self.server.run(conn)
        else:
            async for line in conn:
                await conn.write(line)

    # -------------------------------------------------------------------- rules

    def do(self, side: str, op: Op, rest: float = 0.0) -> None:
        self.peer(side).ops.put_nowait(op)
        self.loop.run_until_complete(self._rest(rest))

    async def _rest(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(seconds)
        for _ in range(4):
            await asyncio.sleep(0)
        self._raise_failures()

    def _raise_failures(self) -> None:
        for peer in (self.client, self.server):
            if peer.task is not None and peer.task.done() and not peer.task.cancelled():
                error = peer.task.exception()
                if error is not None and "on purpose" not in str(error):
                    raise error

    def peer(self, side: str) -> Peer:
        return self.client if side == "client" else self.server

    @rule(
        side=peer_names,
        until=st.sampled_from([None, None, b"\n", b"7", b"12", 0, 1, 10, 2000]),
        timeout=st.sampled_from([None, 0.0, 0.001, 0.1, 10.0]),
        limit=st.sampled_from([None, 2, 30, 3000]),
        rest=times,
    )
    def read(self, side: str, until: Any, timeout: float, limit: int | None, rest: float) -> None:
        self.do(side, ("read", until, timeout, limit), rest)

    @rule(side=peer_names, count=st.integers(1, 20), rest=times)
    def read_lines(self, side: str, count: int, rest: float) -> None:
        self.do(side, ("lines", count), rest)

    @rule(side=peer_names, size=sizes, pieces=st.sampled_from([1, 1, 3]), awaited=st.booleans())
    def write(self, side: str, size: int, pieces: int, awaited: bool) -> None:
        self.do(side, ("write", size, pieces, awaited))

    @rule(side=peer_names, awaited=st.booleans(), rest=times)
    def write_much(self, side: str, awaited: bool, rest: float) -> None:
        self.do(side, ("write", self.large, 1, awaited), rest)

    @rule(side=peer_names, size=sizes, count=st.integers(2, 30))
    def write_often(self, side: str, size: int, count: int) -> None:
        for _ in range(count):
            self.peer(side).ops.put_nowait(("write", size, 1, True))

    @rule(side=peer_names, limit=st.sampled_from([1, 100, 100_000]))
    def set_read_limit(self, side: str, limit: int) -> None:
        self.do(side, ("read_limit", limit))

    @rule(side=peer_names, seconds=times)
    def sleep(self, side: str, seconds: float) -> None:
        self.do(side, ("sleep", seconds))

    @rule(seconds=times)
    def let_time_pass(self, seconds: float) -> None:
        self.loop.run_until_complete(self._rest(seconds))

    @rule(side=peer_names, rest=st.booleans())
    def interrupt(self, side: str, rest: bool) -> None:
        self._interrupt(self.peer(side))
        if rest:
            self.loop.run_until_complete(self._rest(0))

    def _interrupt(self, peer: Peer) -> None:
        if peer.busy and not peer.interrupted and peer.task is not None:
            peer.interrupted = peer.task.cancel()

    @rule(side=peer_names, rest=times)
    def close_write(self, side: str, rest: float) -> None:
        self.do(side, ("close_write",), rest)

    @precondition(lambda self: self.client.sent + self.server.sent > 500)
    @rule(
        side=peer_names, how=st.sampled_from(["close", "abort"]), at_once=st.booleans(), rest=times
    )
    def end(self, side: str, how: str, at_once: bool, rest: float) -> None:
        if at_once:
            self._interrupt(self.peer(side))
        self.do(side, (how,), rest)

    @precondition(lambda self: self.client.sent + self.server.sent > 500)
    @rule(how=st.sampled_from(["return", "crash"]), at_once=st.booleans(), rest=times)
    def end_handler(self, how: str, at_once: bool, rest: float) -> None:
        if at_once:
            self._interrupt(self.server)
        self.do("server", (how,), rest)

    # ------------------------------------------------------------------- checks

    def teardown(self) -> None:
        try:
            if self.started:
                try:
                    self.loop.run_until_complete(self._check_end())
                except BaseException:
                    for peer in (self.client, self.server):
                        note(f"{peer.name}: sent {peer.sent}, received {peer.received}")
                        note("\n".join(f"  {line}" for line in peer.log))
                    note(repr(self.proxy.sessions))
                    raise
                finally:
                    for task in asyncio.all_tasks(self.loop):
                        task.cancel()
                    self.loop.run_until_complete(asyncio.sleep(0.001))
        finally:
            self.loop.close()
        if self.started:
            leaked = open_descriptors() - self.descriptors
            if leaked:  # a reference cycle may hold them
                gc.collect()
                leaked = open_descriptors() - self.descriptors
            assert not leaked

    async def _check_end(self) -> None:
        client, server, session = self.client, self.server, self.proxy.sessions[0]
        await self._rest(0)
        started_peers = [peer for peer in (client, server) if peer.task is not None]
        for peer in started_peers:  # skip what is left of their scripts
            while not peer.ops.empty():
                peer.ops.get_nowait()
            self._interrupt(peer)
            peer.ops.put_nowait(("drain",))
        waits = [asyncio.ensure_future(peer.drained.wait()) for peer in started_peers]
        if waits:
            await asyncio.wait(waits, timeout=2_000)
        stuck = not all(peer.drained.is_set() for peer in started_peers)
        for wait in waits:
            wait.cancel()
        self._raise_failures()
        assert not (stuck and client.lossless), "the session did not end"
        flows = {"client": session.up, "server": session.down}
        for peer in (client, server):
            out, into = flows[peer.name], flows[peer.other.name]
            assert out.forwarded <= out.received
            assert self.encrypted or out.received <= peer.sent
            assert peer.received <= into.forwarded
            self._check_complete(peer.other, peer)
        self._count(session, stuck)

        # close everything: nothing must be left, and the server must answer
        for peer in (client, server):
            if peer.conn is not None:
                peer.finished = peer.closed = True
                peer.conn.abort()
        for peer in started_peers:
            assert peer.task is not None
            peer.task.cancel()
            await asyncio.wait([peer.task])
        await self.proxy.__aexit__()
        client_config = self.encrypted and certificates.client()
        async with tcp.connect(self.listener.local_addr, tls=client_config) as again:
            if server.conn is None:  # the server has not seen any connection yet
                server.conn = again
            again.write(b"still there\n")
            assert await again.read(b"\n", timeout=10) == b"still there\n"
        crashes = sum(line == "crash" for line in server.log)
        await self.listener.close(10)
        assert self.listener.stats.handler_errors == crashes
        assert self.listener.connections == 0
        assert not Live.of(self.loop)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not self.reported, self.reported

    def _check_complete(self, sender: Peer, receiver: Peer) -> None:
        """Check that everything sent arrived, unless something explains the loss."""
        assert receiver.received <= sender.sent
        excused = (
            not sender.lossless
            or sender.aborted
            or receiver.closed
            or (sender.closed and receiver.sent != sender.received)
            # Its alert, which no read returns, may come when the sender's socket is closed. Then
            # the sender's kernel resets the connection (RFC 9293, section 3.10.7.1).
            or (sender.closed and receiver.encrypted and receiver.finished)
        )
        if not excused:
            self.tally["complete directions"] += 1
            assert receiver.received == sender.sent, (
                f"{sender.name} sent {sender.sent}, {receiver.name} received {receiver.received}"
            )

    def _count(self, session: Any, stuck: bool) -> None:
        tally = self.tally
        tally["sessions"] += 1
        tally[f"end: {session.end or ('stalled' if stuck else 'by a peer')}"] += 1
        for flow in (session.up, session.down):
            tally["bytes forwarded"] += flow.forwarded
            for applied in flow.applied:
                tally[f"fault: {applied.fault}"] += 1
        for peer in (self.client, self.server):
            tally["bytes sent"] += peer.sent
            tally["bytes received"] += peer.received
            tally["operations"] += sum(not line.startswith(" ") for line in peer.log)
            tally["interrupted"] += sum(line == "  interrupted" for line in peer.log)
            tally["handler crashes"] += sum(line == "crash" for line in peer.log)


@pytest.fixture
def quiet() -> Iterator[None]:
    logger = logging.getLogger("silly")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


class EncryptedSessions(Sessions):
    """The same over TLS."""

    tally: ClassVar[collections.Counter[str]] = collections.Counter()
    encrypted = True


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", [Sessions, EncryptedSessions])
def test_every_byte_is_accounted_for(kind: type[Sessions]) -> None:
    kind.tally.clear()
    while kind.tally["sessions"] < (SESSIONS or 100):  # batches: Hypothesis keeps all
        run_state_machine_as_test(
            kind,
            settings=settings(
                max_examples=min(1000, SESSIONS or 100),
                stateful_step_count=25,
                deadline=None,
                derandomize=not SESSIONS,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    tally = kind.tally
    print(f"\n{silly.engine()} engine, {kind.__doc__}")
    for name, count in sorted(tally.items()):
        print(f"  {name}: {count}")
    for fault in ("stall", "half_close", "reset", "drop"):
        assert tally[f"fault: {fault}"] > 0
    assert tally["complete directions"] > 50
