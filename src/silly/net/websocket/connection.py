"""A WebSocket, as programs see it.

Whoever iterates reads the connection itself, so a message costs no task of its own. While
nobody does, the connection's engine calls `WebSocket._consume` about what arrives: pings are
answered, and the end is noticed, whatever the program does. Messages that arrive then are
kept, up to `AWAY` bytes; beyond that they wait in the connection, which holds up the peer.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from silly._engine import stream_errors
from silly._engine.interface import Drain
from silly._values.arguments import seconds_or_none
from silly._values.units import in_seconds
from silly.errors import ConcurrentRead, EndOfStream, WriteQueueFull
from silly.net.conn import StreamConn
from silly.net.http.request import Request
from silly.net.limits import Limits
from silly.net.restarting import is_restarting
from silly.net.websocket.errors import WebSocketClosed, checked_close
from silly.net.websocket.handshake import Agreement
from silly.net.websocket.keepalive import Watched, keepalive
from silly.net.websocket.kinds import framed
from silly.net.websocket.pings import Pings, checked_ping
from silly.net.websocket.session import PLAIN, Message, Session

if TYPE_CHECKING:
    from silly.net.tls.info import TLSInfo

__all__ = ["WebSocket"]

AWAY: Final = 65536  # bytes of memory for messages that are taken while nobody reads
EACH: Final = 64  # bytes that a message takes beside its own
IN_A_ROW: Final = 1000  # messages without waiting, before other tasks run

_NORMAL: Final = frozenset((1000, 1001))
_NOTHING: Final[Sequence[Any]] = ()


class WebSocket(Watched):
    """One end of a WebSocket: made by `accept`, by `listen` (for its handler) and by `connect`.

    ::

        async for message in ws:
            await ws.send(message)

    Messages are `str` (text) or `bytes` (binary). The iteration ends when the WebSocket is closed
    with 1000 (normal closure) or 1001 (going away), by either end; any other end raises
    `WebSocketClosed`. Messages that were received before the end are yielded before.

    ``async with ws`` closes it at the end of the block: with 1000, or with 1011 if the block is
    left by an exception; cancellation aborts it.

    Pings of the peer are answered, and a silent peer is pinged and given up, without the
    program (`Limits.ping_interval`, `Limits.ping_timeout`).

    A WebSocket belongs to the event loop that made it and must not be used from other threads.

    Attributes:
        subprotocol: the one that both ends agreed on; None: none.
        request: the HTTP request that it was opened with: its path, query, headers and cookies;
            None on a client.
    """

    __slots__ = (
        "__weakref__",
        "_held",
        "_in_a_row",
        "_is_reading",
        "_kept",
        "_messages",
        "_pings",
        "_timer",
        "request",
        "subprotocol",
    )

    def __init__(
        self,
        conn: StreamConn,
        agreement: Agreement,
        limits: Limits,
        *,
        is_client: bool,
        request: Request | None = None,
    ) -> None:
        """Take over *conn*, whose opening handshake is complete."""
        loop = asyncio.get_running_loop()
        session = Session(limits, agreement.deflate, is_client=is_client, clock=time.monotonic)
        super().__init__(conn, session, limits)
        self.request = request
        self.subprotocol = agreement.subprotocol
        self._messages: Sequence[Any] = _NOTHING  # received, the next one last
        self._kept = 0  # bytes of memory that these take
        self._held = 0  # and with an incomplete message, as the connection knows
        self._in_a_row = 0
        self._is_reading = False
        self._pings: Pings | None = None
        self._timer: asyncio.TimerHandle | None = None
        conn._consumer = self
        conn.on_draining(self._drain)  # soon, if its listener is closing already
        conn.on_draining(None)
        keepalive.of(loop).add(self)

    def _start(self, received: bytes) -> None:
        """Take *received*, which followed the opening handshake, and what has arrived since."""
        if received:
            self._take(received)
        self._consume()

    # --------------------------------------------------------------------------- receiving

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        if self._in_a_row >= IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)
        messages = self._messages
        while not messages:
            session = self._session
            if session.has_news or session.end_received is not None:
                self._settle()
            if session.is_over:
                if session.code in _NORMAL:
                    raise StopAsyncIteration
                raise self._closed()
            if self._is_reading:
                raise ConcurrentRead(
                    "another task is already receiving", address=self._conn.remote_addr
                )
            self._is_reading = True
            self._in_a_row = 0
            try:
                data = await self._conn.read()
            except (EndOfStream, OSError):
                self._is_reading = False
                self._lose()
                continue
            except BaseException:
                self._is_reading = False
                self._consume()  # what has arrived meanwhile
                raise
            self._is_reading = False
            parser = session.parser
            received = parser.receive(data)
            if len(received) == 1 and parser.is_quiet and not (self._held or session.is_closing):
                return received[0]  # as most of the time
            self._keep(session.take(received))
            messages = self._messages
        self._in_a_row += 1
        message: Message = messages.pop()  # type: ignore[attr-defined] # it is a list
        if not messages:
            self._messages = _NOTHING
            self._kept = 0
            self._hold()
        return message

    async def recv(self, timeout: float | None = None) -> Message:
        """Return the next message: `str` or `bytes`.

        Args:
            timeout: the most seconds to wait; None waits without limit. A message that comes
                later is kept for the next call.

        Raises:
            WebSocketClosed: the WebSocket is closed, whatever the code.
            TimeoutError: *timeout* seconds passed.
            ConcurrentRead: another task is already receiving.
        """
        timeout = seconds_or_none(timeout, "timeout")
        try:
            if timeout is None:
                return await self.__anext__()
            async with asyncio.timeout(timeout):
                return await self.__anext__()
        except StopAsyncIteration:
            raise self._closed() from None
        except TimeoutError:
            raise self._late("message", timeout) from None

    def _late(self, what: str, timeout: float | None) -> TimeoutError:
        text = f"No {what} within {in_seconds(timeout)}"
        return TimeoutError(errno.ETIMEDOUT, text, self._conn.remote_addr)

    def _take(self, data: bytes) -> None:
        """Take *data*, which was received."""
        self._keep(self._session.receive(data))

    def _keep(self, messages: list[Message]) -> None:
        """Keep *messages*, which were received, and do what came with them."""
        session = self._session
        if messages:
            messages.reverse()
            before = self._messages
            self._messages = [*messages, *before] if before else messages
            self._kept += sum(map(len, messages)) + EACH * len(messages)
        self._hold()
        if session.has_news:
            self._heed()
        if session.is_ending:
            if messages:  # the program may answer them before
                asyncio.get_running_loop().call_soon(self._settle)
            else:
                self._settle()

    def _hold(self) -> None:
        """Report the memory for what was received, and waits for the program or for its rest."""
        held = self._kept + self._session.parser.held
        if held != self._held:
            self._held = held
            self._conn._retain(held)

    def _consume(self) -> None:
        """Take what has arrived while nobody reads (called by the connection)."""
        if self._is_reading:
            return
        conn, session = self._conn, self._session
        try:
            while self._kept < AWAY or session.is_closing:
                if not conn.unread_bytes and conn.is_alive and not conn._is_ended:
                    return
                self._take(_read_now(conn))
        except (EndOfStream, OSError):
            self._lose()

    def _heed(self) -> None:
        """Do what the session says, after it has received something."""
        session = self._session
        session.has_news = False
        if session.limit is not None:
            self._conn._note_limit(session.limit)
        self._send_controls()
        if session.pongs is not None:
            pongs, session.pongs = session.pongs, None
            if self._pings is not None:
                self._pings.take(pongs)
        if session.is_over:
            self._is_now_over()

    def _settle(self) -> None:
        """Answer the end that the peer has brought about."""
        session = self._session
        if session.is_ending:
            session.settle()
            self._heed()

    def _send_controls(self) -> None:
        session, conn = self._session, self._conn
        outgoing, session.outgoing = session.outgoing, b""
        if outgoing:
            try:
                conn.write(outgoing)
            except WriteQueueFull:  # it asks, and does not take the answers
                conn._note_limit("max_unsent")
                conn.abort()
            except OSError:
                pass  # it is lost; reading says so

    def _is_now_over(self) -> None:
        """Let the connection end: no message will come any more."""
        session, conn = self._session, self._conn
        if self._pings is not None:
            self._pings.fail(self._closed)
        if not session.is_client or session.has_failed:
            conn.close()
        else:  # the server closes it (RFC 6455, section 7.1.1); then `_consume` is called
            self._start_timer()

    def _lose(self) -> None:
        """Note that the connection has ended."""
        session = self._session
        self._settle()
        if not session.is_over:
            session.lose()
            session.has_news = False
            if self._pings is not None:
                self._pings.fail(self._closed)
        if self._conn._ended_by == "memory_budget":  # nothing stays unread
            self._messages, self._kept = _NOTHING, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._conn._consumer = None
        keepalive.of(asyncio.get_running_loop()).discard(self)
        self._conn.close()

    # ----------------------------------------------------------------------------- sending

    def send(self, message: str | bytes | bytearray | memoryview) -> Drain:
        """Queue *message* to be sent; with ``await``, also wait until there is room.

        As `silly.net.conn.Conn.write`: the call itself never waits, and messages are sent
        in the order of the calls. If the connection ends, it is not known which messages have
        been received.

        Args:
            message: a `str` is sent as text, bytes as binary.

        Raises:
            WebSocketClosed: the WebSocket is closed, or is being closed.
            WriteQueueFull: the queue would grow past `Limits.max_unsent`; nothing of
                *message* was queued. Cannot happen if every `send` is awaited.
            TypeError: *message* is neither a `str` nor bytes-like.
            UnicodeEncodeError: a `str` has surrogates, which cannot be sent.
        """
        session, conn = self._session, self._conn
        if session.encoding is PLAIN:
            frame = framed(message)
        elif session.is_closing or session.is_over:
            raise self._closed()
        else:
            frame = session.message(message)
        try:
            return conn.write(frame)
        except OSError as error:
            raise self._closed() from error

    async def ping(self, data: bytes = b"", timeout: float | None = None) -> float:
        """Send a ping, and wait for its pong; return how long that took, in seconds.

        Args:
            data: up to 125 bytes that the peer sends back; by default, unique ones.
            timeout: the most seconds to wait; None waits without limit.

        Raises:
            WebSocketClosed: the WebSocket is closed.
            TimeoutError: *timeout* seconds passed.
            TypeError, ValueError: *data* is not bytes, too long, or in use.
        """
        checked_ping(data)
        timeout = seconds_or_none(timeout, "timeout")
        session = self._session
        if session.is_closing or session.is_over:
            raise self._closed()
        if self._pings is None:
            self._pings = Pings()
        data, pong = self._pings.begin(data)
        begun = time.perf_counter()
        try:
            try:
                self._conn.write(session.ping(data))
            except OSError as error:
                raise self._closed() from error
            async with asyncio.timeout(timeout):
                await pong
        except TimeoutError:
            raise self._late("pong", timeout) from None
        finally:
            self._pings.forget(data)
        return time.perf_counter() - begun

    # ----------------------------------------------------------------------------- closing

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the WebSocket: tell the peer, and wait until the connection is closed.

        Messages that still arrive are dropped. A peer that does not answer within
        `Limits.close_timeout` is reset. Closing again only waits.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455, section 7.4).
            reason: for people who look for a problem; up to 123 bytes as UTF-8.

        Raises:
            TypeError, ValueError: the code or the reason is of another type, or out of range.
        """
        checked_close(code, reason)
        self._begin_close(code, reason)
        await self.wait_closed()

    def _begin_close(self, code: int, reason: str = "") -> None:
        session = self._session
        if session.is_closing or session.is_over:
            return
        frame = session.close(code, reason)
        self._start_timer()
        try:
            self._conn.write(frame)
        except WriteQueueFull:
            self._conn._note_limit("max_unsent")
            self._conn.abort()
        except OSError:
            pass  # it is lost
        self._consume()

    def _start_timer(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.limits.close_timeout, self._give_up)

    def _give_up(self) -> None:
        """Reset the connection: the peer does not close it."""
        self._timer = None
        if not self._conn._is_closed:
            self._conn._note_limit("close_timeout")
            self._conn.abort()

    def abort(self) -> None:
        """Reset the connection at once, without closing the WebSocket; the peer sees 1006."""
        self._conn.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, by whichever end. Safe to cancel."""
        await self._conn.wait_closed()

    def _drain(self) -> None:
        """The listener is closing (called by the connection)."""
        self._begin_close(1012 if is_restarting() else 1001)

    async def _finish(self, code: int) -> None:
        """End what a server's handler has left open."""
        self._begin_close(code)
        await self.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self.abort()
            return
        await self.close(1000 if kind is None else 1011)

    def _closed(self) -> WebSocketClosed:
        """Return the error that says how the WebSocket ended, or is ending."""
        session, conn = self._session, self._conn
        code, reason = 1006, ""
        if session.is_over or session.is_closing:
            code, reason = session.code, session.reason
        return stream_errors.mark(conn, WebSocketClosed(code, reason, address=conn.remote_addr))

    # -------------------------------------------------------------------------- properties

    @property
    def close_code(self) -> int | None:
        """How it ended, as `WebSocketClosed.code`; None while it is open."""
        return self._session.code if self._session.is_over else None

    @property
    def close_reason(self) -> str | None:
        """Why, as `WebSocketClosed.reason`; None while it is open."""
        return self._session.reason if self._session.is_over else None

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: neither end has begun to close it."""
        return not (self._session.is_closing or self._session.is_over) and self._conn.is_alive

    @property
    def unsent_bytes(self) -> int:
        """How many bytes of messages the operating system has not taken yet."""
        return self._conn.unsent_bytes

    @property
    def remote_addr(self) -> str:
        """The peer's address, as `Conn.remote_addr`."""
        return self._conn.remote_addr

    @property
    def local_addr(self) -> str:
        """This end's address, as `Conn.local_addr`."""
        return self._conn.local_addr

    @property
    def tls(self) -> TLSInfo | None:
        """What TLS has negotiated; None without it."""
        return self._conn.tls

    def __repr__(self) -> str:
        state = "closed" if self._session.is_over else "open" if self.is_open else "closing"
        return f"<WebSocket with {self._conn.remote_addr}, {state}>"


def _read_now(conn: StreamConn) -> bytes:
    """Return what has arrived, without waiting, or raise why nothing will."""
    read = conn.read()
    try:
        while True:  # other tasks should run, but none does now
            waits_for = read.send(None)
            assert waits_for is None
    except StopIteration as done:
        return bytes(done.value)
    finally:
        read.close()
