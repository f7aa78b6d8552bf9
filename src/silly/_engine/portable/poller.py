"""Watches the sockets of an event loop's connections.

To watch a socket, asyncio's loops keep a key and a handle for it, and uvloop a handle of
libuv's; each event then passes through the loop's queue. That takes longer than to receive a
short message. So where there is epoll, connections have an epoll set of their own:

- Inside: the loop's set is a member of it. The loop's selector is ours (selector.py), and waits
  in `EpollPoller.wait`.
- Nested, in every other loop: it is one descriptor that the loop watches.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from silly._engine.portable.turn import Turn, turns
from silly._engine.selector import Selector
from silly._loop.live import separate_set
from silly._loop.registry import PerLoop

__all__ = ["READ", "WRITE", "EpollPoller", "LoopPoller", "Poller", "Watched", "pollers"]

READ: Final = 1  # as EPOLLIN
WRITE: Final = 4  # as EPOLLOUT

_INSIDE: Final = {"_ready", "_scheduled", "_stopping"}  # tell when the loop has something to do
_MOST: Final = 256  # events, before the loop runs its other callbacks


class Watched(Protocol):
    """What a poller reports to."""

    interest: int
    """What it is watched for: `READ`, `WRITE`, both, or nothing."""

    def readable(self) -> None:
        """Receive: there are bytes, the end of the stream, or an error."""

    def writable(self) -> None:
        """Send: the operating system takes bytes, or there is an error."""


class Poller(Protocol):
    """Watches sockets for one event loop."""

    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    """The loop's clock."""
    turn: Turn
    """The loop's turn."""

    def watch(self, watched: Watched, descriptor: int, before: int) -> None:
        """Watch *descriptor* for `watched.interest` from now on, which was *before*.

        Raises:
            OSError: The operating system refuses.
        """

    def watch_server(self, server: Watched, descriptor: int, before: int) -> None:
        """The same, for a listening socket: `server.interest` is `READ`, or nothing."""

    def hold(self) -> None:
        """Be ready for connections, until `let_go`: a server is open.

        Raises:
            OSError: The operating system refuses.
        """

    def let_go(self) -> None:
        """Undo a `hold`."""


class EpollPoller:
    """Watches sockets with an epoll set."""

    def __init__(self, loop: asyncio.AbstractEventLoop, selector: Selector | None) -> None:
        """Watch for *loop*: inside, with its *selector*; None: nested."""
        self.loop = loop
        self.clock = _clock_of(loop)
        self.turn = turns.of(loop)
        self._selector = selector
        self._watched: dict[int, Watched] = {}  # by descriptor
        self._epoll: Any = None  # open while something is watched, or a server is open
        self._held = 0
        self._left: list[Any] = []  # of parents: the loop still knows their numbers
        self._loop_is_ready = False
        _pollers.add(self)

    def hold(self) -> None:
        """See `Poller.hold`."""
        if self._epoll is None:  # now: there may be no descriptor when a connection comes
            self._open()
        self._held += 1

    def let_go(self) -> None:
        """See `Poller.let_go`."""
        self._held = max(0, self._held - 1)  # in a forked child, it is a server of the parent's
        self._close_if_unused()

    def watch(self, watched: Watched, descriptor: int, before: int) -> None:
        """See `Poller.watch`."""
        interest = watched.interest
        if before == 0:
            if self._epoll is None:
                self._open()
            try:
                self._epoll.register(descriptor, interest)
            except BaseException:
                self._close_if_unused()
                raise
            self._watched[descriptor] = watched
        elif self._watched.get(descriptor) is watched:  # not so in a forked child
            if interest:
                self._epoll.modify(descriptor, interest)
                return
            del self._watched[descriptor]
            # Closing it does not do that as long as a child has a duplicate (epoll(7)).
            self._epoll.unregister(descriptor)
            if not self._held:
                self._close_if_unused()

    def watch_server(self, server: Watched, descriptor: int, before: int) -> None:
        """See `Poller.watch_server`."""
        if self._selector is None:  # apart from connections: see `_on_ready`
            _watch_by_loop(self.loop, server, descriptor, before)
        else:
            self.watch(server, descriptor, before)

    def _open(self) -> None:
        epoll = select.epoll()
        try:
            if self._selector is None:
                self.loop.add_reader(epoll.fileno(), self._on_ready)
            else:
                epoll.register(self._selector.fileno(), READ)
                self._selector.reactor = self
        except BaseException:
            epoll.close()
            raise
        self._epoll = epoll

    def _close_if_unused(self) -> None:
        if self._held or self._watched or self._epoll is None:
            return
        epoll, self._epoll = self._epoll, None
        if self._selector is not None:
            self._selector.reactor = None
        elif not self.loop.is_closed():
            self.loop.remove_reader(epoll.fileno())
        epoll.close()

    # ----------------------------------------------------------------- serving

    def _on_ready(self) -> None:
        if len(self._watched) == 1:  # no need to ask which
            ((descriptor, only),) = self._watched.items()
            if only.interest == READ:
                self._serve(((descriptor, READ),))
                return
        self._serve(self._epoll.poll(0, _MOST))

    def wait(self, timeout: float | None) -> bool:
        """Serve connections until the loop has something to do, or for *timeout* seconds.

        Returns whether one of the loop's own descriptors is ready.
        """
        loop: Any = self.loop
        timers = loop._scheduled
        next_timer = timers[0] if timers else None
        until = None if timeout is None else self.clock() + timeout
        self._loop_is_ready = False
        while self._epoll is not None:
            self._serve(self._epoll.poll(timeout, _MOST))
            if self._loop_is_ready or loop._ready or loop._stopping:
                break
            if timers and timers[0] is not next_timer:
                break
            if until is not None:
                timeout = until - self.clock()
                if timeout <= 0:
                    break
        return self._loop_is_ready

    def _serve(self, ready: Iterable[tuple[int, int]]) -> None:
        watched = self._watched
        for descriptor, events in ready:
            if descriptor not in watched:
                if self._selector is not None and descriptor == self._selector.fileno():
                    self._loop_is_ready = True
                continue  # otherwise, it is closed meanwhile, or this is a forked child
            one = watched[descriptor]
            try:
                if events == READ:
                    one.readable()
                    continue
                if events & ~WRITE and one.interest & READ:
                    one.readable()
                if events & ~READ and one.interest & WRITE:
                    one.writable()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - the others are served
                self.loop.call_exception_handler(
                    {"message": "a connection could not be served", "exception": error}
                )

    def leave(self) -> None:
        """In a forked child: leave the set and what it watches to the parent."""
        self._watched.clear()
        self._held = 0
        if self._selector is not None:
            self._selector.reactor = None
        epoll, self._epoll = self._epoll, None
        if epoll is not None:
            self._left.append(epoll)
            separate_set(epoll)


class LoopPoller:
    """Watches sockets with the loop's own methods, where there is no epoll."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.clock = _clock_of(loop)
        self.turn = turns.of(loop)

    def hold(self) -> None:
        """See `Poller.hold`."""

    def let_go(self) -> None:
        """See `Poller.let_go`."""

    def watch(self, watched: Watched, descriptor: int, before: int) -> None:
        """See `Poller.watch`."""
        _watch_by_loop(self.loop, watched, descriptor, before)

    watch_server = watch


def _watch_by_loop(
    loop: asyncio.AbstractEventLoop, watched: Watched, descriptor: int, before: int
) -> None:
    changes = watched.interest ^ before
    if changes & READ:
        if watched.interest & READ:
            loop.add_reader(descriptor, watched.readable)
        else:
            loop.remove_reader(descriptor)
    if changes & WRITE:
        if watched.interest & WRITE:
            loop.add_writer(descriptor, watched.writable)
        else:
            loop.remove_writer(descriptor)


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    if getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time:
        return time.monotonic  # which that calls
    return loop.time


def _new(loop: asyncio.AbstractEventLoop) -> Poller:
    if not hasattr(select, "epoll"):
        return LoopPoller(loop)
    selector = getattr(loop, "_selector", None)
    if isinstance(selector, Selector) and vars(loop).keys() >= _INSIDE:
        return EpollPoller(loop, selector)
    if hasattr(loop, "_nest_patched"):
        # nest_asyncio: a handler may run the loop, which cannot enter a callback that it is in.
        return LoopPoller(loop)
    return EpollPoller(loop, None)


pollers: Final[PerLoop[Poller]] = PerLoop("poller", _new)
"""The poller of each loop."""

_pollers: Final[weakref.WeakSet[EpollPoller]] = weakref.WeakSet()  # of this process


def _forked() -> None:
    for poller in list(_pollers):
        poller.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
