"""A lane: uses one connection at a time, and checks the replies.

Its coroutine waits in a read, and hands each piece that arrives to the `Replies` of the
connection; when that completes replies, it records their latencies and may send again. The
kinds of lanes (`silly.bench.lanes`) differ in what a lane may send, and when.

A lane whose connection fails, or is of no use after a wrong reply, records the error and opens
a new connection. Every request that was sent is either answered, or counted as an error or
as unanswered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Final

from silly._values.units import duration_text
from silly.bench.clock import NEVER, clock
from silly.bench.connector import Connector, cause
from silly.bench.dispatcher import Dispatcher
from silly.bench.replies import Replies
from silly.errors import ConnectionClosed, EndOfStream, TruncatedStream
from silly.net import tcp

__all__ = ["PAUSE", "Lane"]

PAUSE: Final = 0.05  # seconds between attempts to connect
_AFTER_WRONG: Final = 0.1  # seconds to wait for more of a wrong reply, for the diagnosis

Flight = tuple[int, int, int]
"""When requests were due, when they were sent, and how many they are."""


class Lane:
    """Uses one connection after the other; knows what is in flight on the current one."""

    __slots__ = (
        "_again",
        "_conn",
        "_connector",
        "_dispatcher",
        "_ending",
        "_flights",
        "_number",
        "_recorder",
        "_replies",
        "_sessions",
        "_timed_out",
        "_write",
    )

    def __init__(self, dispatcher: Dispatcher, connector: Connector) -> None:
        self._dispatcher = dispatcher
        self._connector = connector
        self._recorder = dispatcher.recorder
        self._sessions = connector.sessions()
        self._conn: tcp.Conn | None = None
        self._replies: Replies
        self._ending = False
        self._timed_out = False
        self._flights: deque[Flight] = deque()
        self._again: list[Flight] = []  # to be sent again, on the next connection

    @property
    def in_flight(self) -> int:
        """The number of requests that were sent and not answered."""
        return sum(count for _, _, count in (*self._flights, *self._again))

    @property
    def waiting_since(self) -> int:
        """When the oldest unanswered request was sent."""
        return self._flights[0][1] if self._flights else NEVER

    # ---------------------------------------------------------------- its connections

    async def connect(self, due: int | None = None) -> bool:
        """Open a new connection, for the request that was *due*; return False if that fails."""
        made = await self._connector.connect(self._sessions, due)
        if made is None:
            return False
        self._conn, self._number, self._replies = made
        self._flights.clear()
        self._timed_out = False
        self._write = self._conn.write
        return True

    async def live(self) -> None:
        """Use one connection after the other until the run ends."""
        while self._again or not (self._ending or self._dispatcher.stopping):
            if self._conn is None and not await self.connect():
                self._give_up_again()
                await asyncio.sleep(PAUSE)
                continue
            await self._use()
        if self._conn is not None:  # never used: stopped before the start
            self._connector.alive -= 1
            await self._close(self._conn)

    async def _use(self) -> None:
        """Use the current connection until it ends, and close it."""
        conn = self._conn
        assert conn is not None
        try:
            await self._run_connection(conn)
        except EndOfStream as error:
            await self._end(conn, is_cut=isinstance(error, TruncatedStream))
        except ConnectionClosed:  # by this process
            self._record_unanswered()
        except OSError as error:
            if not self._repeats():
                self._fail("lost connection", cause(error))
        finally:
            self._dispatcher.free.pop(self, None)
            self._connector.alive -= 1
            await self._close(conn)
            self._conn = None

    async def _close(self, conn: tcp.Conn) -> None:
        self._leave(conn)
        await conn.wait_closed()

    def _leave(self, conn: tcp.Conn) -> None:
        """Begin to close *conn*, as its protocol wants it."""
        if conn.is_alive and (farewell := self._replies.farewell()):
            with contextlib.suppress(OSError):
                conn.write(farewell)
        conn.close()

    async def _run_connection(self, conn: tcp.Conn) -> None:
        recorder, replies, read = self._recorder, self._replies, conn.read
        receive, flights = replies.receive, self._flights
        self._send_again()
        self.begin(clock())
        while flights or not self._done():
            piece = await read()
            now = clock()
            if now >= recorder.ends:
                recorder.roll(now)
            recorder.now.bytes_in += len(piece)
            if answered := receive(piece):
                self.record(answered, now)
            while replies.is_wrong:
                more = await self._report_wrong(conn)
                if more is None:
                    return
                answered += more
            if replies.ends:
                self._repeats()
                return
            if answered:
                self.send_more(answered, now)
        if conn.unread_bytes and not self._dispatcher.why:
            replies.receive(await read())
            if replies.is_wrong:
                await self._report_wrong(conn)

    async def _end(self, conn: tcp.Conn, *, is_cut: bool) -> None:
        """Deal with the end of the connection, which the server has closed."""
        replies = self._replies
        if answered := replies.end(is_cut=is_cut):
            now = clock()
            self._recorder.roll(now)
            self.record(answered, now)
        if replies.is_wrong:
            await self._report_wrong(conn)
        if not self._repeats() and (self._flights or not self._done()):
            kind = replies.cut if replies.progress()[0] else "closed"
            self._fail(kind, "the server closed the connection")

    def _done(self) -> bool:
        """Return whether the lane is done; called while nothing is in flight."""
        return self._ending or self._dispatcher.stopping

    def _send(self, count: int, due: int, now: int) -> None:
        """Send the next *count* requests."""
        requests = self._replies.request(count)
        self._flights.append((due, now, count))
        interval = self._recorder.now
        interval.bytes_out += len(requests)
        interval.sent += count
        self._write(requests)

    # ------------------------------------- requests that an ended connection did not answer

    def _repeats(self) -> bool:
        """Have what is in flight sent again, if it can be; return whether it can."""
        if not self._replies.can_repeat():
            return False
        self._again = list(self._flights)
        self._flights.clear()
        self._recorder.repeated += self.in_flight
        return True

    def _send_again(self) -> None:
        """Send these requests, as the first ones of a new connection."""
        again, self._again = self._again, []
        for due, sent, count in again:
            requests = self._replies.request(count)
            self._flights.append((due, sent, count))
            self._recorder.now.bytes_out += len(requests)
            self._write(requests)

    def _give_up_again(self) -> None:
        """Send them no more."""
        again, self._again = self._again, []
        self._gave_up(again)

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
            self._leave(self._conn)

    def send_due(self, due: int, now: int) -> None:
        """Send the request that was *due* (open loop)."""
        raise NotImplementedError

    # ---------------------------------------------------------------------- failures

    def abandon(self) -> None:
        """End now, without waiting for replies."""
        self._ending = True
        self._give_up_again()
        if self._conn is not None:
            self._conn.abort()

    def time_out(self) -> None:
        """End the connection: its oldest request has timed out."""
        if self._conn is not None and not self._timed_out:
            self._timed_out = True
            self._conn.abort()

    def _record_unanswered(self) -> None:
        """Record unanswered requests: they timed out, or the run was interrupted."""
        self._gave_up(self._flights)
        if self._timed_out:
            whole = "complete " if self._replies.progress()[0] else ""
            plan = self._dispatcher.plan
            self._fail("timeout", f"no {whole}reply within {duration_text(plan.timeout)}")

    def _gave_up(self, flights: Iterable[Flight]) -> None:
        now, open_loop = clock(), self._dispatcher.plan.rate is not None
        for due, sent, count in flights:
            self._recorder.gave_up(now, due, sent if open_loop else None, count)

    def _fail(self, kind: str, what: str) -> None:
        """Record that the connection failed, and what was in flight on it."""
        lost = max(1, self.in_flight)
        if self.in_flight:
            what = f"{what} while request {self._replies.answered} was unanswered"
            if lost > 1:
                what += f" (and {lost - 1} more)"
            partial, whole = self._replies.progress()
            if partial:
                of = "" if whole is None else f" of {whole}"
                what += f"; {partial}{of} bytes of its reply had arrived"
        self._connector.failed(kind, f"connection {self._number}: {what}", lost)

    async def _report_wrong(self, conn: tcp.Conn) -> int | None:
        """Record a wrong reply; return how many are answered by now, and were not before.

        None: nobody can tell where the next reply begins. The connection is closed, and all
        other requests in flight are abandoned with it.
        """
        replies, recorder = self._replies, self._recorder
        if replies.lacking() > 0:
            await self._receive_lacking(conn)
        violation, now = replies.diagnose(), clock()
        which = f"connection {self._number}: "
        recorder.failed(now, violation.kind, which + violation.text)
        goes_on = replies.forgive()
        self._land_one()
        abandoned = 0 if goes_on else self.in_flight
        if abandoned:
            more = f"{abandoned} more requests were" if abandoned > 1 else "1 more request was"
            text = f"{which}{more} in flight when a reply was wrong"
            recorder.failed(now, "abandoned", text, abandoned)
        self._connector.check_errors()
        self._ending = self._ending or self._dispatcher.stopping
        if not goes_on:
            if not replies.ends:
                conn.abort()
            return None
        if right := replies.receive(b""):
            self.record(right, now)
        return 1 + right

    async def _receive_lacking(self, conn: tcp.Conn) -> None:
        """Wait a moment for the bytes that are missing for a diagnosis."""
        self._dispatcher.free.pop(self, None)  # nothing more is sent on it
        try:
            async with asyncio.timeout(_AFTER_WRONG):
                while self._replies.lacking() > 0:
                    piece = await conn.read()
                    self._recorder.now.bytes_in += len(piece)
                    self._replies.receive(piece)
        except (TimeoutError, EndOfStream, OSError):
            pass

    def _land_one(self) -> None:
        """Forget the oldest request in flight: its reply was wrong."""
        if self._flights:
            due, sent, count = self._flights.popleft()
            if count > 1:
                self._flights.appendleft((due, sent, count - 1))
