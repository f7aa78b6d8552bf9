"""A worker's end of the channel to its supervisor (`silly.workers`).

A worker does not open listening sockets itself: it requests them from the supervisor,
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
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from silly._engine import engine
from silly._logs.logger import Logger
from silly._loop.live import INTERNAL_TASK
from silly._loop.signals import interruptible
from silly.net.addr import Address, TCPAddress, UnixAddress, parse
from silly.net.listening import Opened, Serve, Server, use_source
from silly.net.restarting import set_restarting
from silly.runtime.program import use_overseer
from silly.workers import answers
from silly.workers.channel import (
    CHANNEL,
    Act,
    Acted,
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

__all__ = ["Worker", "become_worker"]

logger = Logger("silly.workers")

_OPEN_TIMEOUT: Final = 30.0  # seconds for the supervisor to open a socket
_LAST_TIMEOUT: Final = 1.0  # seconds for the supervisor to take the last answers


class Worker:
    """This process as a worker of its supervisor: its overseer, and the source of its sockets."""

    def __init__(self, channel: Channel, beat: float) -> None:
        self._channel = channel
        self._beat = beat
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: dict[Key, Serve] = {}
        self._picked: dict[str, int] = {}  # how often each address with port 0 was opened
        self._lent: dict[tuple[Key, int], list[Server]] = {}
        self._stopping = self._requested = False
        self._answering: set[asyncio.Task[None]] = set()
        self._initial_directory = _working_directory()

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

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        main: asyncio.Task[Any],
        stop: Callable[[float | None], object],
    ) -> bool:
        """Use the channel in *loop*, where *main* runs, unless another program uses it."""
        if self._loop is not None or self._channel.ended:
            return False
        self._loop = loop
        self._main = main
        self._stop = stop
        self._channel.attach(loop, self._on_message, self._on_end)
        if self._beat:
            loop.call_soon(self._heartbeat)
            if sys.__stderr__ is not None:  # to show where it hangs on the watchdog's SIGABRT
                with contextlib.suppress(OSError, RuntimeError, ValueError):
                    faulthandler.enable(sys.__stderr__)
        return True

    def running(
        self,
        *,
        started: bool,
        listening: bool,  # noqa: ARG002 - `_open` has it
        encrypted: Sequence[str] = (),
        datagrams: Sequence[str] = (),
    ) -> None:
        """Report that the main coroutine waits or has returned, or has opened a listener."""
        if not self._stopping:
            keys = [list(key) for key in self._open]
            self._channel.send(Running(started, keys, list(encrypted), list(datagrams)))

    def stopping(self, *, requested: bool) -> None:
        """Report that the program is stopping, before its listeners are closed."""
        if not self._stopping:
            self._stopping = True
            self._requested = requested
            self._report_if_stopped()

    def ended(self) -> None:
        """Send the last answers, after everything has been closed."""
        self._channel.send(Last(answers.answer_all()))
        self._channel.send_all(_LAST_TIMEOUT)
        self._loop = None
        self._channel.close()

    def has_reported(self, error: BaseException) -> bool:
        """Return whether the supervisor, which refused the request, has reported *error*."""
        return getattr(error, "_is_reported", False)

    # ------------------------------------------------ messages of the supervisor

    def _on_message(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Drain(grace, is_replaced):
                if is_replaced:
                    set_restarting()
                self._stop(grace)
            case Ask(number, name):
                if not answers.is_coroutine(name):
                    self._channel.send(Answer(number, name, *answers.answer(name)))
                else:
                    self._start(self._answer_later(number, name))
            case Act(number, command):
                self._start(self._act(number, command))
            case Lend(address, index, slot):
                sockets = [socket.socket(fileno=number) for number in descriptors]
                self._borrow((address, index), slot, sockets)
            case Return(slot):
                for key in [key for key in self._lent if key[1] == slot]:
                    self._give_back(key)

    def _on_end(self) -> None:
        self._stop(None)
        logger.warning("the supervisor is gone: stopping")

    def _start(self, answer: Coroutine[Any, Any, None]) -> None:
        if self._loop is None:
            answer.close()
            return
        answering = self._loop.create_task(answer, name=f"{INTERNAL_TASK}answering")
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)

    async def _act(self, number: int, command: str) -> None:
        value, error = await answers.act(command)
        if self._loop is not None:
            self._channel.send(Acted(number, value, error))

    async def _answer_later(self, number: int, name: str) -> None:
        known, value = await answers.answer_later(name)
        if self._loop is not None:
            self._channel.send(Answer(number, name, known, value))

    # -------------------------------------------------------------------- sockets

    def open(
        self, address: Address, backlog: int, *, reuse_port: bool, mode: int | None, serve: Serve
    ) -> Opened | None:
        """Return sockets that the supervisor holds for *address*; None to open them here.

        The supervisor is asked only from the main event loop, and for each address by
        one listener at a time. Port 0 is the same port in all workers only if the main
        coroutine asks; otherwise each worker has its own.

        Raises:
            OSError: the operating system refused, or the supervisor did not answer.
            ValueError: the path is too long to be sent to the supervisor.
        """
        text = str(self._with_absolute_path(address))
        if self._loop is None or asyncio.get_running_loop() is not self._loop:
            return None
        picks = isinstance(address, TCPAddress) and address.port == 0
        index = self._picked.get(text, 0) if picks else 0
        key = text, index
        if key in self._open or (picks and asyncio.current_task() is not self._main):
            return None
        try:
            with interruptible():
                answer, descriptors = self._channel.request(
                    Open(text, index, backlog, reuse_port, mode), _OPEN_TIMEOUT
                )
        except OSError as error:
            raise type(error)(error.errno, "The supervisor did not answer", text) from None
        if isinstance(answer, Refused):
            raise _refusal(answer)
        if picks:
            self._picked[text] = index + 1
        self._open[key] = serve
        sockets = [socket.socket(fileno=number) for number in descriptors]
        return Opened(sockets, lambda: self._release(key))

    def _with_absolute_path(self, address: Address) -> Address:
        """Return *address*, its path absolute if this process has changed its directory."""
        if not isinstance(address, UnixAddress) or address.is_abstract:
            return address
        now, initial = _working_directory(), self._initial_directory
        if now is None or initial is None or os.path.samestat(now, initial):
            return address
        return parse(str(UnixAddress(os.path.abspath(address.path))))  # noqa: PTH100

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


def _working_directory() -> os.stat_result | None:
    try:
        return os.stat(".")  # noqa: PTH116
    except OSError:  # pragma: no cover - a network's file system has lost it
        return None


_worker: Worker | None = None


def become_worker() -> bool:
    """Make this process a worker if a supervisor has started it; return whether one has.

    The variable that says so is removed: child processes are not workers.
    """
    fd, _, beat = os.environ.pop(CHANNEL, "").partition(":")
    with contextlib.suppress(OSError, ValueError):
        os.set_inheritable(int(fd), False)
        _use(Worker(Channel(socket.socket(fileno=int(fd))), float(beat)))
    return _worker is not None


def _use(worker: Worker | None) -> None:
    global _worker  # noqa: PLW0603 - one per process
    _worker = worker
    use_overseer(worker)
    use_source(worker)


def _forked() -> None:
    if _worker is not None:
        _worker.disown()
        _use(None)  # the child is not a worker


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
