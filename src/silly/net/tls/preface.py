"""The preface of listeners with TLS: the handshake, before the handler starts.

This file is compiled a second time for the native engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ssl
from typing import Any, Final

from silly._engine import engine
from silly.net.conn import StreamConn
from silly.net.limits import Limits
from silly.net.preface import Ended, PrefaceError, Steps, refusal_of
from silly.net.tls.config import Server
from silly.net.tls.failures import reason_of, text_of

from .hello import Hello  # relative: each engine has its own
from .turns import Turns

__all__ = ["Handshake", "Handshakes"]

# For browsers: most people see it when they forget the s of https.
_TO_HTTP: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks TLS: use https://\n"
)


class Handshakes:
    """The handshakes of one listener, and their counts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server, limits: Limits) -> None:
        self.loop = loop
        self.server = server
        self.counts: dict[str, int] = {}  # of complete ones, such as "TLSv1.3 resumed"
        self.turns = Turns(loop, limits.max_handshakes_per_client)

    @property
    def put_off(self) -> int:
        """How many had to wait for others."""
        return self.turns.put_off

    def start(self, conn: StreamConn, ended: Ended, context: contextvars.Context) -> Handshake:
        """See `silly.net.preface.Stepped.start`."""
        return Handshake(self, conn, ended, context)

    async def __call__(self, conn: StreamConn) -> None:
        """Do the handshake with a client, after other prefaces.

        Raises:
            PrefaceError: it failed.
        """
        waiter = engine.new_waiter(self.loop)
        errors: list[BaseException | None] = []

        def ended(_: Steps, refused: Exception | None, defect: Any, _cancelled: bool) -> None:
            errors.append(refused or defect)
            if not waiter.done():  # cancelled
                waiter.set_result(None)

        handshake = self.start(conn, ended, contextvars.copy_context())
        handshake._consume()  # what has arrived already
        try:
            if not handshake.is_over:
                await waiter
        except asyncio.CancelledError:
            handshake.drop()
            raise
        if errors[0] is not None:
            raise errors[0]


class Handshake:
    """The handshake with one client. It is no task: each step is called when it can be taken."""

    __slots__ = (
        "_all",
        "_client",
        "_conn",
        "_context",
        "_ended",
        "_hello",
        "_turn",
        "is_over",
    )

    def __init__(
        self,
        all_: Handshakes,
        conn: StreamConn,
        ended: Ended,
        context: contextvars.Context,
    ) -> None:
        self._all = all_
        self._conn = conn
        self._ended = ended
        self._context = context  # of all steps but the first, and of *ended*
        self._hello = Hello()
        self._client = b""
        self._turn: asyncio.Future[None] | None = None
        self.is_over = False
        conn._consumer = self

    # --------------------------------------------------------------------- the steps

    def _consume(self) -> None:
        """Take what has arrived of the client's first message (called by the connection)."""
        if self._turn is not None or self.is_over:
            return
        conn, all_ = self._conn, self._all
        try:
            if not self._hello.feed(conn._read_now()):
                return
        except ssl.SSLError as error:
            self.drop()
            if error.reason == "HTTP_REQUEST":
                with contextlib.suppress(OSError):  # it is closed already
                    conn.write(_TO_HTTP)
                    conn.close()
            self._ended(self, PrefaceError(reason_of(error), text_of(error)), None, False)
        except Exception as error:  # noqa: BLE001 - of the connection, or a defect
            self._fail(error)
        else:
            self._client = conn._client
            self._turn = engine.new_callback(all_.loop, self._begin, self._context)
            all_.turns.wait(self._client, self._turn)

    def _drain(self) -> None:
        """Go on when the listener closes: the deadlines of both bound it."""

    def _begin(self, _: object) -> None:
        """Answer the first message: the client's turn has come."""
        if self.is_over:
            return
        hello = self._hello
        try:
            session = self._all.server.new_session(hello.name)
            self._conn._put_filter(session, bytes(hello.received))
        except Exception as error:  # noqa: BLE001 - likewise
            self._fail(error)
        else:
            self._go_on()

    def _go_on(self, _: object = None) -> None:
        """End the handshake if it is complete."""
        if self.is_over:
            return
        conn, all_ = self._conn, self._all
        info = conn._filter_info
        if info is None:
            try:
                conn._is_ready(engine.new_callback(all_.loop, self._go_on, self._context))
            except Exception as error:  # noqa: BLE001 - likewise
                loss = conn._loss
                if isinstance(error, OSError) and isinstance(loss, ssl.SSLError):
                    error = PrefaceError(reason_of(loss), text_of(loss))
                self._fail(error)
            return
        what = info.counted_as
        all_.counts[what] = all_.counts.get(what, 0) + 1
        self.drop()
        self._ended(self, None, None, False)

    # ----------------------------------------------------------------------- its end

    def _fail(self, error: Exception) -> None:
        self.drop()
        refused = refusal_of(self._conn, error)
        self._ended(self, refused, None if refused else error, False)

    def drop(self) -> None:
        """Take no more steps."""
        self.is_over = True
        if self._conn._consumer is self:
            self._conn._consumer = None
        turn, self._turn = self._turn, None
        if turn is not None:
            self._all.turns.end(self._client, turn)

    def cancel(self) -> None:
        """See `silly.net.preface.Steps`."""
        if not self.is_over:
            self.drop()
            self._all.loop.call_soon(self._ended, self, None, None, True, context=self._context)
