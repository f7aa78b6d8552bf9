"""The supervisor; its rules are at the top of `silly.workers`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from silly import _control
from silly._arguments import seconds, size
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
from silly._channel import Sockets as Granted
from silly._engine import engine
from silly._logger import ENDS_PROGRAM, Logger
from silly._signals import Debouncer, handling
from silly.runtime import GRACE
from silly.systemd import VARIABLES, Service, watchdog_period
from silly.workers.process import Slot, State, Worker, command_line, manner, working_directory
from silly.workers.sockets import Sockets

__all__ = ["Supervisor"]

logger = Logger("silly.workers")

_OVERDUE: Final = 10.0  # seconds after the grace, until a worker is killed
_FORCED: Final = 3.0  # the same when there is no grace
_RESOLVE_TIMEOUT: Final = 20.0  # seconds; a worker waits for longer
_START_TIMEOUT: Final = 60.0  # seconds for a replacement to become ready
_OURS: Final = {"SILLY_WORKERS", "SILLY_RELOAD", "SILLY_WATCHDOG"}  # not for workers
_FINAL: Final = (errno.EADDRINUSE, errno.EACCES)  # from listening: trying again soon is no use
_ANSWERS_KEPT: Final = 1000  # of ended workers, where they are not merged


class Supervisor:
    """Runs a program in several worker processes; see the top of `silly.workers`.

    Args:
        target: the path of a script, as for ``silly FILE.py``, or
            ``"module:function"``: a function or coroutine function without
            arguments, importable from the current directory. Symbolic links, in
            it and in the current directory's name (``PWD``), are followed anew
            for each worker that is started.
        args: what follows *target* in each worker's `sys.argv`.
        workers: how many; their numbers, from 1, are in ``SILLY_WORKER``.
        grace: seconds that handlers have to finish when a worker stops.
        debug, uvloop: as on the command line.
        worker_options: other options of each worker's command line, such as
            ``["--access-log"]``.
        watchdog: seconds after which a worker whose event loop does not turn is
            killed and replaced; None: what systemd asks of the service
            (``WATCHDOG_USEC``), or never.
        develop: wait for `reload` when the program has ended or crashed, and
            let workers have the terminal (for ``breakpoint()``).
        back_off: seconds until a worker that died young is started again; they
            double each time, up to *back_off_limit*.
        settled: seconds after which a worker does not die young any more.
        give_up: how many may die when none was ever ready; one is enough if the address
            to listen on is in use or not permitted.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """

    def __init__(
        self,
        target: str,
        args: Sequence[str] = (),
        *,
        workers: int = 1,
        grace: float = GRACE,
        debug: bool = False,
        uvloop: bool = False,
        worker_options: Sequence[str] = (),
        watchdog: float | None = None,
        develop: bool = False,
        back_off: float = 0.5,
        back_off_limit: float = 30.0,
        settled: float = 5.0,
        give_up: int = 5,
    ) -> None:
        self._grace = seconds(grace, "grace")
        self._watchdog = watchdog_period() if watchdog is None else seconds(watchdog, "watchdog")
        if self._watchdog == 0:
            raise ValueError("watchdog must be more than 0 seconds, or None for no watchdog")
        self._develop = develop
        self._back_off = seconds(back_off, "back_off")
        self._back_off_limit = seconds(back_off_limit, "back_off_limit")
        self._settled = seconds(settled, "settled")
        self._give_up = size(give_up, "give_up", least=1)
        self._slots = [Slot(number + 1) for number in range(size(workers, "workers", least=1))]
        self._command = command_line(
            target, args, grace=grace, debug=debug, uvloop=uvloop, options=worker_options
        )
        self._directory = working_directory()
        self._sockets = Sockets()
        self._retired: dict[str, deque[Any]] = {}  # what ended workers answered
        self._asked = 0
        self._deaths = 0
        self._was_ready = False
        self._stops = 0
        self._has_begun = False  # the first worker's main coroutine waits, or has returned
        self._restart_wanted = False
        self._status = ""
        self._code = 0
        self._restarting: asyncio.Task[None] | None = None
        self._result: asyncio.Future[int] | None = None

    @property
    def pids(self) -> list[int]:
        """The processes of all workers that are alive, the ones that drain included."""
        return [worker.process.pid for worker in self._workers()]

    # --------------------------------------------------------------------- life

    async def run(self) -> int:
        """Start the workers, keep them, and return the exit code when all have ended.

        0 after a signal, or when the program has come to its end in all of
        them; if it was given up, that of the worker that died last (1 if it was
        killed). To be awaited in the main thread, for its signals.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._result = loop.create_future()
        self._service = Service(loop)
        if self._watchdog is not None:
            beats = loop.create_task(self._watch_beats(self._watchdog))
        signals: dict[int, Callable[[], object]] = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: self._hang_up,
            signal.SIGTTIN: self.add_worker,
            signal.SIGTTOU: self.remove_worker,
            signal.SIGUSR1: self._report,
        }
        presses = Debouncer()

        def on_signal(number: int, _frame: types.FrameType | None) -> None:
            if number not in (signal.SIGTERM, signal.SIGINT) or presses.is_new(number):
                loop.call_soon_threadsafe(signals[number])

        self._has_terminal = os.isatty(sys.stderr.fileno()) if sys.stderr else False
        try:
            with handling(loop, dict.fromkeys(signals, on_signal)):
                self._start(self._slots[0])  # the others follow when its script has begun well
                return await self._result
        finally:
            if self._restarting is not None:
                self._restarting.cancel()
            if self._watchdog is not None:
                beats.cancel()
            self._service.ended()
            self._close()

    def _close(self) -> None:
        for slot in self._slots:
            slot.cancel_retry()
            for worker in slot.workers:  # only after a crash of ours: it drains
                worker.cancel_opening()
                worker.channel.close()
        self._sockets.close()

    def stop(self) -> None:
        """Drain all workers; called again, end them at once."""
        self._stops += 1
        if self._stops > 2:  # to drain them again would put off the killing
            return
        workers = self._workers()
        for slot in self._slots:
            slot.cancel_retry()
        for worker in workers:
            if self._stops > 1 or worker.state is not State.STOPPING:
                self._drain(worker, self._grace if self._stops == 1 else 0)
        self._end_if_done()
        if self._stops == 1:
            self._service.stopping()
            if workers:
                logger.info(
                    "stopping; waiting up to %g s for %d worker%s (again to stop now)",
                    self._grace,
                    len(workers),
                    "s"[: len(workers) > 1],
                )

    def _workers(self) -> list[Worker]:
        return [worker for slot in self._slots for worker in slot.workers]

    def _end_if_done(self) -> None:
        assert self._result is not None
        if self._result.done() or self._workers():
            return
        finished = all(slot.is_finished or not slot.is_wanted for slot in self._slots)
        if self._stops or (finished and not self._develop):
            self._result.set_result(self._code)

    # ----------------------------------------------------------------- starting

    def _start(self, slot: Slot) -> Worker | None:
        """Start a worker for *slot*; None, and another attempt later, if that is impossible."""
        slot.cancel_retry()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            environment = {
                name: value
                for name, value in os.environ.items()
                if name not in VARIABLES and name not in _OURS
            }
            beat = self._watchdog / 3 if self._watchdog is not None else 0
            environment[_control.CHANNEL] = f"{theirs.fileno()}:{beat}"
            environment["SILLY_WORKER"] = str(slot.number)
            try:
                process = subprocess.Popen(  # noqa: S603 - ourselves
                    self._command,
                    cwd=self._directory,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=None if self._develop else subprocess.DEVNULL,
                    # Away from the terminal, whose Ctrl-C is for the supervisor alone.
                    process_group=None if self._develop else 0,
                )
            except OSError as error:
                ours.close()
                if slot.is_empty:
                    slot.failures += 1
                    self._retry(slot)
                logger.error("cannot start worker %d: %s", slot.number, error)  # noqa: TRY400
                return None
        predecessor = next((each for each in slot.workers if each.was_heard), None)
        worker = Worker(
            slot,
            process,
            Channel(ours),
            self._loop.time(),
            expected=set(predecessor.listening) if predecessor is not None else None,
        )
        slot.workers.append(worker)
        # Not SIGCHLD, which uvloop keeps to itself.
        threading.Thread(target=self._wait_for, args=(worker,), daemon=True).start()
        worker.channel.attach(
            self._loop,
            lambda message, _: self._received(worker, message),
            lambda: None,  # its death tells, too
        )
        return worker

    def _wait_for(self, worker: Worker) -> None:
        worker.process.wait()
        with contextlib.suppress(RuntimeError):  # the event loop has ended before
            self._loop.call_soon_threadsafe(self._died, worker)

    def _retry(self, slot: Slot) -> float:
        """Start a worker for *slot* after its back-off, and return that."""
        delay = 0.0
        if slot.failures:
            delay = min(self._back_off_limit, self._back_off * 2 ** (slot.failures - 1))
        slot.retry = self._loop.call_later(delay, self._start, slot)
        return delay

    def _tend(self) -> None:
        """Start workers where they are wanted and missing; lend out what nobody accepts on."""
        if self._stops:
            return
        for slot in self._slots if self._has_begun else self._slots[:1]:
            if self._develop and slot.workers:
                continue  # one after the other
            if slot.is_empty and slot.is_wanted and not slot.is_finished and not slot.retry:
                self._start(slot)
        self._cover()
        wanted = [slot for slot in self._slots if slot.is_wanted]
        if self._restarting is None and all(slot.was_ready for slot in wanted):
            self._service.ready()
        ready = sum(slot.worker is not None for slot in wanted)
        status = f"{ready} of {len(wanted)} workers ready"
        if status != self._status:
            self._status = status
            self._service.status(status)

    # ------------------------------------------------------------------- stopping

    def _drain(self, worker: Worker, grace: float) -> None:
        worker.state = State.STOPPING
        if not worker.became_ready.done():
            worker.became_ready.set_result(False)
        if worker.was_heard:
            worker.cancel_opening()
            worker.channel.send(Drain(grace))
        else:  # its event loop does not turn yet
            worker.process.send_signal(signal.SIGTERM)
        if worker.overdue is not None:
            worker.overdue.cancel()
            worker.overdue = None
        if grace != float("inf"):
            patience = grace + _OVERDUE if grace else _FORCED
            worker.overdue = self._loop.call_later(patience, self._kill, worker)

    def _kill(self, worker: Worker) -> None:
        if worker.process.poll() is None:
            worker.process.kill()
            logger.warning("%s does not stop: killing it", worker)

    def _died(self, worker: Worker) -> None:
        slot = worker.slot
        worker.channel.deliver()  # its last words
        worker.channel.close()
        slot.workers.remove(worker)
        worker.died()
        for name, answer in worker.answers.items():
            self._retire(name, answer)
        for other in self._slots:
            if other.lent_to is worker:
                other.lent_to = None
        code = worker.process.returncode
        if worker.state is State.STOPPING:
            if code > 0:
                logger.warning("%s, which was stopping, %s", worker, manner(code))
        elif self._develop:
            slot.is_finished = True
            logger.info("the program %s; waiting for a change", manner(code))
        elif code == 0:
            slot.is_finished = slot.is_empty
            logger.info("%s has come to its end", worker)
        elif not self._stops:
            self._died_unexpectedly(worker, code)
        self._tend()
        self._end_if_done()

    def _died_unexpectedly(self, worker: Worker, code: int) -> None:
        slot = worker.slot
        self._deaths += not self._was_ready
        refused = worker.refused is not None and worker.refused.errno in _FINAL and code == 1
        if (self._deaths >= self._give_up or refused) and not self._was_ready:
            why = "; giving up: it was never ready"
            if self._deaths > 1:
                why = f"; giving up: {self._deaths} workers died, and none was ever ready"
            self._code = code if code > 0 else 1
            self.stop()
            logger.error("%s %s%s", worker, worker.manner, "" if refused else why)
            return
        if worker.became_ready.result() and self._loop.time() - worker.started_at >= self._settled:
            slot.failures = 0
        else:
            slot.failures += 1
        if not slot.is_empty:
            logger.error("%s %s; another one has its place", worker, worker.manner)
            return
        delay = self._retry(slot)
        when = f"in {delay:g} s" if delay else "now"
        logger.error("%s %s; starting another %s", worker, worker.manner, when)

    # -------------------------------------------------------------- what they say

    def _received(self, worker: Worker, message: Message) -> None:
        worker.last_beat = self._loop.time()
        match message:
            case Open():
                worker.opening = self._loop.create_task(self._open(worker, message))
            case Release(address, index):
                worker.listening.discard((address, index))
                self._release(worker.slot, (address, index))
            case Running(started, listening):
                worker.listening = {(address, index) for address, index in listening}
                self._is_running(worker, started=started)
            case Stopping(told):
                if not worker.stopped.done():
                    worker.stopped.set_result(None)
                if worker.state is not State.STOPPING:
                    worker.state = State.STOPPING if told else State.ENDING
                    self._tend()  # told by somebody else: its place is free
            case Answer(number, name, known, value):
                if known:
                    worker.answers[name] = value
                asked = worker.asked.pop(number, None)
                if asked is not None and not asked.done():
                    asked.set_result(None)
            case Last(answers):
                worker.answers |= answers
            case Heartbeat() | _:
                pass

    def _is_running(self, worker: Worker, *, started: bool) -> None:
        worker.was_heard = True
        worker.refused = None
        if worker.state is State.STARTING:
            worker.state = State.RUNNING
            self._has_begun = True
        if worker.state is State.RUNNING and (started or worker.is_ready_now):
            worker.state = State.READY
            is_first = not self._was_ready
            self._was_ready = worker.slot.was_ready = True
            worker.became_ready.set_result(True)
            if is_first and worker.listening:
                names = [
                    name
                    for key in sorted(worker.listening)
                    for name in self._sockets.names(worker.slot.number, key)
                ]
                logger.info(
                    "listening on %s (%s engine); Ctrl-C or SIGTERM stops, SIGHUP restarts",
                    ", ".join(names),
                    engine.NAME,
                )
            logger.info("%s is ready", worker)
        self._tend()

    # -------------------------------------------------------------------- sockets

    async def _open(self, worker: Worker, wanted: Open) -> None:
        number, key = worker.slot.number, (wanted.address, wanted.index)
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT):
                where = await self._sockets.resolve(number, key)
            sockets = self._sockets.open(number, wanted, where)
        except asyncio.CancelledError:
            text = "The supervisor stops the worker"
            worker.channel.send(Refused(errno.ECANCELED, text, key[0], unresolved=False))
            raise
        except TimeoutError:
            text = "No name server answered"
            worker.channel.send(Refused(socket.EAI_AGAIN, text, key[0], unresolved=True))
        except OSError as error:
            text = error.strerror or str(error)
            unresolved = isinstance(error, socket.gaierror)
            worker.refused = Refused(error.errno, text, error.filename or key[0], unresolved)
            worker.channel.send(worker.refused)
        else:
            worker.refused = None
            worker.listening.add(key)
            worker.channel.send(Granted(), [sock.fileno() for sock in sockets])

    def _release(self, slot: Slot, key: Key) -> None:
        """The program in *slot* listens there no more."""
        if not any(key in worker.listening for worker in slot.workers):
            self._sockets.release(slot.number, key)
        if not any(key in worker.listening for worker in self._workers()):
            self._sockets.forget(key)

    def _cover(self) -> None:
        """See to it that somebody accepts on each slot's sockets."""
        for slot in self._slots:
            borrower = None
            if slot.worker is None:
                others = [other.worker for other in self._slots if other.worker is not None]
                borrower = slot.lent_to if slot.lent_to in others else next(iter(others), None)
            if borrower is slot.lent_to:
                continue
            if slot.lent_to is not None:
                slot.lent_to.channel.send(Return(slot.number))
            slot.lent_to = borrower
            if borrower is not None:
                for (address, index), sockets in self._sockets.own(slot.number).items():
                    borrower.channel.send(
                        Lend(address, index, slot.number), [sock.fileno() for sock in sockets]
                    )

    # -------------------------------------------------------- restart, add, remove

    def _hang_up(self) -> None:
        if self._has_terminal and not os.isatty(sys.stderr.fileno()):
            self.stop()  # the terminal was closed
        elif self._develop:
            self.reload()
        else:
            self.restart()

    def restart(self) -> None:
        """Replace all workers, one after the other; each serves until its successor does.

        If a successor does not become ready (it dies, or takes a minute), the
        restart ends there, and the workers that are left go on.
        """
        self._restart_wanted = True
        if self._restarting is None and not self._stops:
            self._restarting = self._loop.create_task(self._restart_all())

    async def _restart_all(self) -> None:
        while self._restart_wanted:
            self._restart_wanted = False
            self._service.reloading()
            logger.info("restarting")
            done = True
            for slot in list(self._slots):
                if slot.is_wanted and not slot.is_finished and done and not self._stops:
                    done = await self._replace(slot)
            if done:
                logger.info("restarted")
            elif not self._stops:
                logger.error("the restart was abandoned; the workers that are left go on")
        self._restarting = None
        self._tend()

    async def _replace(self, slot: Slot) -> bool:
        old = slot.workers[:]
        new = self._start(slot)
        if new is None:
            return False
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                is_ready = await asyncio.shield(new.became_ready)
        except TimeoutError:
            is_ready = False
            self._drain(new, 0)
            silent = (new.expected or set()) - new.listening
            missing = ", ".join(sorted(address for address, _ in silent))
            logger.error(  # noqa: TRY400
                "%s is not ready after %g s%s",
                new,
                _START_TIMEOUT,
                f": it does not listen on {missing}" if missing else "",
            )
        if not is_ready:
            return False
        for worker in old:
            if worker in slot.workers and worker.state is not State.STOPPING:
                self._drain(worker, self._grace)
        if old:
            await asyncio.wait([worker.stopped for worker in old], timeout=_START_TIMEOUT)
        return True

    def add_worker(self) -> None:
        """Start one worker more."""
        retired = [slot for slot in self._slots if not slot.is_wanted]
        if retired:
            retired[0].is_wanted = True
        else:
            self._slots.append(Slot(len(self._slots) + 1))
        self._tend()

    def remove_worker(self) -> None:
        """Drain one worker for good, unless it is the last; another takes over its sockets."""
        if self._stops:
            return
        *others, slot = (slot for slot in self._slots if slot.is_wanted)
        if not others:
            logger.info("worker %d is the last one: it stays", slot.number)
            return
        slot.is_wanted = False
        slot.cancel_retry()
        for worker in slot.workers:
            if worker.state is not State.STOPPING:
                self._drain(worker, self._grace)
        self._tend()

    # --------------------------------------------------------------- development

    def reload(self) -> None:
        """End the program and start it afresh; connections wait meanwhile (development)."""
        if self._stops:
            return
        for slot in self._slots:
            slot.is_finished = False
        for worker in self._workers():
            self._drain(worker, 0)
        self._tend()

    # ------------------------------------------------------------ asking, watching

    async def ask(self, name: str, *, timeout: float = 5.0) -> list[Any]:
        """Return what the workers answer when they are asked for *name*.

        What they can be asked for they say with ``silly._control.provide``.

        Args:
            name: such as ``"stats"``.
            timeout: seconds; of a worker that does not answer in time, its
                answer to an earlier question stands.

        Returns:
            The JSON values: one from each worker that is alive and has ever
            answered, then the last ones of those that have ended (or, if the
            provider merges them, one for all of these).
        """
        asked: list[asyncio.Future[None]] = []
        self._asked += 1
        number = self._asked
        for worker in self._workers():
            if worker.was_heard and not worker.channel.ended and not worker.channel.is_clogged:
                future = worker.asked[number] = self._loop.create_future()
                asked.append(future)
                worker.channel.send(Ask(number, name))
        try:
            if asked:
                await asyncio.wait(asked, timeout=seconds(timeout, "timeout"))
        finally:
            for future in asked:
                future.cancel()
            for worker in self._workers():
                worker.asked.pop(number, None)  # one that does not answer keeps none
        living = [each.answers[name] for each in self._workers() if name in each.answers]
        return [*living, *self._retired.get(name, ())]

    def _retire(self, name: str, answer: Any) -> None:
        merge = _control.merging(name)
        retired = self._retired.setdefault(name, deque(maxlen=_ANSWERS_KEPT))
        if merge is None:
            retired.append(answer)
            return
        try:
            so_far = retired[0] if retired else None
            merged = merge(so_far, answer)
        except ENDS_PROGRAM:
            raise
        except BaseException:
            logger.exception("cannot merge the last answer for %r", name)
        else:
            retired.clear()
            retired.append(merged)

    def _report(self) -> None:
        """Have each worker print what it is doing."""
        for worker in self._workers():
            # Before it is heard of, and when it has ended, the signal would kill it.
            if worker.was_heard and not worker.channel.ended:
                worker.process.send_signal(signal.SIGUSR1)

    async def _watch_beats(self, period: float) -> None:
        while True:
            await asyncio.sleep(period / 2)
            for worker in self._workers():
                silent = self._loop.time() - worker.last_beat
                if worker.was_heard and silent > period:
                    worker.process.send_signal(signal.SIGABRT)
                    if silent > 2 * period:
                        worker.process.kill()
                    logger.error("%s has not answered for %.3g s: killing it", worker, silent)
