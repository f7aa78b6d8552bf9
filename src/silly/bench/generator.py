"""One worker's load: connections that send requests and check every byte of the replies.

A `Lane` uses one connection at a time. Its coroutine waits in a read, and compares each
piece that arrives with the expected bytes; when that completes replies, it records their
latencies and may send again. The kinds of load differ in what a lane may send, and when:

closed loop   each reply makes room for the next request: `depth` are in flight
open loop     requests are due at times that do not depend on replies (`Schedule`).
              `_spin` (or `_pace`) gives each to a lane that has room. While none has, the
              requests wait, and the next lane with room takes the oldest. Latencies
              count from when a request was due, so that a stall is not hidden.
hold          connections are idle, and each has one request at the end
reconnect     each request has its own connection (closed or open loop)

A lane whose connection fails or returns a wrong reply records the error, and opens a
new connection. Every request that was sent is either answered, or counted as an error or
as unanswered. No lane waits for ever: `_watch` ends connections after `timeout`.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from time import perf_counter_ns as clock
from typing import Any, Final

from silly._engine import engine
from silly._values.units import duration_text
from silly.bench.messages import Messages
from silly.bench.plan import Plan
from silly.bench.recorder import Interval, Recorder
from silly.bench.verify import correct_replies, diagnose
from silly.errors import ConnectionClosed, EndOfStream
from silly.net import tcp

__all__ = ["Generator", "cause"]

_OPENING: Final = 64  # connections being made at the same time, at most
_AFTER_WRONG: Final = 0.1  # seconds to wait for more of a wrong reply, for the diagnosis
_PAUSE: Final = 0.05  # seconds between attempts to connect
_GIVE_UP: Final = 10  # failed attempts in a row, with no connection open, that end the run
_WATCH: Final = 0.05  # seconds between rounds of `_watch`
_EARLY: Final = 0.25  # seconds until the first figures, if the interval is longer
_LOOKS: Final = 10  # checks for timed-out requests within one timeout, at most
_STEPS: Final = 4096  # histogram entries for requests that were never sent, at most
_BURST: Final = 512  # requests to send before reading replies again
_NEVER: Final = 1 << 62


class Generator:
    """Runs the lanes of one worker: decides what they may send, and records results."""

    def __init__(self, plan: Plan, part: int, recorder: Recorder) -> None:
        self.plan = plan
        self.recorder = recorder
        recorder.on_measuring = self._count_requests
        recorder.connections = lambda: self.alive
        self.on_early: Callable[[Interval], None] = lambda _: None
        """Called once, with the first `_EARLY` seconds, if the first interval is longer."""
        self.messages = plan.factory()
        self.stopping = False
        self.why = ""
        """Why the run ended early; empty if it did not."""
        self.alive = 0
        """Open connections."""
        self.left = _NEVER
        """Requests that may still be sent."""
        self.free: OrderedDict[Lane, int] = OrderedDict()
        """Lanes with room, and for how many requests; the first is the next to be used."""
        self.next_due = _NEVER
        self.scheduled = 0
        self._overdue = 0
        """Requests that were due before the end, but neither sent nor recorded yet."""
        self._part = part
        self._polled = self._done = 0  # the time, and the work done, at the last poll
        self._schedule = plan.schedule(part)
        self._zero = self._start = self._end = 0
        self._number = 0  # the next request of the schedule
        self._conns = 0
        self._failures = 0
        self._waiting: list[Lane] = []
        self._lanes: dict[Lane, asyncio.Task[None]] = {}
        self._connecting = asyncio.Semaphore(_OPENING)
        self._ended = asyncio.Event()
        self._crash: BaseException | None = None

    @property
    def end(self) -> int:
        """The time at which measuring ended, on the clock."""
        return self.recorder.last_event if self._end == _NEVER else self._end

    # ------------------------------------------------------------------ the run

    async def open(self) -> None:
        """Open the connections that the run starts with."""
        plan = self.plan
        if plan.mode == "reconnect" or plan.connect_rate or plan.ramp_of_connections:
            return
        lanes = [self._make() for _ in range(plan.share(plan.connections, self._part))]
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(lane.connect())
        self._waiting = lanes

    def _start_waiting(self) -> None:
        """Start the lanes that `open` has connected."""
        waiting, self._waiting = self._waiting, []
        for lane in waiting:
            self._start_lane(lane)

    async def run(self, start: int) -> None:
        """Load the server from the time *start* on, until the run ends or is stopped."""
        plan, seconds = self.plan, self.plan.measured_seconds
        self._start = start
        self._zero = start + round(plan.warmup * 1e9)
        self._end = _NEVER if seconds is None else self._zero + round(seconds * 1e9)
        self.recorder.start(clock(), self._zero, self._end)
        helpers = [asyncio.create_task(task) for task in self._helpers()]
        for helper in helpers:
            helper.add_done_callback(self._watch_crash)
        try:
            if self._schedule is not None:
                self.next_due = start + round(self._schedule.due(0) * 1e9)
                self._start_waiting()  # nothing is due yet; the lanes will be ready in time
            await _sleep_until(start)
            self.recorder.roll(clock())
            self._start_waiting()
            await self._until_end()
        finally:
            self.finish()
            for helper in helpers[1:]:
                helper.cancel()
            await self._end_lanes()
            self._record_overdue(clock())
            helpers[0].cancel()
            await asyncio.wait(helpers)
            self.recorder.roll(clock())
        if self._crash is not None:
            raise self._crash

    def _helpers(self) -> list[Coroutine[Any, Any, None]]:
        helpers = [self._watch()]  # the first one runs until the lanes have ended
        if self.plan.ramp_of_connections is not None or self.plan.connect_rate:
            helpers.append(self._follow_ramp())
        elif self.plan.mode == "reconnect":
            helpers.append(self._start_reconnecting())
        if self.plan.busy_poll:
            helpers.append(self._spin())
        elif self._schedule is not None:
            helpers.append(self._pace())
        return helpers

    async def _until_end(self) -> None:
        delay = None if self._end == _NEVER else max(0.0, (self._end - clock()) / 1e9)
        try:
            async with asyncio.timeout(delay):
                await self._ended.wait()
        except TimeoutError:
            pass

    def stop(self, why: str) -> None:
        """End the run early, for the reason *why*."""
        if not self.why and not self._ended.is_set():
            self.why = why
        self._end = min(self._end, clock())
        self.recorder.end(clock())
        self._ended.set()
        self.finish()

    def finish(self) -> None:
        """Send no more requests; lanes end when those in flight are answered."""
        if self.stopping:
            return
        self.stopping = True
        if self._schedule is not None and self._start:
            now = clock()
            due = self._schedule.count((min(now, self._end) - self._start) / 1e9)
            self.scheduled = max(self._number, min(due, self._number + self.left))
            self._overdue = self.scheduled - self._number
            if self.free:
                self._record_overdue(now)
        self._ended.set()
        self.next_due = _NEVER
        for lane in list(self._lanes):
            lane.finish()

    def _record_overdue(self, now: int) -> None:
        """Record that requests which were due and never sent have waited until *now*.

        *now* is when a connection first had room after the end, as the oldest of them would
        have been sent then. If none had room, it is when the lanes have ended.
        """
        count, self._overdue = self._overdue, 0
        step = -(-count // _STEPS) or 1
        for at in range(0, count, step):
            size = min(step, count - at)
            assert self._schedule is not None
            due = self._schedule.due(self._number + at + size // 2)
            self.recorder.gave_up(now, self._start + round(due * 1e9), None, size)

    async def _end_lanes(self) -> None:
        tasks = set(self._lanes.values())
        if not tasks:
            return
        # After an interruption, slow lanes are ended at once; otherwise `_watch` ends them.
        _, left = await asyncio.wait(tasks, timeout=0.3 if self.why == "interrupted" else None)
        for lane, task in list(self._lanes.items()):
            if task in left:
                lane.abandon()
        if left:
            await asyncio.wait(left)

    def _watch_crash(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash = self._crash or error
            self.stop("crashed")

    # -------------------------------------------------------------------- the lanes

    def _make(self) -> Lane:
        if self.plan.mode == "hold":
            return _HoldLane(self)
        return _ClosedLane(self) if self._schedule is None else _OpenLane(self)

    def _start_lane(self, lane: Lane) -> None:
        task = self._lanes[lane] = asyncio.create_task(lane.live())
        task.add_done_callback(lambda _: self._lanes.pop(lane))
        task.add_done_callback(self._watch_crash)

    async def _start_reconnecting(self) -> None:
        await _sleep_until(self._start)
        for _ in range(self.plan.share(self.plan.connections, self._part)):
            self._start_lane(_ReconnectLane(self))

    async def _follow_ramp(self) -> None:
        """Keep as many lanes as the ramp, or the connect rate, demands."""
        plan, ramp = self.plan, self.plan.ramp_of_connections
        most = plan.share(plan.most_connections, self._part)
        running: list[Lane] = []
        await _sleep_until(self._start)
        while not self.stopping:
            time = (clock() - self._zero if ramp else clock() - self._start) / 1e9
            if ramp is not None:
                wanted = plan.share(round(ramp.level(time)), self._part)
            else:
                rate = (plan.connect_rate or 0.0) / plan.workers
                wanted = min(most, int(time * rate) + 1)
            while len(running) < wanted:
                running.append(self._make())
                self._start_lane(running[-1])
            while len(running) > wanted:
                running.pop().finish()
            if ramp is None and len(running) == most:
                return
            await asyncio.sleep(0.002)

    def _count_requests(self) -> None:
        """Start to count the requests of ``--requests``: the warm-up is over."""
        if self.plan.requests is not None:
            in_flight = sum(lane.in_flight for lane in self._lanes)
            self.left = max(0, self.plan.share(self.plan.requests, self._part) - in_flight)
            if self.left == 0:
                self._ended.set()

    def grant(self, count: int) -> int:
        """Return how many of *count* requests may be sent now."""
        if self.stopping:
            return 0
        if count >= self.left:
            count, self.left = self.left, 0
            self._ended.set()
        elif self.left != _NEVER:
            self.left -= count
        return count

    # ---------------------------------------------------------------- the open loop

    async def _pace(self) -> None:
        """Send requests when they are due, sleeping in between."""
        await _sleep_until(self._start)
        while not self.stopping:
            self._send_what_is_due()
            wait = (self.next_due - clock()) / 1e9 if self.free else 0.001
            await asyncio.sleep(max(0.0, min(0.01, wait)))

    async def _spin(self) -> None:
        """Send requests when they are due, polling: waking up from sleep takes too long."""
        await _sleep_until(self._start)
        self._polled = clock()
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()

        def turn() -> None:
            if failed.done():  # failed, or cancelled
                return
            try:
                engine.spin(loop, self._send_what_is_due)
            except BaseException as error:  # noqa: BLE001 - raised again by `await failed`
                failed.set_exception(error)
            else:
                loop.call_soon(turn)

        loop.call_soon(turn)
        await failed

    def _send_what_is_due(self) -> None:
        """Give requests that are due to lanes that have room."""
        now = clock()
        interval = self.recorder.now
        done = interval.bytes_in + interval.sent
        if done == self._done:
            interval.idle += now - self._polled
        self._polled, self._done = now, done
        burst = _BURST
        while self.next_due <= now and self.free and burst and not self.stopping:
            burst -= 1
            lane, room = self.free.popitem(last=False)
            if room > 1:
                self.free[lane] = room - 1
            lane.send_due(self.take_due(now, had_room=True), now)

    def take_due(self, now: int, *, had_room: bool = False) -> int:
        """Take the next request from the schedule to send it *now*; return when it was due."""
        due = self.next_due
        self.grant(1)
        self.recorder.lagged(now - due, had_room)
        self._number += 1
        assert self._schedule is not None
        later = self._schedule.due(self._number)
        self.next_due = self._start + round(later * 1e9) if later < 1e9 else _NEVER
        if self.next_due >= self._end or self.left == 0:
            self.next_due = _NEVER
        return due

    def has_room(self, lane: Lane) -> None:
        """Note that *lane* has room for one more request."""
        if self._overdue:
            self._record_overdue(clock())
        self.free[lane] = self.free.get(lane, 0) + 1

    # -------------------------------------------------------------------- connecting

    async def connect(self, due: int | None = None) -> tuple[tcp.Conn, int] | None:
        """Open a connection and number it; record the error and return None if that fails.

        *due* is when the request that waits for the connection was due, if there is one.
        """
        number = self._conns * self.plan.workers + self._part
        self._conns += 1
        began = clock()
        try:
            async with self._connecting:
                conn = await tcp.connect(
                    self.plan.addr,
                    timeout=self.plan.timeout,
                    read_limit=1 << 24,
                    max_unsent=1 << 40,
                    linger=1,
                )
        except OSError as error:
            now = clock()
            if isinstance(error, TimeoutError):  # the slowest of all
                self.recorder.connected(now - began)
                if due is not None:
                    self.recorder.gave_up(now, due, None)
            self.recorder.failed(now, "connect", f"connection {number}: {cause(error)}")
            self._failures += 1
            if self._failures >= _GIVE_UP and not self.alive:
                self.stop(f"could not connect any more: {cause(error)}")
            self.check_errors()
            return None
        self._failures = 0
        self.recorder.connected(clock() - began)
        self.alive += 1
        return conn, number

    def failed(self, kind: str, text: str, count: int = 1) -> None:
        """Record an error, and stop when there are too many."""
        self.recorder.failed(clock(), kind, text, count)
        self.check_errors()

    def check_errors(self) -> None:
        """Stop when there are too many errors."""
        if self.recorder.error_count >= self.plan.max_errors:
            self.stop(f"stopped at {self.recorder.error_count} errors (--max-errors)")

    # ---------------------------------------------------------------------- watching

    async def _watch(self) -> None:
        """End connections with timed-out requests, and intervals in which nothing happens."""
        timeout = round(self.plan.timeout * 1e9)
        looked = clock()
        early = self._start + round(_EARLY * 1e9)
        while True:
            await asyncio.sleep(_WATCH)
            now = clock()
            self.recorder.roll(now)
            if now >= early:
                early = _NEVER
                if not self.stopping:
                    self.on_early(self.recorder.snapshot(now))
            if now - looked < timeout / _LOOKS:  # checking many lanes takes time
                continue
            looked = now
            for lane in list(self._lanes):
                if now - lane.waiting_since > timeout:
                    lane.time_out()


async def _sleep_until(when: int) -> None:
    """Sleep until the clock shows *when*, and never wake early, as timers may."""
    while (left := when - clock()) > 0:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(left / 1e9)


class Lane:
    """Uses one connection after the other; knows what is in flight on the current one."""

    __slots__ = (
        "_answered",
        "_at",
        "_conn",
        "_ending",
        "_expected",
        "_flights",
        "_generator",
        "_messages",
        "_name",
        "_number",
        "_received",
        "_recorder",
        "_sent",
        "_sizes",
        "_timed_out",
        "_write",
    )

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._recorder = generator.recorder
        self._conn: tcp.Conn | None = None
        self._ending = False
        self._reset()

    def _reset(self) -> None:
        # The expected replies; those before `_at` have arrived. A bytearray if replies are
        # always outstanding: appending, and deleting at the front, are cheap.
        self._expected: bytes | bytearray = b""
        self._at = self._received = 0
        self._sent = self._answered = 0
        self._sizes: deque[int] = deque()  # sizes of the expected replies, if they differ
        self._flights: deque[tuple[int, int, int]] = deque()  # due, sent, count
        self._timed_out = False

    @property
    def in_flight(self) -> int:
        """The number of requests that were sent and not answered."""
        return self._sent - self._answered

    @property
    def waiting_since(self) -> int:
        """When the oldest unanswered request was sent."""
        return self._flights[0][1] if self._flights else _NEVER

    # ---------------------------------------------------------------- its connections

    async def connect(self, due: int | None = None) -> bool:
        """Open a new connection, for the request that was *due*; return False if that fails."""
        made = await self._generator.connect(due)
        if made is None:
            return False
        self._conn, self._number = made
        self._reset()
        self._messages: Messages = self._generator.messages(self._number)
        self._write = self._conn.write
        return True

    async def live(self) -> None:
        """Use one connection after the other until the run ends."""
        while not (self._ending or self._generator.stopping):
            if self._conn is None and not await self.connect():
                await asyncio.sleep(_PAUSE)
                continue
            assert self._conn is not None
            try:
                await self._run_connection(self._conn)
            except EndOfStream as error:
                if error.partial or self._flights or not self._done():
                    self._fail("closed", "the server closed the connection")
            except ConnectionClosed:  # by this process
                self._record_unanswered()
            except OSError as error:
                self._fail("lost connection", cause(error))
            finally:
                self._generator.free.pop(self, None)
                self._generator.alive -= 1
                await self._close(self._conn)
                self._conn = None
        if self._conn is not None:  # never used: stopped before the start
            self._generator.alive -= 1
            await self._close(self._conn)

    async def _close(self, conn: tcp.Conn) -> None:
        conn.close()
        await conn.wait_closed()

    async def _run_connection(self, conn: tcp.Conn) -> None:
        generator, recorder, read = self._generator, self._recorder, conn.read
        reply_size = self._messages.reply_size
        self.begin(clock())
        while self._flights or not self._done():
            piece = await read()
            now = clock()
            if not self._expected.startswith(piece, self._at):
                await self._report_wrong(conn, piece, now)
                return
            if now >= recorder.ends:
                recorder.roll(now)
            size = len(piece)
            recorder.now.bytes_in += size
            self._at += size
            self._received += size
            if self._at == len(self._expected):
                self._expected = b""
                self._at = 0
            if reply_size is not None:
                answered = self._received // reply_size - self._answered
            else:
                answered = self._count_answered()
            if answered:
                self._answered += answered
                self.record(answered, now)
                self.send_more(answered, now)
        if conn.unread_bytes and not generator.why:
            await self._report_wrong(conn, await read(), clock())

    def _done(self) -> bool:
        """Return whether the lane is done; called while nothing is in flight."""
        return self._ending or self._generator.stopping

    def _count_answered(self) -> int:
        """Return how many replies are now complete, if their sizes differ."""
        count, sizes = 0, self._sizes
        while sizes and self._received >= sizes[0]:
            self._received -= sizes.popleft()
            count += 1
        return count

    def _send(self, count: int, due: int, now: int) -> None:
        """Send the next *count* requests."""
        number = self._sent
        requests, replies = self._messages.batch(number, count)
        if self._messages.reply_size is None:
            sizes = [len(self._messages.reply(number + k)) for k in range(count)]
            self._sizes.extend(sizes)
        self._flights.append((due, now, count))
        self._sent = number + count
        if expected := self._expected:
            if isinstance(expected, bytes):
                self._expected = expected = bytearray(expected)
            del expected[: self._at]
            expected += replies
            self._at = 0
        else:
            self._expected = replies
        interval = self._recorder.now
        interval.bytes_out += len(requests)
        interval.sent += count
        self._write(requests)

    # ----------------------------------------------------------- depends on the kind of load

    def begin(self, now: int) -> None:
        """Start to use a new connection."""
        raise NotImplementedError

    def record(self, answered: int, now: int) -> None:
        """Record *answered* replies."""
        raise NotImplementedError

    def send_more(self, answered: int, now: int) -> None:
        """Send the next requests after *answered* replies."""
        raise NotImplementedError

    def finish(self) -> None:
        """Send no more requests; end as soon as none is in flight."""
        self._ending = True
        if not self._flights and self._conn is not None:
            if self._conn.unread_bytes:
                return  # the lane is about to read them
            self._conn.close()

    def send_due(self, due: int, now: int) -> None:
        """Send the request that was *due* (open loop)."""
        raise NotImplementedError

    # ---------------------------------------------------------------------- failures

    def abandon(self) -> None:
        """End now, without waiting for replies."""
        self._ending = True
        if self._conn is not None:
            self._conn.abort()

    def time_out(self) -> None:
        """End the connection: its oldest request has timed out."""
        if self._conn is not None and not self._timed_out:
            self._timed_out = True
            self._conn.abort()

    def _record_unanswered(self) -> None:
        """Record unanswered requests: they timed out, or the run was interrupted."""
        now, plan = clock(), self._generator.plan
        for due, sent, count in self._flights:
            self._recorder.gave_up(now, due, None if plan.rate is None else sent, count)
        if self._timed_out:
            whole = "complete " if self._partial else ""
            self._fail("timeout", f"no {whole}reply within {duration_text(plan.timeout)}")

    @property
    def _partial(self) -> int:
        """How many bytes of the first incomplete reply have arrived."""
        size = self._messages.reply_size
        return self._received if size is None else self._received - self._answered * size

    def _fail(self, kind: str, what: str) -> None:
        """Record that the connection failed, and what was in flight on it."""
        lost = max(1, self.in_flight)
        if self.in_flight:
            what = f"{what} while request {self._answered} was unanswered"
            if lost > 1:
                what += f" (and {lost - 1} more)"
            if partial := self._partial:
                whole = len(self._messages.reply(self._answered))
                what += f"; {partial} of {whole} bytes of its reply had arrived"
        self._generator.failed(kind, f"connection {self._number}: {what}", lost)

    async def _report_wrong(self, conn: tcp.Conn, piece: bytes, now: int) -> None:
        """Record the correct replies in *piece*, and what is wrong with the rest.

        Waits a moment for more bytes, to diagnose it. All other requests in flight are
        abandoned with the connection.
        """
        self._generator.free.pop(self, None)  # nothing more is sent on it
        recorder, partial = self._recorder, self._partial
        received = bytearray(self._messages.reply(self._answered)[:partial] + piece)
        wanted = partial + len(self._expected) - self._at + 1
        recorder.roll(now)
        recorder.now.bytes_in += len(piece)
        answered, size = correct_replies(self._messages, self._answered, self._sent, received)
        if answered:
            self._answered += answered
            self.record(answered, now)
            del received[:size]
            wanted -= size
        try:
            async with asyncio.timeout(_AFTER_WRONG):
                while len(received) < wanted:
                    piece = await conn.read()
                    recorder.now.bytes_in += len(piece)
                    received += piece
        except (TimeoutError, EndOfStream, OSError):
            pass
        violation = diagnose(self._messages, self._answered, self._sent, bytes(received))
        which, now = f"connection {self._number}: ", clock()
        recorder.failed(now, violation.kind, which + violation.text)
        if (abandoned := self.in_flight - 1) > 0:
            more = f"{abandoned} more requests were" if abandoned > 1 else "1 more request was"
            text = f"{which}{more} in flight when a reply was wrong"
            recorder.failed(now, "abandoned", text, abandoned)
        self._generator.check_errors()
        self._ending = self._ending or self._generator.stopping
        conn.abort()


class _ClosedLane(Lane):
    """Closed loop: each reply is followed by the next request."""

    __slots__ = ()

    def begin(self, now: int) -> None:
        if count := self._generator.grant(self._generator.plan.depth):
            self._send(count, now, now)

    def record(self, answered: int, now: int) -> None:
        flights, record = self._flights, self._recorder.answered
        left = answered
        while left:
            due, sent, count = flights[0]
            if count <= left:
                flights.popleft()
            else:
                flights[0] = (due, sent, count - left)
                count = left
            record(now, now - sent, count)
            left -= count

    def send_more(self, answered: int, now: int) -> None:
        if not self._ending and (answered := self._generator.grant(answered)):
            self._send(answered, now, now)


class _OpenLane(Lane):
    """Open loop: requests are sent when they are due, or as soon as there is room."""

    __slots__ = ()

    def begin(self, now: int) -> None:
        self.send_more(self._generator.plan.depth, now)

    def record(self, answered: int, now: int) -> None:
        served = self._recorder.served
        for _ in range(answered):
            due, sent, _count = self._flights.popleft()
            served(now, due, sent)

    def send_more(self, answered: int, now: int) -> None:
        generator = self._generator
        for _ in range(answered):
            if generator.next_due <= now and not self._ending:
                self.send_due(generator.take_due(now), now)
            else:
                generator.has_room(self)

    def send_due(self, due: int, now: int) -> None:
        """Send the request that was *due*."""
        self._send(1, due, now)


class _HoldLane(_ClosedLane):
    """Hold: idle until the end; then one request shows that the connection works."""

    __slots__ = ()

    def begin(self, now: int) -> None:
        """Send nothing."""

    def _done(self) -> bool:
        return self._answered > 0

    def finish(self) -> None:
        self._ending = True
        if self._conn is not None and not self._sent and self._conn.is_alive:
            now = clock()
            self._send(1, now, now)


class _ReconnectLane(Lane):
    """Reconnect: each request has its own connection; latencies include connecting."""

    __slots__ = ("_begun", "_due", "_given")

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator)
        self._given: asyncio.Future[tuple[int, int]] | None = None

    async def live(self) -> None:
        while not (self._ending or self._generator.stopping):
            due = await self._wait_for_work()
            if due is None:
                return
            if await self.connect(due[0]):
                await self._exchange(*due)
            else:
                await asyncio.sleep(_PAUSE)

    async def _wait_for_work(self) -> tuple[int, int] | None:
        generator, now = self._generator, clock()
        if generator.plan.rate is None:
            return (now, now) if generator.grant(1) else None
        if generator.next_due <= now:
            return generator.take_due(now), now
        self._given = asyncio.get_running_loop().create_future()
        generator.has_room(self)
        try:
            return await self._given
        except asyncio.CancelledError:
            if self._ending:
                return None
            raise
        finally:
            self._given = None

    def send_due(self, due: int, now: int) -> None:
        """Send the request that was *due*."""
        if self._given is not None and not self._given.done():
            self._given.set_result((due, now))

    def finish(self) -> None:
        self._ending = True
        if self._given is not None:
            self._given.cancel()

    async def _exchange(self, due: int, now: int) -> None:
        conn = self._conn
        assert conn is not None
        self._due = due
        self._begun = now
        try:
            await self._run_connection(conn)
        except EndOfStream:
            self._fail("closed", "the server closed the connection")
        except ConnectionClosed:
            self._record_unanswered()
        except OSError as error:
            self._fail("lost connection", cause(error))
        finally:
            self._generator.alive -= 1
            self._conn = None
            await self._close(conn)

    def begin(self, now: int) -> None:  # noqa: ARG002 - the request was due, or begun, before
        self._send(1, self._due, self._begun)

    def record(self, answered: int, now: int) -> None:  # noqa: ARG002 - always 1
        due, sent, _ = self._flights.popleft()
        if self._generator.plan.rate is None:
            self._recorder.answered(now, now - sent, 1)
        else:
            self._recorder.served(now, due, sent)

    def send_more(self, answered: int, now: int) -> None:
        """Send nothing: the connection was for one request."""

    def _done(self) -> bool:
        return self._answered > 0


def cause(error: OSError) -> str:
    """Return why a connection failed, as text."""
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{error.strerror} (this machine has no free port to connect from)"
    if error.errno == errno.EMFILE:
        return f"{error.strerror} (ulimit -n)"
    if error.strerror:
        return error.strerror
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
