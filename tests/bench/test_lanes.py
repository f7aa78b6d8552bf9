"""Lanes, and the worker around them, at moments that few runs meet."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from silly.bench import datagram_lane, worker
from silly.bench.clock import NEVER, clock
from silly.bench.connector import Connector, cause
from silly.bench.dispatcher import Dispatcher
from silly.bench.fleet import Fleet, WorkerDied, summed
from silly.bench.generator import Generator
from silly.bench.lanes import ClosedLane, OpenLane
from silly.bench.plan import Plan
from silly.bench.recorder import Interval, Recorder
from silly.bench.websocket_target import WebSocketTarget
from silly.errors import ConnectionClosed
from silly.net import tcp, websocket
from silly.net import udp as udp_socket


async def silent(conn: tcp.Conn) -> None:
    await conn.read(1000)


class Load:
    """The load of one worker, in this process."""

    def __init__(self, plan: Plan) -> None:
        self._intervals: list[Interval] = []
        self.recorder = Recorder(60.0, self._intervals.append, lambda: 0.0)
        plan.check()
        self.generator = Generator(plan, 0, self.recorder)

    async def run(self) -> Interval:
        """Return the figures."""
        await self.generator.open()
        async with asyncio.timeout(30):
            await self.generator.run(clock())
        self.recorder.report(clock())
        return summed(self._intervals)

    async def run_and_release(self, release: asyncio.Event) -> Interval:
        """Set *release* when the warm-up is over; return the figures."""
        running = asyncio.create_task(self.run())
        while self.recorder.now.index < 0:
            await asyncio.sleep(0.001)
        release.set()
        return await running


# ------------------------------------------------------------------- an interrupted run

ANY = "127.0.0.1:0"
Got = Callable[[bytes], None]


@asynccontextmanager
async def silent_tcp(got: Got) -> AsyncIterator[Plan]:
    async def handler(conn: tcp.Conn) -> None:
        async for line in conn:
            got(line)

    async with tcp.listen(ANY, handler) as listener:
        yield Plan(listener.local_addr, timeout=60.0)


@asynccontextmanager
async def silent_udp(got: Got) -> AsyncIterator[Plan]:
    async def receive() -> None:
        async for data, _ in sock:
            got(data)

    async with udp_socket.bind(ANY) as sock:
        task = asyncio.create_task(receive())
        yield Plan(sock.local_addr, udp=True, timeout=60.0)
    await task


@asynccontextmanager
async def silent_room(got: Got) -> AsyncIterator[Plan]:
    async def handler(ws: websocket.WebSocket) -> None:
        async for message in ws:
            got(str(message).encode())

    async with websocket.listen(ANY, handler) as listener:
        target = WebSocketTarget(f"ws://{listener.local_addr}/")
        yield Plan.of_websocket(target, fan_out=True, timeout=60.0)


@pytest.mark.parametrize(
    ("serving", "settings", "sent"),
    [
        (silent_tcp, {"depth": 2}, 6),
        (silent_tcp, {"rate": 1e6, "depth": 2}, 6),
        (silent_tcp, {"mode": "reconnect"}, 3),
        (silent_tcp, {"mode": "reconnect", "rate": 1e6}, 3),
        (silent_udp, {"depth": 2}, 6),
        (silent_udp, {"rate": 1e6, "depth": 2}, 6),
        (silent_room, {"depth": 2}, 2),
        (silent_room, {"rate": 1e6, "depth": 2}, 2),
    ],
)
async def test_an_interrupted_run_does_not_wait_for_replies(
    serving: Any, settings: dict[str, Any], sent: int
) -> None:
    received: list[bytes] = []
    all_sent = asyncio.Event()

    def got(data: bytes) -> None:
        received.append(data)
        if len(received) == sent:
            all_sent.set()

    async with serving(got) as plan:
        load = Load(replace(plan, connections=3, **settings))
        running = asyncio.create_task(load.run())
        await all_sent.wait()
        load.generator.stop("interrupted")
        figures = await running
    assert (figures.sent, figures.requests, figures.errors) == (sent, 0, {})
    expected = sent * (3 if plan.fan_out else 1)  # replies, or deliveries
    unsent = 0 if "rate" not in settings else load.generator.scheduled - sent
    assert figures.unanswered == expected + unsent
    assert load.generator.why == "interrupted"


@pytest.mark.parametrize(
    ("serving", "settings"),
    [
        (silent_tcp, {}),
        (silent_tcp, {"rate": 0.001}),
        (silent_tcp, {"mode": "reconnect", "rate": 0.001}),
        (silent_udp, {}),
        (silent_udp, {"rate": 0.001}),
        (silent_room, {}),
        (silent_room, {"rate": 0.001}),
    ],
)
async def test_a_run_that_is_interrupted_before_it_sends_has_no_figures(
    serving: Any, settings: dict[str, Any]
) -> None:
    async with serving(Mock(side_effect=AssertionError)) as plan:
        load = Load(replace(plan, connections=3, **settings))
        load.generator.stop("interrupted")
        figures = await load.run()
    assert (figures.sent, figures.requests, figures.unanswered, figures.errors) == (0, 0, 0, {})


async def test_a_request_for_a_connection_that_has_just_timed_out_is_lost_with_it() -> None:
    async with tcp.listen("127.0.0.1:0", silent) as listener, asyncio.timeout(10):
        plan = Plan(listener.local_addr, rate=1.0, depth=3)
        recorder = Recorder(plan.interval, lambda _: None, lambda: 0.0)
        recorder.start(0, 0, 1 << 62)
        dispatcher = Dispatcher(plan, 0, recorder)
        lane = OpenLane(dispatcher, Connector(dispatcher, 0))
        assert await lane.connect()
        task = asyncio.create_task(lane.live())
        while lane not in dispatcher.free:
            await asyncio.sleep(0)
        lane.send_due(1, 1)
        lane.time_out()
        lane.finish()
        lane.send_due(1, 1)  # the lane's task has not yet run
        await task
        assert recorder.first_errors == {
            "timeout": [
                "connection 0: no reply within 5 s while request 0 was unanswered (and 1 more)"
            ]
        }


async def test_what_is_sent_first_is_measured() -> None:
    sent: list[int] = []
    recorder = Recorder(1.0, lambda _: None, lambda: 0.0)
    dispatcher = Dispatcher(Plan("127.0.0.1:1", rate=100.0), 0, recorder)
    start = clock() + 5_000_000
    recorder.start(start - 5_000_000, start, NEVER)
    dispatcher.begin(start, NEVER)
    dispatcher.free[Mock(send_due=lambda *_: sent.append(recorder.now.index))] = 1
    pacing = asyncio.create_task(dispatcher.pace())
    while not sent:
        await asyncio.sleep(0.001)
    assert sent == [0]
    dispatcher.stopping = True
    await pacing


# ------------------------------------------------------------------------ other moments


@pytest.mark.parametrize("udp", [False, True])
async def test_requests_of_the_warm_up_that_are_in_flight_count(udp: bool) -> None:
    release = asyncio.Event()

    async def answer(conn: tcp.Conn) -> None:
        await release.wait()
        async for line in conn:
            await conn.write(line)

    async def answer_datagrams() -> None:
        await release.wait()
        async for data, peer in sock:
            sock.send(data, peer)

    async with tcp.listen(ANY, answer) as listener, udp_socket.bind(ANY) as sock:
        answering = asyncio.create_task(answer_datagrams())
        addr = sock.local_addr if udp else listener.local_addr
        plan = Plan(addr, connections=2, depth=3, requests=5, warmup=0.02, udp=udp, timeout=30.0)
        figures = await Load(plan).run_and_release(release)
    await answering
    assert (figures.sent, figures.requests, figures.errors) == (6, 6, {})


async def test_requests_of_the_warm_up_whose_connections_are_being_made_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = asyncio.Event()
    connect = Connector.connect

    async def connect_later(self: Connector, *arguments: Any) -> Any:
        await release.wait()
        return await connect(self, *arguments)

    async def answer(conn: tcp.Conn) -> None:
        async for line in conn:
            await conn.write(line)

    monkeypatch.setattr(Connector, "connect", connect_later)
    async with tcp.listen(ANY, answer) as listener:
        plan = Plan(
            listener.local_addr,
            mode="reconnect",
            connections=2,
            requests=5,
            warmup=0.02,
            timeout=30.0,
        )
        figures = await Load(plan).run_and_release(release)
    assert (figures.sent, figures.requests, figures.errors) == (5, 5, {})


async def test_replies_that_come_after_they_were_forgotten_are_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datagram_lane, "_REMEMBERED", 2)

    async def answer() -> None:
        first = b""
        async for data, peer in sock:
            first = first or data
            sock.send(data, peer)
            sock.send(first, peer)

    async with udp_socket.bind(ANY) as sock:
        answering = asyncio.create_task(answer())
        figures = await Load(
            Plan(sock.local_addr, udp=True, connections=1, requests=10, timeout=30.0)
        ).run()
    await answering
    assert (figures.requests, figures.errors, figures.lost) == (10, {}, 0)
    assert figures.duplicates >= 2  # as long as it was remembered
    assert figures.late_replies >= 5


class Scripted:
    """A connection on which *pieces* arrive, read one by one after *until*; then nothing more."""

    is_alive = True

    def __init__(self, pieces: list[bytes], until: asyncio.Event) -> None:
        self._pieces = pieces
        self._until = until
        self._closed = asyncio.Event()

    @property
    def unread_bytes(self) -> int:
        return sum(map(len, self._pieces))

    async def read(self) -> bytes:
        await self._until.wait()
        if not self._pieces:
            await self._closed.wait()
            raise ConnectionClosed("closed")
        return self._pieces.pop(0)

    def write(self, data: bytes) -> None:
        """Take it."""

    def close(self) -> None:
        self._closed.set()

    abort = close

    async def wait_closed(self) -> None:
        await self._closed.wait()


async def test_what_no_request_asked_for_is_found_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a connection after its last reply, and on one without any request."""
    plan = Plan(ANY, connections=2, requests=1)
    reply = plan.factory()(0).reply(0)
    load = Load(replace(plan, addr="127.0.0.1:1"))
    finishing = asyncio.Event()
    dispatcher = load.generator._dispatcher
    finish_lanes = dispatcher.on_finish

    def finish() -> None:
        finish_lanes()
        finishing.set()

    dispatcher.on_finish = finish
    conns = [Scripted([reply, b"more"], finishing), Scripted([b"more"], finishing)]
    monkeypatch.setattr(tcp, "connect", AsyncMock(side_effect=conns))
    figures = await load.run()
    assert figures.requests == 1
    assert figures.errors == {"unasked": 2}


async def test_sockets_that_cannot_be_opened_end_the_run() -> None:
    broadcast = "255.255.255.255:9"  # needs a permission that is not asked for
    load = Load(Plan(broadcast, udp=True, connections=5, requests=5, max_errors=100))
    figures = await load.run()
    assert load.generator.why == "could not connect any more: Permission denied"
    assert figures.errors == {"connect": 10}
    assert load.recorder.first_errors["connect"][0] == "connection 0: Permission denied"


@pytest.mark.parametrize(
    ("error", "advice"), [(errno.EADDRNOTAVAIL, "no free port to connect from"),
                          (errno.EMFILE, "ulimit -n")]
)  # fmt: skip
def test_what_the_client_lacks_is_named(error: int, advice: str) -> None:
    assert advice in cause(OSError(error, "it failed"))


async def test_a_lane_that_crashes_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClosedLane, "begin", Mock(side_effect=ZeroDivisionError))
    async with tcp.listen(ANY, silent) as listener:
        load = Load(Plan(listener.local_addr, connections=2))
        with pytest.raises(ZeroDivisionError):
            await load.run()


async def test_what_fails_while_it_polls_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "_send_what_is_due", Mock(side_effect=ZeroDivisionError))
    async with tcp.listen(ANY, silent) as listener:
        load = Load(Plan(listener.local_addr, connections=2, rate=1e3, busy_poll=True, timeout=0.1))
        with pytest.raises(ZeroDivisionError):
            await load.run()


def test_the_parent_says_how_a_worker_ended() -> None:
    for report, why in ((("crash", "its traceback"), "its traceback"), (None, "was killed")):
        fleet = Fleet(Plan("127.0.0.1:1"))
        ours, theirs = Pipe()
        fleet._pipes = [ours]
        with theirs:
            if report is not None:
                theirs.send(report)
        with pytest.raises(WorkerDied, match=why):
            fleet.connect(1)
        with pytest.raises(WorkerDied, match="was killed"):
            fleet.start()
        ours.close()


def test_an_error_of_a_connection_is_not_taken_for_the_end_of_the_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(_: Generator, start: int) -> None:
        raise ConnectionResetError(f"started at {start}")

    def leave(code: int) -> None:
        assert code == 0

    monkeypatch.setattr(Generator, "run", run)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(worker, "_allow_descriptors", lambda: None)
    monkeypatch.setattr(worker, "gc", Mock())
    ours, theirs = Pipe()
    with ours:
        job = worker.Job(Plan("127.0.0.1:1", rate=1.0, mode="reconnect"), 0)
        ours.send(("start", 7))
        with theirs:
            worker.main(job, theirs)
        assert ours.recv() == ("ready", [])
        kind, text = ours.recv()
        assert kind == "crash"
        assert "ConnectionResetError: started at 7" in text
