"""A lane: uses one connection at a time, and checks every byte of the replies.

Its coroutine waits in a read, and compares each piece that arrives with the expected
bytes; when that completes replies, it records their latencies and may send again. The
kinds of lanes (`silly.bench.lanes`) differ in what a lane may send, and when.

A lane whose connection fails or returns a wrong reply records the error, and opens a
new connection. Every request that was sent is either answered, or counted as an error or
as unanswered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from silly._values.units import duration_text
from silly.bench.clock import NEVER, clock
from silly.bench.connector import Connector, cause
from silly.bench.dispatcher import Dispatcher
from silly.bench.verify import correct_replies, diagnose
from silly.errors import ConnectionClosed, EndOfStream
from silly.net import tcp

__all__ = ["PAUSE", "Lane"]

PAUSE: Final = 0.05  # seconds between attempts to connect
_AFTER_WRONG: Final = 0.1  # seconds to wait for more of a wrong reply, for the diagnosis


class Lane:
    """Uses one connection after the other; knows what is in flight on the current one."""

    __slots__ = (
        "_answered",
        "_at",
        "_conn",
        "_connector",
        "_dispatcher",
        "_ending",
        "_expected",
        "_flights",
        "_messages",
        "_number",
        "_received",
        "_recorder",
        "_sent",
        "_sessions",
        "_sizes",
        "_timed_out",
        "_write",
    )

    def __init__(self, dispatcher: Dispatcher, connector: Connector) -> None:
        self._dispatcher = dispatcher
        self._connector = connector
        self._recorder = dispatcher.recorder
        self._sessions = connector.sessions()
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
        return self._flights[0][1] if self._flights else NEVER

    # ---------------------------------------------------------------- its connections

    async def connect(self, due: int | None = None) -> bool:
        """Open a new connection, for the request that was *due*; return False if that fails."""
        made = await self._connector.connect(self._sessions, due)
        if made is None:
            return False
        self._conn, self._number, self._messages = made
        self._reset()
        self._write = self._conn.write
        return True

    async def live(self) -> None:
        """Use one connection after the other until the run ends."""
        while not (self._ending or self._dispatcher.stopping):
            if self._conn is None and not await self.connect():
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
            if error.partial or self._flights or not self._done():
                self._fail("closed", "the server closed the connection")
        except ConnectionClosed:  # by this process
            self._record_unanswered()
        except OSError as error:
            self._fail("lost connection", cause(error))
        finally:
            self._dispatcher.free.pop(self, None)
            self._connector.alive -= 1
            await self._close(conn)
            self._conn = None

    async def _close(self, conn: tcp.Conn) -> None:
        conn.close()
        await conn.wait_closed()

    async def _run_connection(self, conn: tcp.Conn) -> None:
        dispatcher, recorder, read = self._dispatcher, self._recorder, conn.read
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
        if conn.unread_bytes and not dispatcher.why:
            await self._report_wrong(conn, await read(), clock())

    def _done(self) -> bool:
        """Return whether the lane is done; called while nothing is in flight."""
        return self._ending or self._dispatcher.stopping

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
        now, plan = clock(), self._dispatcher.plan
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
        self._connector.failed(kind, f"connection {self._number}: {what}", lost)

    async def _report_wrong(self, conn: tcp.Conn, piece: bytes, now: int) -> None:
        """Record the correct replies in *piece*, and what is wrong with the rest.

        Waits a moment for more bytes, to diagnose it. All other requests in flight are
        abandoned with the connection.
        """
        self._dispatcher.free.pop(self, None)  # nothing more is sent on it
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
        self._connector.check_errors()
        self._ending = self._ending or self._dispatcher.stopping
        conn.abort()
