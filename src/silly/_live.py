"""What a program is still running for: its listeners, connections, tasks and timers.

One `Live` for each event loop. Whatever can be a reason to stay up enters
itself here and leaves when it ends, which also keeps it from being collected
early. `silly.runtime` waits until nothing is left, and knows what to drain.

What is left when the loop is closed goes with it: no port stays taken, and no
descriptor open, until the garbage collector finds them. In a forked child nothing
of it is left: the child has copies of all descriptors, which would keep ports
taken and connections open, and shares the loop's epoll set, in which it must not
touch anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import selectors
import socket
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

from silly._repeats import Repeats

__all__ = ["AFTER_CANCEL", "OWN_TASK", "Live", "let_go"]

AFTER_CANCEL: Final = 1.0  # seconds that a cancelled task has to clean up
OWN_TASK: Final = "silly: "  # begins the names of tasks that are no program's

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()  # which have a `Live`


class _Listener(Protocol):
    _is_attendant: bool

    @property
    def connections(self) -> int: ...
    @property
    def local_addrs(self) -> tuple[str, ...]: ...
    def close(self, grace: float = ...) -> asyncio.Future[None]: ...
    async def wait_closed(self) -> None: ...
    def _disown(self) -> None: ...


class _Conn(Protocol):
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def _disown(self) -> None: ...


class _Timer(Protocol):
    def cancel(self) -> None: ...


class Live:
    """The reasons to stay up, of one event loop."""

    __slots__ = (
        "_attending",
        "_empty",
        "attendants",
        "conns",
        "crashes",
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
        self.crashes: Repeats | None = None  # of tasks and timers; see `silly.task`
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
            _loops.add(loop)
            _end_with(loop, live)
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
        task = asyncio.get_running_loop().create_task(
            self._attend(listener, stop), name=f"{OWN_TASK}attending"
        )
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)

    async def _attend(self, listener: _Listener, stop: Callable[[], None] | None) -> None:
        try:
            await listener.wait_closed()
            self.attendants.discard(listener)
        finally:
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

    async def end(self, *others: asyncio.Task[Any]) -> None:
        """Close all at once: the *others*, too, are cancelled and waited for, a second at most."""
        closings = [listener.close(0) for listener in [*self.listeners, *self.attendants]]
        for timer in list(self.timers):
            timer.cancel()
        for conn in list(self.conns):
            conn.abort()
        if tasks := {*others, *self.tasks}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=AFTER_CANCEL)
        if closings:
            await asyncio.gather(*closings, return_exceptions=True)
        if self._attending:
            await asyncio.wait(self._attending, timeout=AFTER_CANCEL)
        with contextlib.suppress(TimeoutError):  # aborted: they leave within a pass or two
            async with asyncio.timeout(AFTER_CANCEL):
                await self.wait_empty()

    def disown(self) -> None:
        """In a forked child: let go of everything that is the parent's."""
        for listener in (*self.listeners, *self.attendants):
            listener._disown()
        for conn in self.conns:
            conn._disown()
        for each in (self.listeners, self.attendants, self.conns, self.tasks, self.timers):
            each.clear()
        if self.crashes is not None:
            self.crashes.forget()


def _end_with(loop: asyncio.AbstractEventLoop, live: Live) -> None:
    """Have *live* end when *loop* is closed, in whatever way that comes about."""
    close = loop.close

    def end_and_close() -> None:
        if loop.is_running():
            close()  # which refuses
            return
        vars(loop).pop("close", None)
        try:
            if (live or live.attendants) and asyncio._get_running_loop() is None:
                loop.run_until_complete(live.end())
        except Exception as error:  # noqa: BLE001 - such as a loop that cannot run any more
            loop.call_exception_handler(
                {"message": "what was open could not be closed with its loop", "exception": error}
            )
        finally:
            close()
            if live.crashes is not None:
                live.crashes.close()
            # It and the loop refer to each other.
            loop._silly_reactor = None  # type: ignore[attr-defined]

    loop.close = end_and_close  # type: ignore[method-assign]


def let_go(sock: socket.socket) -> None:
    """Close the descriptor of *sock*, which is the parent's, in a forked child.

    The null device takes its place: what does not know of it, such as a
    transport, may close that number some time.
    """
    if sock.fileno() >= 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, sock.fileno(), inheritable=False)
        os.close(null)


def _forked() -> None:
    for loop in list(_loops):
        _part(loop)
        loop._silly_live.disown()  # type: ignore[attr-defined]


def _part(loop: asyncio.AbstractEventLoop) -> None:
    """Give the child's copy of *loop* an epoll set of its own, should it run on or be closed.

    A child that raises SystemExit does so. Of uvloop's the descriptor is not known.
    """
    selector = getattr(loop, "_selector", None)
    if hasattr(select, "epoll") and isinstance(selector, selectors.EpollSelector):
        with contextlib.suppress(ValueError, OSError), select.epoll() as own:  # it may be closed
            os.dup2(own.fileno(), selector.fileno(), inheritable=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
