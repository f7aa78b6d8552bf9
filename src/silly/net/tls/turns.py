"""Turns of handshakes: many at once hold up neither other connections nor other clients.

A handshake takes as much processor time as hundreds of messages. So only one begins at a time,
after all else that is ready has been served (`Engine.call_last`). Clients take turns, however
many handshakes each of them wants, and the handshakes in progress are limited for each client.
The others wait.

This file is compiled a second time for the native engine.
"""

from __future__ import annotations

import asyncio

from silly._engine import engine

__all__ = ["Turns"]


class Turns:
    """The handshakes of one listener, by client (a packed IP address; see `Gate`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int | None) -> None:
        """Let *most* handshakes of a client be in progress at a time; None: any number."""
        self._loop = loop
        self._most = most
        self._running: dict[bytes, int] = {}
        # Sets would not keep their order.
        self._waiting: dict[bytes, dict[asyncio.Future[None], None]] = {}
        self._ready: dict[bytes, None] = {}  # those waiting that may run
        self._is_due = False  # `_next` will be called
        self.put_off = 0  # handshakes that had to wait for others

    def wait(self, client: bytes, turn: asyncio.Future[None]) -> None:
        """Set the result of *turn* when a handshake of *client* may begin.

        Do not cancel it: when the handshake is over, or no longer wanted, call `end`.
        """
        key = _network(client)
        may_run = self._may_run(key)
        if self._ready or not may_run:
            self.put_off += 1
        if key in self._waiting:
            self._waiting[key][turn] = None
        else:
            self._waiting[key] = {turn: None}
        if may_run:
            self._be_ready(key)

    def end(self, client: bytes, turn: asyncio.Future[None]) -> None:
        """Note that the handshake of *client* that got, or waits for, *turn* is over."""
        key = _network(client)
        if key in self._waiting and self._forget(key, turn):
            return
        left = self._running[key] - 1
        if left:
            self._running[key] = left
        else:
            del self._running[key]
        if key in self._waiting:
            self._be_ready(key)

    def _may_run(self, key: bytes) -> bool:
        return not key or self._most is None or self._running.get(key, 0) < self._most

    def _be_ready(self, key: bytes) -> None:
        self._ready.setdefault(key)
        if not self._is_due:
            self._is_due = True
            engine.call_last(self._loop, self._next)

    def _next(self) -> None:
        """Begin the next handshake."""
        self._is_due = False
        if not self._ready:  # those that waited are over
            return
        key = next(iter(self._ready))
        del self._ready[key]
        turns = self._waiting[key]
        turn = next(iter(turns))
        del turns[turn]
        self._running[key] = self._running.get(key, 0) + 1
        if not turns:
            del self._waiting[key]
        elif self._may_run(key):
            self._ready[key] = None
        if self._ready:
            self._is_due = True
            engine.call_last(self._loop, self._next)
        turn.set_result(None)  # last: this may do it at once

    def _forget(self, key: bytes, turn: asyncio.Future[None]) -> bool:
        """Let nobody wait for *turn*; return whether somebody did."""
        turns = self._waiting[key]
        if turn not in turns:
            return False
        del turns[turn]
        if not turns:
            del self._waiting[key]
            self._ready.pop(key, None)
        return True


def _network(client: bytes) -> bytes:
    """Return what shares the turns of *client*: of IPv6, a /64 network."""
    return client if len(client) != 16 else client[:8]
