"""WebSockets for ``silly connect``: each line of the input is a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from silly.cli.connecting.pieces import Pieces
from silly.errors import EndOfStream
from silly.net import websocket
from silly.net.websocket.errors import meaning_of

__all__ = ["Messages", "open_websocket"]

_PING_INTERVAL: Final = 1.0  # seconds
_CLOSE_TIME: Final = 2.0  # seconds for the other end to answer

Say = Callable[[str], None]


async def open_websocket(
    url: str, timeout: float | None, client: Any, *, is_binary: bool, pings: bool, say: Say
) -> Messages:
    """Open the WebSocket at *url*."""
    ws = await websocket.connect(url, timeout=timeout, tls=client)
    return Messages(ws, is_binary=is_binary, pings=pings, say=say)


class Messages(Pieces):
    """What ``silly connect`` needs of a connection, over a WebSocket.

    A text message is shown as a line, a binary one as it is.
    """

    def __init__(self, ws: websocket.WebSocket, *, is_binary: bool, pings: bool, say: Say) -> None:
        super().__init__()
        self._ws = ws
        self._is_binary = is_binary
        self._say = say
        self._pinging = asyncio.create_task(self._ping()) if pings else None

    @property
    def remote_addr(self) -> str:
        """The peer's address."""
        return self._ws.remote_addr

    async def _send(self, line: bytes) -> None:
        data = line if self._is_binary else line.removesuffix(b"\n").removesuffix(b"\r")
        await self._ws.send(data if self._is_binary else data.decode(errors="replace"))

    async def _next(self, timeout: float | None) -> bytes:
        try:
            message = await self._ws.recv(timeout=timeout)
        except websocket.WebSocketClosed as closed:
            if closed.code in {1000, 1001}:
                raise EndOfStream("closed", address=self.remote_addr) from None
            raise
        return message if isinstance(message, bytes) else message.encode() + b"\n"

    async def _ping(self) -> None:
        try:
            while True:
                seconds = await self._ws.ping()
                self._say(f"pong after {seconds * 1e3:.3f} ms")
                await asyncio.sleep(_PING_INTERVAL)
        except websocket.WebSocketClosed:
            pass  # which is said elsewhere

    def abort(self) -> None:
        """Reset the connection."""
        self._ws.abort()

    async def __aexit__(self, *_: object) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        try:
            async with asyncio.timeout(_CLOSE_TIME):
                await self._ws.close()
        except TimeoutError:
            self._ws.abort()
        code = self._ws.close_code or 1006
        meaning = meaning_of(code)
        text = f"Closed: {code}" + (f" ({meaning})" if meaning else "")
        if self._ws.close_reason:
            text += f", {self._ws.close_reason}"
        self._say(text)
