"""Name resolution in daemon threads, which do not delay the program's exit.

If a name server does not answer, getaddrinfo(3) blocks for ten seconds or more and
cannot be cancelled. asyncio calls it in threads that are joined when the program ends;
daemon threads are not. There are at most `THREADS` of them; equal queries at the same
time share one, so that one dead name does not occupy them all. Numeric addresses need
no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from silly._loop.signals import SLICE, interruptible

__all__ = ["getaddrinfo", "getaddrinfo_now"]

THREADS: Final = 16

Found = list[tuple[Any, ...]]
_Query = tuple[Any, Any, int, int, int, int]  # the arguments of socket.getaddrinfo
_Callback = Callable[[Found | Exception], object]


async def getaddrinfo(
    host: Any,
    port: Any,
    *,
    family: int = 0,
    type: int = 0,  # noqa: A002 - as asyncio calls it
    proto: int = 0,
    flags: int = 0,
) -> Found:
    """Return what `socket.getaddrinfo` finds, as `asyncio.loop.getaddrinfo` does.

    Raises:
        socket.gaierror: the name cannot be resolved.
        OSError: no thread can be started.
    """
    query = (host, port, family, type, proto, flags)
    if (found := _numeric(query)) is not None:
        return found
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Found] = loop.create_future()

    def deliver(found: Found | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(_settle, answer, found)

    with _resolver.resolving(query, deliver):
        return await answer


def getaddrinfo_now(
    host: Any,
    port: Any,
    *,
    family: int = 0,
    type: int = 0,  # noqa: A002 - as asyncio calls it
    proto: int = 0,
    flags: int = 0,
) -> Found:
    """Return what `socket.getaddrinfo` finds; a signal to stop interrupts the wait.

    Raises:
        socket.gaierror, OSError: see `getaddrinfo`.
        asyncio.CancelledError: a signal to stop arrived.
    """
    query = (host, port, family, type, proto, flags)
    if (found := _numeric(query)) is not None:
        return found
    answers: queue.SimpleQueue[Found | Exception] = queue.SimpleQueue()
    answer: Found | Exception | None = None
    with _resolver.resolving(query, answers.put), interruptible():
        while answer is None:
            with contextlib.suppress(queue.Empty):
                answer = answers.get(timeout=SLICE)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _numeric(query: _Query) -> Found | None:
    host, port, family, kind, proto, flags = query
    flags |= socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    with contextlib.suppress(socket.gaierror):
        return list(socket.getaddrinfo(host, port, family, kind, proto, flags=flags))
    return None


def _settle(answer: asyncio.Future[Found], found: Found | Exception) -> None:
    if answer.cancelled():
        return
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)


class _Resolver:
    """Answers queries in up to `THREADS` threads, which end when no query is left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._queue: deque[_Query] = deque()
        self._callbacks: dict[_Query, dict[_Callback, None]] = {}

    @contextlib.contextmanager
    def resolving(self, query: _Query, callback: _Callback) -> Iterator[None]:
        """Call *callback*, in a thread, with the answer, unless the block has ended by then."""
        with self._lock:
            callbacks = self._callbacks.get(query)
            if callbacks is None:
                self._start_thread()
                callbacks = self._callbacks[query] = {}
                self._queue.append(query)
            callbacks[callback] = None
        try:
            yield
        finally:
            with self._lock:
                callbacks.pop(callback, None)

    def _start_thread(self) -> None:
        if self._threads == THREADS:
            return
        try:
            threading.Thread(target=self._work, name="resolver", daemon=True).start()
            self._threads += 1
        except RuntimeError:
            if not self._threads:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                query = self._queue.popleft()
                if not self._callbacks[query]:  # all callers have given up
                    del self._callbacks[query]
                    continue
            found: Found | Exception
            try:
                found = list(socket.getaddrinfo(*query))
            except Exception as error:  # noqa: BLE001 - raised in the caller
                found = error
            with self._lock:
                callbacks = list(self._callbacks.pop(query))
            for callback in callbacks:
                callback(copy.copy(found))


_resolver = _Resolver()


def _forked() -> None:
    global _resolver  # noqa: PLW0603 - the threads and the callers are the parent's
    _resolver = _Resolver()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
