"""Turns of handshakes: many at once hold up neither other connections nor other clients.

A handshake takes as much processor time as hundreds of messages. So in each pass of the
event loop only one begins. Clients take turns, however many handshakes each of them wants,
and the handshakes in progress are limited for each client. The others wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

__all__ = ["Turns"]


class Turns:
    """The handshakes of one listener, by client (a packed IP address; see `Gate`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int | None) -> None:
        """Let *most* handshakes of a client be in progress at a time; None: any number."""
        self._loop = loop
        self._most = most
        self._running: dict[bytes, int] = {}
        self._waiting: OrderedDict[bytes, deque[asyncio.Future[None]]] = OrderedDict()
        self._pass: asyncio.Handle | None = None  # the end of a pass in which one began

    async def begin(self, client: bytes) -> None:
        """Wait for a turn of *client*; call `end` afterwards, unless this raises."""
        key = client[:8] if len(client) == 16 else client  # of IPv6, the network
        if self._pass is None and not self._waiting and self._may_run(key):
            self._start(key)
            return
        turn = self._loop.create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.end(client)
            raise

    def end(self, client: bytes) -> None:
        """Note that a handshake of *client* has ended."""
        key = client[:8] if len(client) == 16 else client
        left = self._running[key] - 1
        if left:
            self._running[key] = left
        else:
            del self._running[key]
        if self._waiting and self._pass is None:
            self._next()

    def _may_run(self, key: bytes) -> bool:
        return not key or self._most is None or self._running.get(key, 0) < self._most

    def _start(self, key: bytes) -> None:
        self._running[key] = self._running.get(key, 0) + 1
        self._pass = self._loop.call_soon(self._next)

    def _next(self) -> None:
        """Begin the next handshake whose client has not got too many."""
        self._pass = None
        for key, turns in list(self._waiting.items()):
            if not self._may_run(key):
                continue
            while turns and (turn := turns.popleft()).cancelled():
                pass
            if turns:
                self._waiting.move_to_end(key)
            else:
                del self._waiting[key]
            if not turn.cancelled():
                self._start(key)
                turn.set_result(None)
                return
