"""UDP for ``silly connect``: a socket that is talked to as a connection is.

Each line of the input is a datagram. UDP has no end: after the end of the input, the
conversation is over when nothing has arrived for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, Self

from silly.errors import EndOfStream
from silly.net import udp

__all__ = ["AFTER_INPUT", "Datagrams"]

AFTER_INPUT: Final = 1.0  # seconds without a datagram after the end of the input


class Datagrams:
    """What ``silly connect`` needs of a connection, over a UDP socket."""

    idle_timeout: float | None = None

    def __init__(self, sock: udp.Socket) -> None:
        self._socket = sock
        self._rest = b""  # an unfinished line
        self._reading: asyncio.Task[bytes] | None = None
        self._is_over = False

    @property
    def remote_addr(self) -> str:
        """The peer's address."""
        return str(self._socket.peer)

    def write(self, data: bytes) -> Awaitable[None]:
        """Send each line of *data* as a datagram; an unfinished one waits for its end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return self._send([line + b"\n" for line in lines])

    async def _send(self, lines: list[bytes]) -> None:
        for line in lines:
            await self._socket.send(line)

    def close_write(self) -> None:
        """Send an unfinished line; from now on, silence is the end."""
        if self._rest:
            self._socket.send(self._rest)
        self._is_over = True
        if self._reading is not None:
            self._reading.cancel()  # it begins again, with the shorter timeout

    async def read(self) -> bytes:
        """Return the next datagram.

        Raises:
            EndOfStream: nothing came for a while after the end of the input.
            TimeoutError: nothing came for `idle_timeout` before.
            ConnectionRefusedError: no program receives there.
        """
        while True:
            was_over = self._is_over
            self._reading = asyncio.create_task(self._receive())
            try:
                return await self._reading
            except asyncio.CancelledError:
                if was_over or not self._is_over or not self._reading.cancelled():
                    raise
            finally:
                self._reading.cancel()

    async def _receive(self) -> bytes:
        timeout = self.idle_timeout
        if self._is_over:
            timeout = AFTER_INPUT if timeout is None else timeout
        try:
            data, _ = await self._socket.recv(timeout=timeout)
        except TimeoutError:
            if self._is_over:
                raise EndOfStream("nothing more came", address=self.remote_addr) from None
            raise
        return data

    def abort(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()
