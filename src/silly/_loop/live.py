"""What keeps a program running: listeners, connections, datagram sockets, tasks and timers.

Each event loop has one `Live`. Objects that keep the program running add themselves
and are removed when they end; this also protects them from garbage collection.
`silly.runtime` waits until it is empty, and drains what is in it.

When the loop is closed, everything left in it is closed first, so that no port stays
taken and no descriptor stays open until garbage collection. A forked child empties it:
the child has copies of all descriptors, which would keep ports taken and connections
open, and it shares the loop's epoll set, which it must not change.
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

from silly._logs.repeats import Repeats
from silly._loop.registry import PerLoop

__all__ = ["AFTER_CANCEL", "INTERNAL_TASK", "Live", "disown_socket", "separate_set"]

AFTER_CANCEL: Final = 1.0  # seconds for a cancelled task to clean up
INTERNAL_TASK: Final = "silly: "  # prefix of the names of the framework's own tasks

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()  # those with a `Live`


class _Listener(Protocol):
    @property
    def connections(self) -> int: ...
    @property
    def local_addrs(self) -> tuple[str, ...]: ...
    @property
    def is_encrypted(self) -> bool: ...
    def close(self, grace: float = ...) -> asyncio.Future[None]: ...
    async def wait_closed(self) -> None: ...
    def _be_auxiliary(self) -> None: ...
    def _disown(self) -> None: ...


class _Conn(Protocol):
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def _disown(self) -> None: ...


class _Socket(Protocol):
    @property
    def local_addr(self) -> str: ...
    @property
    def is_bound(self) -> bool: ...
    def close(self) -> None: ...
    def _disown(self) -> None: ...


class _Bus(Protocol):
    async def close(self) -> None: ...
    def _disown(self) -> None: ...


class _Timer(Protocol):
    def cancel(self) -> None: ...


class Live:
    """The objects of one event loop that keep the program running."""

    __slots__ = (
        "_empty",
        "_watchers",
        "auxiliaries",
        "buses",
        "conns",
        "crashes",
        "is_ready",
        "is_stopping",
        "listeners",
        "on_listening",
        "sockets",
        "stop",
        "tasks",
        "timers",
    )

    def __init__(self) -> None:
        self.listeners: set[_Listener] = set()
        self.auxiliaries: set[_Listener] = (
            set()
        )  # report on the others; do not keep the program running
        self.buses: set[_Bus] = set()  # `silly.pubsub`; do not keep the program running
        self._watchers: set[asyncio.Task[None]] = set()
        self.conns: set[_Conn] = set()  # made by `connect`
        self.sockets: set[_Socket] = set()  # datagram sockets
        self.tasks: set[asyncio.Task[Any]] = set()  # made by `silly.task.fork`
        self.timers: set[_Timer] = set()
        self.crashes: Repeats | None = None  # of tasks and timers; see `silly.task`
        self.on_listening: Callable[[], object] | None = None
        # What runs the program (silly.runtime.program) sets these:
        self.is_ready = False  # it listens, or its main coroutine has returned
        self.is_stopping = False
        self.stop: Callable[[float | None], object] | None = None  # drains it, with a grace
        self._empty: asyncio.Event | None = None

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> Live:
        """Return the one `Live` of *loop*."""
        return _lives.of(loop)

    def __bool__(self) -> bool:
        return bool(self.listeners or self.conns or self.sockets or self.tasks or self.timers)

    def add_listener(self, listener: _Listener) -> None:
        """Add *listener*, and call `on_listening`."""
        self.listeners.add(listener)
        if self.on_listening is not None:
            self.on_listening()

    def add_socket(self, sock: _Socket) -> None:
        """Add *sock*, and call `on_listening` if it is bound to receive from anyone."""
        self.sockets.add(sock)
        if sock.is_bound and self.on_listening is not None:
            self.on_listening()

    def socket_closed(self, sock: _Socket) -> None:
        """Remove *sock*, which is closed; `silly._engine.interface.DatagramOwner` has it."""
        self.sockets.discard(sock)
        self.wake_if_empty()

    def close_sockets(self) -> None:
        """Close all datagram sockets."""
        for sock in list(self.sockets):
            sock.close()

    def add_auxiliary(self, listener: _Listener, stop: Callable[[], None] | None = None) -> None:
        """Make *listener* auxiliary; call *stop* when it is closed or the loop ends."""
        self.listeners.discard(listener)
        self.auxiliaries.add(listener)
        listener._be_auxiliary()
        task = asyncio.get_running_loop().create_task(
            self._watch(listener, stop), name=f"{INTERNAL_TASK}watching a listener"
        )
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    async def _watch(self, listener: _Listener, stop: Callable[[], None] | None) -> None:
        try:
            await listener.wait_closed()
            self.auxiliaries.discard(listener)
        finally:
            if stop is not None:
                stop()

    def wake_if_empty(self) -> None:
        """Wake `wait_empty` if nothing is left; to be called after each removal."""
        if self._empty is not None and not self:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until nothing keeps the program running."""
        while self:
            self._empty = asyncio.Event()
            await self._empty.wait()

    async def end(self, *others: asyncio.Task[Any]) -> None:
        """Close everything now; cancel the tasks and *others*, and wait up to a second for them."""
        closings = [listener.close(0) for listener in [*self.listeners, *self.auxiliaries]]
        for timer in list(self.timers):
            timer.cancel()
        for conn in list(self.conns):
            conn.abort()
        self.close_sockets()
        if tasks := {*others, *self.tasks}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=AFTER_CANCEL)
        closings += [asyncio.ensure_future(bus.close()) for bus in list(self.buses)]
        if closings:
            await asyncio.gather(*closings, return_exceptions=True)
        if self._watchers:
            await asyncio.wait(self._watchers, timeout=AFTER_CANCEL)
        with contextlib.suppress(TimeoutError):  # aborted connections need a pass or two
            async with asyncio.timeout(AFTER_CANCEL):
                await self.wait_empty()

    def disown(self) -> None:
        """In a forked child: drop everything, which is the parent's."""
        for listener in (*self.listeners, *self.auxiliaries):
            listener._disown()
        for conn in self.conns:
            conn._disown()
        for sock in self.sockets:
            sock._disown()
        for bus in self.buses:
            bus._disown()
        for each in (self.listeners, self.auxiliaries, self.conns, self.sockets, self.buses):
            each.clear()
        self.tasks.clear()
        self.timers.clear()
        if self.crashes is not None:
            self.crashes.forget()


def _new(loop: asyncio.AbstractEventLoop) -> Live:
    live = Live()
    _loops.add(loop)
    _end_on_close(loop, live)
    return live


_lives: Final = PerLoop("live", _new)


def _end_on_close(loop: asyncio.AbstractEventLoop, live: Live) -> None:
    """End *live* when *loop* is closed, no matter by whom."""
    close = loop.close

    def end_and_close() -> None:
        if loop.is_running():
            close()  # which raises
            return  # pragma: no cover
        vars(loop).pop("close", None)
        try:
            if (live or live.auxiliaries or live.buses) and asyncio._get_running_loop() is None:
                loop.run_until_complete(live.end())
        except Exception as error:  # noqa: BLE001 - for example, the loop cannot run any more
            loop.call_exception_handler(
                {"message": "not everything could be closed with the loop", "exception": error}
            )
        finally:
            close()
            if live.crashes is not None:
                live.crashes.close()
            # Break the reference cycles with what the engine keeps for the loop.
            vars(loop).pop("_silly_reactor", None)
            vars(loop).pop("_silly_poller", None)

    loop.close = end_and_close  # type: ignore[method-assign]


def disown_socket(sock: socket.SocketType) -> None:
    """In a forked child: close the descriptor of *sock*, which is the parent's.

    The null device takes its number, because an object that does not know of this,
    such as a transport, may close that number later.
    """
    if sock.fileno() >= 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, sock.fileno(), inheritable=False)
        os.close(null)


def _forked() -> None:
    for loop in list(_loops):
        _separate(loop)
        Live.of(loop).disown()


def _separate(loop: asyncio.AbstractEventLoop) -> None:
    """Give the child's copy of *loop* its own epoll set, in case it is run or closed.

    A child that raises SystemExit closes it. The descriptor of uvloop's is not known.
    """
    selector = getattr(loop, "_selector", None)
    if hasattr(select, "epoll") and isinstance(selector, selectors.EpollSelector):
        separate_set(selector)


def separate_set(shared: Any) -> None:
    """In a forked child: put an empty epoll set in place of *shared*, under its number."""
    with contextlib.suppress(ValueError, OSError), select.epoll() as own:  # it may be closed
        os.dup2(own.fileno(), shared.fileno(), inheritable=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
