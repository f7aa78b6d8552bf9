"""Names to addresses, in threads that nobody has to wait for.

A name server that does not answer holds getaddrinfo(3) up for ten seconds and
more, and nothing calls it back. asyncio asks in threads that are joined when the
program ends; these are daemons, which are not. There are a few at most; tasks
that ask the same at the same time share one, so that one dead name does not keep
the others from being asked for. Numeric addresses are never asked for.
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

from silly._signals import SLICE, breakable

__all__ = ["getaddrinfo", "getaddrinfo_now"]

THREADS: Final = 16

Found = list[tuple[Any, ...]]
_Question = tuple[Any, Any, int, int, int, int]  # the arguments of socket.getaddrinfo
_Asker = Callable[[Found | Exception], object]


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
        socket.gaierror: it cannot be resolved.
        OSError: no thread can be started.
    """
    question = (host, port, family, type, proto, flags)
    if (found := _numeric(question)) is not None:
        return found
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Found] = loop.create_future()

    def told(found: Found | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, answer, found)

    with _resolver.asked(question, told):
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
    """Return what `socket.getaddrinfo` finds; a signal to stop breaks the wait off.

    Raises:
        socket.gaierror, OSError: as `getaddrinfo`.
        asyncio.CancelledError: it was broken off.
    """
    question = (host, port, family, type, proto, flags)
    if (found := _numeric(question)) is not None:
        return found
    answers: queue.SimpleQueue[Found | Exception] = queue.SimpleQueue()
    answer: Found | Exception | None = None
    with _resolver.asked(question, answers.put), breakable():
        while answer is None:
            with contextlib.suppress(queue.Empty):
                answer = answers.get(timeout=SLICE)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _numeric(question: _Question) -> Found | None:
    host, port, family, kind, proto, flags = question
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
    """Asks what is asked for, in up to `THREADS` threads, each of which ends when nothing is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._waiting: deque[_Question] = deque()
        self._askers: dict[_Question, dict[_Asker, None]] = {}

    @contextlib.contextmanager
    def asked(self, question: _Question, asker: _Asker) -> Iterator[None]:
        """Have *asker* called, in a thread, with the answer, unless the block has ended before."""
        with self._lock:
            askers = self._askers.get(question)
            if askers is None:
                self._start_thread()
                askers = self._askers[question] = {}
                self._waiting.append(question)
            askers[asker] = None
        try:
            yield
        finally:
            with self._lock:
                askers.pop(asker, None)

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
                if not self._waiting:
                    self._threads -= 1
                    return
                question = self._waiting.popleft()
                if not self._askers[question]:  # all of them have given up
                    del self._askers[question]
                    continue
            found: Found | Exception
            try:
                found = list(socket.getaddrinfo(*question))
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                found = error
            with self._lock:
                askers = list(self._askers.pop(question))
            for asker in askers:
                asker(copy.copy(found))


_resolver = _Resolver()


def _forked() -> None:
    global _resolver  # noqa: PLW0603 - the threads, and who asked, are the parent's
    _resolver = _Resolver()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
