"""The preface of listeners with TLS: the handshake, before the handler starts."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from silly.net.conn import StreamConn
from silly.net.limits import Limits
from silly.net.preface import PrefaceError
from silly.net.tally import count
from silly.net.tls.config import Server
from silly.net.tls.failures import reason_of, text_of
from silly.net.tls.handshake import accept
from silly.net.tls.hello import read_hello
from silly.net.tls.turns import Turns

__all__ = ["Handshakes"]

# For browsers: most people see it when they forget the s of https.
_TO_HTTP: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks TLS: use https://\n"
)


class Handshakes:
    """The handshakes of one listener, and their counts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server, limits: Limits) -> None:
        self.server = server
        self.counts: dict[str, int] = {}  # of complete ones, such as "TLSv1.3 resumed"
        self._turns = Turns(loop, limits.max_handshakes_per_client)

    @property
    def put_off(self) -> int:
        """How many had to wait for others."""
        return self._turns.put_off

    async def __call__(self, conn: StreamConn) -> None:
        """Do the handshake with a client.

        Raises:
            PrefaceError: it failed.
        """
        try:
            hello, name = await read_hello(conn)
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                conn.write(_TO_HTTP)
                conn.close()
            raise PrefaceError(reason_of(error), text_of(error)) from None
        client = conn._client
        await self._turns.begin(client)
        try:
            await accept(conn, hello, name, self.server)
        except OSError:
            loss = conn._loss
            if isinstance(loss, ssl.SSLError):
                raise PrefaceError(reason_of(loss), text_of(loss)) from None
            raise
        finally:
            self._turns.end(client)
        if (info := conn.tls) is not None:
            count(self.counts, f"{info.version} resumed" if info.resumed else info.version)
