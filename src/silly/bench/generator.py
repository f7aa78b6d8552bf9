"""One worker's load: lanes that start, follow the plan, and end.

No lane waits for ever: `_watch` ends connections whose requests are not answered within
the timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from silly.bench.clock import NEVER, clock, sleep_until
from silly.bench.connector import Connector
from silly.bench.datagram_lane import ClosedDatagramLane, DatagramLane, OpenDatagramLane
from silly.bench.dispatcher import Dispatcher
from silly.bench.lane import Lane
from silly.bench.lanes import ClosedLane, HoldLane, OpenLane, ReconnectLane
from silly.bench.plan import Plan
from silly.bench.recorder import Interval, Recorder

if TYPE_CHECKING:
    from silly.bench.fan_out_lane import FanOutLane

__all__ = ["Generator"]

_WATCH: Final = 0.05  # seconds between rounds of `_watch`
_EARLY: Final = 0.25  # seconds until the first figures, if the interval is longer
_LOOKS: Final = 10  # checks for timed-out requests within one timeout, at most


AnyLane: TypeAlias = "Lane | DatagramLane | FanOutLane"


class Generator:
    """Runs the lanes of one worker: makes as many as the plan wants, and watches over them."""

    def __init__(self, plan: Plan, part: int, recorder: Recorder) -> None:
        self._plan = plan
        self._part = part
        self._recorder = recorder
        self._dispatcher = dispatcher = Dispatcher(plan, part, recorder)
        self._connector = connector = Connector(dispatcher, part)
        dispatcher.on_finish = self._finish_lanes
        recorder.on_measuring = self._count_requests
        recorder.connections = lambda: connector.alive
        self.on_early: Callable[[Interval], None] = lambda _: None
        """Called once, with the first `_EARLY` seconds, if the first interval is longer."""
        self._zero = 0  # when measuring starts
        self._waiting: list[AnyLane] = []
        self._lanes: dict[AnyLane, asyncio.Task[None]] = {}
        self._crash: BaseException | None = None

    @property
    def why(self) -> str:
        """Why the run ended early; empty if it did not."""
        return self._dispatcher.why

    @property
    def scheduled(self) -> int:
        """How many requests were due before the end (open loop)."""
        return self._dispatcher.scheduled

    @property
    def end(self) -> int:
        """The time at which measuring ended, on the clock."""
        end = self._dispatcher.end
        return self._recorder.last_event if end == NEVER else end

    # ------------------------------------------------------------------ the run

    async def open(self) -> None:
        """Open the connections that the run starts with."""
        plan = self._plan
        if plan.mode == "reconnect" or plan.connect_rate or plan.ramp_of_connections:
            return
        lanes = [self._make() for _ in range(plan.share(plan.lanes, self._part))]
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
        plan, seconds = self._plan, self._plan.measured_seconds
        self._zero = start + round(plan.warmup * 1e9)
        end = NEVER if seconds is None else self._zero + round(seconds * 1e9)
        self._dispatcher.begin(start, end)
        self._recorder.start(clock(), self._zero, end)
        helpers = [asyncio.create_task(task) for task in self._helpers()]
        for helper in helpers:
            helper.add_done_callback(self._watch_crash)
        try:
            if self._dispatcher.schedule is not None:
                self._start_waiting()  # nothing is due yet; the lanes will be ready in time
            await sleep_until(start)
            self._recorder.roll(clock())
            self._start_waiting()
            await self._until_end()
        finally:
            self._dispatcher.finish()
            for helper in helpers[1:]:
                helper.cancel()
            await self._end_lanes()
            self._dispatcher.record_overdue(clock())
            helpers[0].cancel()
            await asyncio.wait(helpers)
            self._recorder.roll(clock())
        if self._crash is not None:
            raise self._crash

    def _helpers(self) -> list[Coroutine[Any, Any, None]]:
        helpers = [self._watch()]  # the first one runs until the lanes have ended
        if self._plan.ramp_of_connections is not None or self._plan.connect_rate:
            helpers.append(self._follow_ramp())
        elif self._plan.mode == "reconnect":
            helpers.append(self._start_reconnecting())
        if self._plan.busy_poll:
            helpers.append(self._dispatcher.spin())
        elif self._dispatcher.schedule is not None:
            helpers.append(self._dispatcher.pace())
        return helpers

    async def _until_end(self) -> None:
        end = self._dispatcher.end
        delay = None if end == NEVER else max(0.0, (end - clock()) / 1e9)
        try:
            async with asyncio.timeout(delay):
                await self._dispatcher.ended.wait()
        except TimeoutError:
            pass

    async def _end_lanes(self) -> None:
        tasks = set(self._lanes.values())
        if not tasks:
            return
        # After an interruption, slow lanes are ended at once; otherwise `_watch` ends them.
        _, left = await asyncio.wait(
            tasks, timeout=0.3 if self._dispatcher.why == "interrupted" else None
        )
        for lane, task in list(self._lanes.items()):
            if task in left:
                lane.abandon()
        if left:
            await asyncio.wait(left)

    def stop(self, why: str) -> None:
        """End the run early, for the reason *why*."""
        self._dispatcher.stop(why)

    def _watch_crash(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash = self._crash or error
            self.stop("crashed")

    # -------------------------------------------------------------------- the lanes

    def _make(self) -> AnyLane:
        parts = self._dispatcher, self._connector
        if self._plan.udp:
            closed = self._dispatcher.schedule is None
            return ClosedDatagramLane(*parts) if closed else OpenDatagramLane(*parts)
        if self._plan.fan_out:
            from silly.bench.fan_out_lane import FanOutLane  # noqa: PLC0415 - needs an extra

            return FanOutLane(*parts)
        if self._plan.mode == "hold":
            return HoldLane(*parts)
        return ClosedLane(*parts) if self._dispatcher.schedule is None else OpenLane(*parts)

    def _start_lane(self, lane: AnyLane) -> None:
        task = self._lanes[lane] = asyncio.create_task(lane.live())
        task.add_done_callback(lambda _: self._lanes.pop(lane))
        task.add_done_callback(self._watch_crash)

    async def _start_reconnecting(self) -> None:
        await sleep_until(self._dispatcher.start)
        for _ in range(self._plan.share(self._plan.connections, self._part)):
            self._start_lane(ReconnectLane(self._dispatcher, self._connector))

    async def _follow_ramp(self) -> None:
        """Keep as many lanes as the ramp, or the connect rate, demands."""
        plan, ramp = self._plan, self._plan.ramp_of_connections
        most = plan.share(plan.most_connections, self._part)
        running: list[AnyLane] = []
        await sleep_until(self._dispatcher.start)
        while not self._dispatcher.stopping:
            time = (clock() - self._zero if ramp else clock() - self._dispatcher.start) / 1e9
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
        if self._plan.requests is not None:
            begun = sum(lane.in_flight for lane in self._lanes) + self._dispatcher.connecting
            share = self._plan.share(self._plan.requests, self._part)
            self._dispatcher.limit(share - begun)

    def _finish_lanes(self) -> None:
        for lane in list(self._lanes):
            lane.finish()

    # ---------------------------------------------------------------------- watching

    async def _watch(self) -> None:
        """End connections with timed-out requests, and intervals in which nothing happens."""
        timeout = round(self._plan.timeout * 1e9)
        looked = clock()
        early = self._dispatcher.start + round(_EARLY * 1e9)
        while True:
            await asyncio.sleep(_WATCH)
            now = clock()
            self._recorder.roll(now)
            if now >= early:
                early = NEVER
                if not self._dispatcher.stopping:
                    self.on_early(self._recorder.snapshot(now))
            if now - looked < timeout / _LOOKS:  # checking many lanes takes time
                continue
            looked = now
            for lane in list(self._lanes):
                if now - lane.waiting_since > timeout:
                    lane.time_out()
