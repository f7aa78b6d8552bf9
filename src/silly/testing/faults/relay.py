"""The relay of a session: it forwards bytes in both directions, with faults.

A relay has two flows. A flow takes pieces from its source while it holds less than its
window, so a receiver that does not read slows the sender down. Each piece is due when
its latency has passed; it then leaves in slices, at the rate that the bandwidth allows.
The end of the source (FIN, reset) is queued behind the data. Bytes are never reordered,
changed or repeated: TCP does not do that.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from typing import Any, Final, Literal

from silly._values.arguments import size
from silly.errors import ConnectionClosed, EndOfStream
from silly.net.conn import Conn
from silly.testing.faults.faults import Faults, FaultsOf
from silly.testing.faults.session import Applied, Flow, Session

__all__ = ["WINDOW", "Relay", "check_arguments"]

WINDOW: Final = 64 * 1024  # bytes
_TICK: Final = 0.01  # seconds; a limited bandwidth sends the bytes of one tick as one slice
_PASSES: Final = 4  # iterations of the loop until a write reaches a reader in the same loop
_FIN: Final = object()
_RESET: Final = object()


class _Flow:
    """One direction of a relay: the pieces it holds, and its receiving and sending tasks."""

    def __init__(self, relay: Relay, record: Flow, source: Conn, target: Conn, window: int) -> None:
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


class Relay:
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
        """True once the session has ended; its connections may still be closing."""
        return self._ended.done()

    def end(self, how: Literal["closed", "reset", "dropped"]) -> None:
        """End the session, unless it has ended."""
        if not self.is_ended:
            self._session.end = how
            self._ended.set_result(None)
            for flow in self._flows:
                flow.open = False

    def flow_finished(self) -> None:
        """End the session if both flows have passed on their FIN."""
        if all(flow.finished for flow in self._flows):
            self.end("closed")

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not (task.cancelled() or self._ended.done()) and task.exception() is not None:
            self._ended.set_exception(task.exception())  # type: ignore[arg-type]


async def _passes() -> None:
    for _ in range(_PASSES):
        await asyncio.sleep(0)


def check_arguments(up: FaultsOf, down: FaultsOf, window: int) -> None:
    """Check the arguments that `proxy` and `memory_pair` have in common.

    Raises:
        TypeError, ValueError: one of them is of the wrong type or value.
    """
    for name, value in (("up", up), ("down", down)):
        if not (isinstance(value, Faults) or callable(value)):
            raise TypeError(
                f"{name} must be a Faults or a function that returns one for the number of "
                f"a connection, not {type(value).__name__}"
            )
    size(window, "window", least=1)
