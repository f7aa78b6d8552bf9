"""The seam between what moves bytes and what gives them meaning.

A `Link` carries the bytes of one connection and knows nothing else: no
delimiter, no limit, no timeout. A `Stream` (stream.py) gives them meaning and
never meets a socket. Between the two there are nine calls down (`Link`) and
five calls up (`Upward`). The portable engine is links over asyncio's transports;
the native engine's stream is both in one.

Calls up are made from the event loop's own callbacks, one at a time, and in
this order: any number of `received`, at most one `ended`, `crowded` and
`uncrowded` in turns, and at last one `lost`, after which the link is gone.
A call down may be followed by a call up before it returns only where that is
said below.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

__all__ = ["Accept", "Engine", "Link", "Server", "Upward"]


class Link(Protocol):
    """One connection's way to the other side."""

    def send(self, data: bytes) -> None:
        """Send *data* after all that was sent before; never blocks.

        What the operating system does not take now is queued. May call
        `crowded` before it returns.
        """

    def unsent(self) -> int:
        """Return how many bytes are queued here, not yet taken by the operating system."""

    def pause(self) -> None:
        """Stop receiving; TCP's flow control then holds the peer back."""

    def resume(self) -> None:
        """Receive again after `pause`."""

    def finish(self) -> None:
        """Send FIN when the queue is empty (half-close); receiving goes on."""

    def set_high_water(self, size: int) -> None:
        """Call `crowded` above *size* queued bytes (64 KiB at first), `uncrowded` at a quarter."""

    def call_when_empty(self) -> None:
        """Call `uncrowded` once when the queue is empty. It is not empty now."""

    def has_unread(self) -> bool:
        """Tell whether the operating system holds bytes that were not received yet."""

    def close(self) -> None:
        """Stop receiving, send what is queued, then FIN and close; `lost(None)` follows."""

    def abort(self) -> None:
        """Drop what is queued and reset the connection; `lost(None)` follows."""

    @property
    def local_sockaddr(self) -> Any:
        """This end's address, as the `socket` module gives it."""

    @property
    def remote_sockaddr(self) -> Any:
        """The other end's address, as the `socket` module gives it."""


class Upward(Protocol):
    """What a link calls; `Stream` is the implementation."""

    def received(self, piece: bytes) -> None:
        """One or more bytes arrived."""

    def ended(self) -> None:
        """The peer sent FIN: nothing more will be received; sending still works."""

    def crowded(self) -> None:
        """The link's queue grew past its high-water mark."""

    def uncrowded(self) -> None:
        """The link's queue shrank to its low-water mark (or to nothing, if asked)."""

    def lost(self, error: OSError | None) -> None:
        """The link is gone: closed as asked (None), or for *error*."""


Accept = Callable[[Any], Any]
"""Called once for each connection with what the engine's `Stream` takes as its first
argument (a `Link`; in the native engine a descriptor); returns the stream made of it."""


class Server(Protocol):
    """Accepts connections on one listening socket."""

    def close(self) -> None:
        """Stop accepting and close the listening socket."""


class Engine(Protocol):
    """A module that moves bytes."""

    NAME: str

    Stream: type
    """What gives them meaning: `silly._engine.stream.Stream`, or one that does the same."""

    def serve(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        backlog: int,
        accept: Accept,
        busy_poll: float,
    ) -> Server:
        """Accept connections on *sock*, which is listening, until the server is closed.

        An engine that can polls for *busy_poll* seconds after each event before
        the loop may sleep.

        The socket belongs to the server from now on. *accept* is called for
        each connection; what it raises is a defect and goes to the loop's
        exception handler.
        """

    async def attach(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept
    ) -> None:
        """Make a connection of *sock*, which is connected, and call *accept* for it.

        The socket belongs to the connection from now on, and is closed if this
        is cancelled.
        """

    def stepped(self, coroutine: Coroutine[Any, Any, object]) -> Coroutine[Any, Any, object]:
        """Return what a handler's task is to run: *coroutine*, or what steps it faster."""
