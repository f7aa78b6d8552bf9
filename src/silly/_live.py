"""What a program is still running for: its listeners, connections, tasks and timers.

One `Live` for each event loop. Whatever can be a reason to stay up enters
itself here and leaves when it ends, which also keeps it from being collected
early. `silly.runtime` waits until nothing is left, and knows what to drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Live"]


class _Listener(Protocol):
    _is_attendant: bool

    @property
    def connections(self) -> int: ...
    def close(self, grace: float = ...) -> asyncio.Future[None]: ...
    async def wait_closed(self) -> None: ...


class _Conn(Protocol):
    def close(self) -> None: ...
    def abort(self) -> None: ...


class _Timer(Protocol):
    def cancel(self) -> None: ...


class Live:
    """The reasons to stay up, of one event loop."""

    __slots__ = (
        "_attending",
        "_empty",
        "attendants",
        "conns",
        "listeners",
        "tasks",
        "timers",
        "when_listening",
    )

    def __init__(self) -> None:
        self.listeners: set[_Listener] = set()
        self.attendants: set[_Listener] = set()  # no reason to stay up: they tell of the others
        self._attending: set[asyncio.Task[None]] = set()
        self.conns: set[_Conn] = set()  # those that no listener accepted
        self.tasks: set[asyncio.Task[Any]] = set()  # forked
        self.timers: set[_Timer] = set()
        self.when_listening: Callable[[], object] | None = None
        self._empty: asyncio.Event | None = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Live:
        """Return the one `Live` of *loop*."""
        # An attribute, not an entry of a dictionary of ours: what is in here refers to the
        # loop, so such an entry would keep both forever.
        live: Live | None = getattr(loop, "_silly_live", None)
        if live is None:
            live = cls()
            loop._silly_live = live  # type: ignore[attr-defined]
        return live

    def __bool__(self) -> bool:
        return bool(self.listeners or self.conns or self.tasks or self.timers)

    def listens(self, listener: _Listener) -> None:
        """Enter *listener*, and tell of it."""
        self.listeners.add(listener)
        if self.when_listening is not None:
            self.when_listening()

    def attend(self, listener: _Listener, stop: Callable[[], None] | None = None) -> None:
        """Make *listener* an attendant; call *stop* when it is closed, or the loop ends."""
        self.listeners.discard(listener)
        self.attendants.add(listener)
        listener._is_attendant = True
        task = asyncio.get_running_loop().create_task(self._attend(listener, stop))
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)

    async def _attend(self, listener: _Listener, stop: Callable[[], None] | None) -> None:
        try:
            await listener.wait_closed()
        finally:
            self.attendants.discard(listener)
            if stop is not None:
                stop()

    def left(self) -> None:
        """Be told that something ended, and was taken out of its set."""
        if self._empty is not None and not self:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until nothing is left to stay up for."""
        while self:
            self._empty = asyncio.Event()
            await self._empty.wait()
