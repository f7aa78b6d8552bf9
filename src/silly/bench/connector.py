"""Connects to the server, and counts what fails."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from silly.bench.clock import clock
from silly.bench.dispatcher import Dispatcher
from silly.bench.encryption import Sessions
from silly.bench.messages import Messages
from silly.bench.replies import ByteReplies, Replies
from silly.net import tcp, udp
from silly.net.tls.advice import advice
from silly.net.tls.config import Client

if TYPE_CHECKING:
    from silly.bench.websocket_replies import Opener

__all__ = ["Connector", "cause"]

_OPENING: Final = 64  # connections being made at the same time, at most
_GIVE_UP: Final = 10  # failed attempts in a row, with no connection open, that end the run


class Connector:
    """Opens and numbers the connections of one worker; too many failures end the run."""

    def __init__(self, dispatcher: Dispatcher, part: int) -> None:
        self.alive = 0
        """Open connections."""
        self._dispatcher = dispatcher
        self._plan = dispatcher.plan
        self._recorder = dispatcher.recorder
        self._part = part
        self._messages = dispatcher.plan.factory()
        self._replies: Callable[[int], Replies] = lambda conn: ByteReplies(self._messages(conn))
        if dispatcher.plan.http is not None:
            from silly.bench.http_replies import factory  # noqa: PLC0415 - needs an extra

            self._replies = factory(dispatcher.plan, dispatcher.recorder)
        self._opener: Opener | None = None
        if dispatcher.plan.websocket is not None:
            from silly.bench.websocket_replies import opener  # noqa: PLC0415 - needs an extra

            self._opener = opener(dispatcher.plan)
        self._count = 0
        self._failures = 0
        self._slots = asyncio.Semaphore(_OPENING)
        tls = dispatcher.plan.tls
        self._client = None if tls is None else tls.client()

    def sessions(self) -> Sessions | None:
        """Return an object for the TLS sessions of one lane; None: there is no TLS."""
        tls = self._plan.tls
        if tls is None or self._client is None:
            return None
        return Sessions(self._client, tls.resume)

    async def connect(
        self, sessions: Sessions | None, due: int | None = None
    ) -> tuple[tcp.Conn, int, Replies] | None:
        """Open a connection; return it, its number and the replies that it owes.

        If that fails, record the error and return None. *due* is when the request that
        waits for the connection was due, if there is one.
        """
        number = self._count * self._plan.workers + self._part
        self._count += 1
        began, connected = clock(), 0
        try:
            async with self._slots:
                conn = await tcp.connect(
                    self._plan.addr,
                    timeout=self._plan.timeout,
                    read_limit=1 << 24,
                    max_unsent=1 << 40,
                    linger=1,
                )
                connected = clock()
                if sessions is not None:
                    left = self._plan.timeout - (connected - began) / 1e9
                    await self._encrypt(conn, sessions.next(), max(0.001, left))
                if self._opener is None:
                    replies = self._replies(number)
                else:
                    left = self._plan.timeout - (clock() - began) / 1e9
                    replies = await self._open(self._opener, conn, number, max(0.001, left))
        except OSError as error:
            self._failures += 1
            now = clock()
            if isinstance(error, TimeoutError):  # the slowest of all
                if not connected:
                    self._recorder.connected(now - began)
                if due is not None:
                    self._recorder.gave_up(now, due, None)
            kind = getattr(error, "kind", "handshake" if connected else "connect")
            self._recorder.failed(now, kind, f"connection {number}: {cause(error)}")
            if self._failures >= _GIVE_UP and not self.alive:
                self._dispatcher.stop(f"could not connect any more: {cause(error)}")
            self.check_errors()
            return None
        self._failures = 0
        self._recorder.connected(connected - began)
        self.alive += 1
        return conn, number, replies

    async def _encrypt(self, conn: tcp.Conn, client: Client, timeout: float) -> None:
        began = clock()
        try:
            await conn.start_tls(client, timeout=timeout)
        except BaseException:
            conn.abort()
            raise
        assert conn.tls is not None
        self._recorder.encrypted(clock() - began, conn.tls)

    async def _open(self, opener: Opener, conn: tcp.Conn, number: int, timeout: float) -> Replies:
        """Open a WebSocket on *conn*."""
        began = clock()
        try:
            async with asyncio.timeout(timeout):
                replies = await opener.open(conn, number)
        except TimeoutError:
            conn.abort()
            raise TimeoutError(errno.ETIMEDOUT, "no WebSocket within --timeout") from None
        except BaseException:
            conn.abort()
            raise
        self._recorder.upgraded(clock() - began)
        return replies

    async def open_socket(self) -> tuple[udp.Socket, int, Messages] | None:
        """Open a UDP socket to the server; return it, its number and its messages.

        If that fails (the name cannot be resolved, there is no route), record the error and
        return None. UDP does not tell whether the server is there.
        """
        number = self._count * self._plan.workers + self._part
        self._count += 1
        try:
            sock = await udp.connect(self._plan.addr, timeout=self._plan.timeout)
        except OSError as error:
            self._failures += 1
            text = f"connection {number}: {cause(error)}"
            self._recorder.failed(clock(), "connect", text)
            if self._failures >= _GIVE_UP and not self.alive:
                self._dispatcher.stop(f"could not connect any more: {cause(error)}")
            self.check_errors()
            return None
        self._failures = 0
        self.alive += 1
        return sock, number, self._messages(number)

    def failed(self, kind: str, text: str, count: int = 1) -> None:
        """Record an error, and stop when there are too many."""
        self._recorder.failed(clock(), kind, text, count)
        self.check_errors()

    def check_errors(self) -> None:
        """Stop when there are too many errors."""
        if self._recorder.error_count >= self._plan.max_errors:
            self._dispatcher.stop(f"stopped at {self._recorder.error_count} errors (--max-errors)")


def cause(error: OSError) -> str:
    """Return why a connection failed, as text."""
    if isinstance(error, ssl.SSLError):
        text = error.strerror or str(error)
        return text.removeprefix(f"{error.filename}: ") + advice(error)
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{error.strerror} (this machine has no free port to connect from)"
    if error.errno == errno.EMFILE:
        return f"{error.strerror} (ulimit -n)"
    if error.strerror:
        return error.strerror
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
