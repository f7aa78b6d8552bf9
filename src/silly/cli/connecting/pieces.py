"""Conversations in pieces for ``silly connect``: what is talked to as a connection is.

Each line of the input is a piece. The other end need not answer, so after the end of the input,
the conversation is over when nothing has come for a while.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Final, Self

from silly.errors import EndOfStream

__all__ = ["AFTER_INPUT", "Pieces"]

AFTER_INPUT: Final = 1.0  # seconds without a piece after the end of the input


class Pieces(ABC):
    """What ``silly connect`` needs of a connection."""

    idle_timeout: float | None = None

    def __init__(self) -> None:
        self._rest = b""  # an unfinished line
        self._reading: asyncio.Task[bytes] | None = None
        self._is_over = False

    @property
    @abstractmethod
    def remote_addr(self) -> str:
        """The peer's address."""

    @abstractmethod
    async def _send(self, line: bytes) -> None:
        """Send *line*, with its end if it has one."""

    @abstractmethod
    async def _next(self, timeout: float | None) -> bytes:
        """Return the next piece; raise `TimeoutError` if none comes."""

    @abstractmethod
    def abort(self) -> None:
        """End the conversation at once."""

    def write(self, data: bytes) -> Awaitable[None]:
        """Send each line of *data* as a piece; an unfinished one waits for its end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return self._send_all([line + b"\n" for line in lines])

    async def _send_all(self, lines: list[bytes]) -> None:
        for line in lines:
            await self._send(line)

    def close_write(self) -> None:
        """Send an unfinished line; from now on, silence is the end."""
        self._is_over = True
        if self._reading is not None:
            self._reading.cancel()  # it begins again, with the shorter timeout

    async def read(self) -> bytes:
        """Return the next piece.

        Raises:
            EndOfStream: nothing came for a while after the end of the input.
            TimeoutError: nothing came for `idle_timeout` before.
            OSError: the conversation has failed.
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
            rest, self._rest = self._rest, b""
            if rest:
                await self._send(rest)
            timeout = AFTER_INPUT if timeout is None else timeout
        try:
            return await self._next(timeout)
        except TimeoutError:
            if self._is_over:
                raise EndOfStream("nothing more came", address=self.remote_addr) from None
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()
