"""A worker's side of the channel to its supervisor (`silly.workers`).

In other processes, this module does nothing but register what is given to `provide`. A
worker does not open listening sockets itself: it requests them from the supervisor,
which keeps them open after the worker has ended, so that no connection in a backlog is
lost. If the supervisor ends, the worker drains and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from silly._channel import (
    Answer,
    Ask,
    Channel,
    Drain,
    Heartbeat,
    Key,
    Last,
    Lend,
    Message,
    Open,
    Refused,
    Release,
    Return,
    Running,
    Stopping,
)
from silly._engine import engine
from silly._logs.logger import ENDS_PROGRAM, Logger
from silly._loop.live import INTERNAL_TASK
from silly._loop.signals import interruptible

__all__ = ["CHANNEL", "Opened", "Worker", "is_reported", "merging", "provide", "worker"]

logger = Logger("silly.workers")

CHANNEL: Final = "SILLY_CHANNEL"  # holds DESCRIPTOR:SECONDS between heartbeats
_OPEN_TIMEOUT: Final = 30.0  # seconds for the supervisor to open a socket
_LAST_TIMEOUT: Final = 1.0  # seconds for the supervisor to take the last answers

Merge = Callable[[Any, Any], Any]


# ------------------------------------------------------------------- providers

Meanwhile = Callable[[], Coroutine[Any, Any, Any]]

_providers: dict[str, tuple[Callable[[], Any], Merge | None, Meanwhile | None]] = {}


def provide(
    name: str,
    function: Callable[[], Any],
    *,
    merge: Merge | None = None,
    meanwhile: Meanwhile | None = None,
) -> None:
    """Let the supervisor ask this worker for *name* (`silly.workers.Supervisor.ask`).

    Args:
        name: the name to ask for, such as ``"stats"``; a later call replaces an
            earlier one.
        function: called in the worker's event loop to get the answer, which can be
            any JSON value. It is called one last time after the worker has drained.
        merge: called in the supervisor (which must import the same module) as
            ``merge(so_far, last)`` with the last answer of each worker that has
            ended; *so_far* is the previous result, None at first. The result
            represents all workers that have ended. Without *merge*, the last
            answers of the latest 1000 workers are kept individually.
        meanwhile: a coroutine function that returns the same answer without
            blocking the event loop; it is called instead, except the last time.
    """
    _providers[name] = function, merge, meanwhile


def merging(name: str) -> Merge | None:
    """Return the *merge* function that `provide` was given for *name*."""
    return _providers[name][1] if name in _providers else None


# ---------------------------------------------------------------------- worker


class _Server(Protocol):
    def close(self) -> None: ...


Serve = Callable[[socket.socket], _Server]


@dataclass(frozen=True, slots=True)
class Opened:
    """The sockets of a listener."""

    sockets: list[socket.socket]
    release: Callable[[], None] = lambda: None
    """To be called after the listener has closed them."""


class Worker:
    """This process as a worker of its supervisor."""

    def __init__(self, channel: Channel, beat: float) -> None:
        self._channel = channel
        self._beat = beat
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: dict[Key, Serve] = {}
        self._picked: dict[str, int] = {}  # how often each address with port 0 was opened
        self._lent: dict[tuple[Key, int], list[_Server]] = {}
        self._stopping = self._requested = False
        self._answering: set[asyncio.Task[None]] = set()

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        main: asyncio.Task[Any],
        stop: Callable[[float | None], object],
    ) -> None:
        """Use the channel in *loop*, where *main* runs; call *stop* with the grace, or None."""
        self._loop = loop
        self._main = main
        self._stop = stop
        self._channel.attach(loop, self._on_message, self._on_end)
        if self._beat:
            loop.call_soon(self._heartbeat)
            if sys.__stderr__ is not None:  # to show where it hangs on the watchdog's SIGABRT
                with contextlib.suppress(OSError, RuntimeError, ValueError):
                    faulthandler.enable(sys.__stderr__)

    @property
    def awaits_program(self) -> bool:
        """True until the program that uses the channel is attached."""
        return self._loop is None and not self._channel.ended

    def _heartbeat(self) -> None:
        if self._loop is not None:
            if not self._channel.is_clogged:
                self._channel.send(Heartbeat())
            self._loop.call_later(self._beat, self._heartbeat)

    def disown(self) -> None:
        """In a forked child, which is not a worker: close the parent's descriptors."""
        self._loop = None
        self._channel.disown()
        for servers in self._lent.values():
            for server in servers:
                engine.disown(server)

    # ------------------------------------------------------ called by the runtime

    def running(self, *, started: bool, listening: bool) -> None:  # noqa: ARG002 - `_open` has it
        """Report that the main coroutine waits or has returned, or has opened a listener."""
        if not self._stopping:
            self._channel.send(Running(started, [list(key) for key in self._open]))

    def stopping(self, *, requested: bool) -> None:
        """Report that the program is stopping, before its listeners are closed."""
        if not self._stopping:
            self._stopping = True
            self._requested = requested
            self._report_if_stopped()

    def ended(self) -> None:
        """Send the last answers, after everything has been closed."""
        answers = {name: self._answer(name) for name in _providers}
        self._channel.send(Last({name: value for name, (known, value) in answers.items() if known}))
        self._channel.send_all(_LAST_TIMEOUT)
        self._loop = None
        self._channel.close()

    # ------------------------------------------------ messages of the supervisor

    def _on_message(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Drain(grace):
                self._stop(grace)
            case Ask(number, name):
                meanwhile = _providers[name][2] if name in _providers else None
                if meanwhile is None:
                    known, value = self._answer(name)
                    self._channel.send(Answer(number, name, known, value))
                elif self._loop is not None:
                    answering = self._loop.create_task(
                        self._answer_later(number, name, meanwhile),
                        name=f"{INTERNAL_TASK}answering",
                    )
                    self._answering.add(answering)
                    answering.add_done_callback(self._answering.discard)
            case Lend(address, index, slot):
                sockets = [socket.socket(fileno=number) for number in descriptors]
                self._borrow((address, index), slot, sockets)
            case Return(slot):
                for key in [key for key in self._lent if key[1] == slot]:
                    self._give_back(key)

    def _on_end(self) -> None:
        self._stop(None)
        logger.warning("the supervisor is gone: stopping")

    async def _answer_later(self, number: int, name: str, meanwhile: Meanwhile) -> None:
        known, value = False, None
        try:
            value = await meanwhile()
            known = True
        except Exception:
            logger.exception("cannot answer for %r", name)
        if self._loop is not None:
            self._channel.send(Answer(number, name, known, value))

    def _answer(self, name: str) -> tuple[bool, Any]:
        if name in _providers:
            try:
                return True, _providers[name][0]()
            except ENDS_PROGRAM:
                raise
            except BaseException:
                logger.exception("cannot answer for %r", name)
        return False, None

    # -------------------------------------------------------------------- sockets

    def open(
        self,
        address: str,
        backlog: int,
        *,
        reuse_port: bool,
        mode: int | None,
        picks: bool,
        serve: Serve,
    ) -> Opened | None:
        """Return sockets that the supervisor holds for *address*; None to open them here.

        The supervisor is asked only from the main event loop, and for each address by
        one listener at a time. With *picks* (port 0), the port is shared by all workers
        only if the main coroutine asks; otherwise each worker has its own.

        Raises:
            OSError: the operating system refused, or the supervisor did not answer.
        """
        if self._loop is None or asyncio.get_running_loop() is not self._loop:
            return None
        index = self._picked.get(address, 0) if picks else 0
        key = address, index
        if key in self._open or (picks and asyncio.current_task() is not self._main):
            return None
        try:
            with interruptible():
                answer, descriptors = self._channel.request(
                    Open(address, index, backlog, reuse_port, mode), _OPEN_TIMEOUT
                )
        except OSError as error:
            raise type(error)(error.errno, "The supervisor did not answer", address) from None
        if isinstance(answer, Refused):
            raise _refusal(answer)
        if picks:
            self._picked[address] = index + 1
        self._open[key] = serve
        sockets = [socket.socket(fileno=number) for number in descriptors]
        return Opened(sockets, lambda: self._release(key))

    def _release(self, key: Key) -> None:
        self._open.pop(key, None)
        for lent in [lent for lent in self._lent if lent[0] == key]:
            self._give_back(lent)
        if self._stopping:
            self._report_if_stopped()
        else:
            self._channel.send(Release(*key))

    def _report_if_stopped(self) -> None:
        if not self._open:
            self._channel.send(Stopping(self._requested))

    def _borrow(self, key: Key, slot: int, sockets: list[socket.socket]) -> None:
        serve = self._open.get(key)
        if serve is None or (key, slot) in self._lent:
            for sock in sockets:
                sock.close()
        else:
            self._lent[key, slot] = [serve(sock) for sock in sockets]

    def _give_back(self, lent: tuple[Key, int]) -> None:
        for server in self._lent.pop(lent):
            server.close()


def _refusal(answer: Refused) -> OSError:
    kind = socket.gaierror if answer.unresolved else OSError
    if answer.errno is None:
        error = kind(f"{answer.address}: {answer.text}")
    else:
        error = kind(answer.errno, answer.text)
    error.filename = answer.address
    error._is_reported = True  # type: ignore[attr-defined]
    return error


def is_reported(error: BaseException) -> bool:
    """Return whether the supervisor, which refused the request, has reported *error*."""
    return getattr(error, "_is_reported", False)


def _from_environment() -> Worker | None:
    channel = os.environ.pop(CHANNEL, None)
    if channel is None:
        return None
    fd, _, beat = channel.partition(":")
    with contextlib.suppress(OSError, ValueError):
        os.set_inheritable(int(fd), False)
        return Worker(Channel(socket.socket(fileno=int(fd))), float(beat))
    return None


worker: Worker | None = _from_environment()
"""This process as a worker; None in other processes."""


def _forked() -> None:
    global worker  # noqa: PLW0603 - the child is not a worker
    if worker is not None:
        worker.disown()
        worker = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
