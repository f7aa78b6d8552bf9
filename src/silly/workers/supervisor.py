"""The supervisor; `silly.workers` states its rules."""

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

from silly._engine import engine
from silly._logs.logger import ENDS_PROGRAM, Logger
from silly._loop.signals import Debouncer, handling
from silly._values.arguments import seconds, size
from silly.runtime import GRACE
from silly.systemd import VARIABLES, Service, watchdog_period
from silly.workers.answers import merging
from silly.workers.channel import (
    CHANNEL,
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
from silly.workers.channel import Sockets as Granted
from silly.workers.process import (
    Slot,
    State,
    Worker,
    command_line,
    describe_exit,
    working_directory,
)
from silly.workers.sockets import Sockets

__all__ = ["Supervisor"]

logger = Logger("silly.workers")

_KILL_MARGIN: Final = 10.0  # seconds from the end of the grace until a worker is killed
_KILL_DELAY: Final = 3.0  # seconds until a worker is killed if the grace is 0
_RESOLVE_TIMEOUT: Final = 20.0  # seconds; less than a worker waits for the answer
_START_TIMEOUT: Final = 60.0  # seconds for a replacement to become ready
_SUPERVISOR_VARIABLES: Final = {"SILLY_WORKERS", "SILLY_RELOAD", "SILLY_WATCHDOG"}
_PERMANENT_ERRORS: Final = (errno.EADDRINUSE, errno.EACCES)  # a retry would fail again
_ANSWERS_KEPT: Final = 1000  # last answers of ended workers, where they are not merged


class Supervisor:
    """Runs a program in several worker processes; see `silly.workers`.

    Args:
        target: the path of a script, as for ``silly FILE.py``, or
            ``"module:function"``: a function or coroutine function without
            arguments, importable from the current directory. Symbolic links in
            the path and in the current directory's name (``PWD``) are resolved
            again each time a worker starts.
        args: the arguments after *target* in each worker's `sys.argv`.
        workers: how many workers to run. Each finds its number, from 1, in
            ``SILLY_WORKER``.
        grace: seconds that handlers have to finish when a worker stops.
        debug, uvloop: as on the command line.
        worker_options: other options of each worker's command line, such as
            ``["--access-log"]``.
        watchdog: seconds after which a worker whose event loop is stuck is killed
            and replaced; None: what systemd asks of the service
            (``WATCHDOG_USEC``), or never.
        develop: wait for `reload` when the program has ended or crashed, and
            let workers read from the terminal (for ``breakpoint()``).
        back_off: seconds until a worker that died early is started again; the
            delay doubles each time, up to *back_off_limit*.
        settled: seconds after which the death of a worker no longer counts as early.
        give_up: how many workers may die before any is ready; the supervisor then
            gives up. It gives up at the first one if the address to listen on is in
            use or not permitted.

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
        self._last_answers: dict[str, deque[Any]] = {}  # of ended workers
        self._question_count = 0
        self._deaths = 0
        self._was_ready = False
        self._stop_count = 0
        self._program_started = False  # the first worker's main coroutine waits, or has returned
        self._restart_wanted = False
        self._status = ""
        self._code = 0
        self._restarting: asyncio.Task[None] | None = None
        self._result: asyncio.Future[int] | None = None

    @property
    def pids(self) -> list[int]:
        """The process IDs of all workers that are alive, including those that drain."""
        return [worker.process.pid for worker in self._workers()]

    # ----------------------------------------------------------------- lifecycle

    async def run(self) -> int:
        """Start the workers, keep them running, and return the exit code when all have ended.

        The exit code is 0 after a signal to stop, or when the program has finished
        in all workers. If the supervisor gave up, it is that of the last worker
        that died (1 if it was killed). Await this in the main thread, which
        receives the signals.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._result = loop.create_future()
        self._service = Service(loop)
        if self._watchdog is not None:
            heartbeats = loop.create_task(self._watch_heartbeats(self._watchdog))
        signals: dict[int, Callable[[], object]] = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: self._on_hangup,
            signal.SIGTTIN: self.add_worker,
            signal.SIGTTOU: self.remove_worker,
            signal.SIGUSR1: self._request_reports,
        }
        presses = Debouncer()

        def on_signal(number: int, _frame: types.FrameType | None) -> None:
            if number not in (signal.SIGTERM, signal.SIGINT) or presses.is_new(number):
                loop.call_soon_threadsafe(signals[number])

        self._has_terminal = os.isatty(sys.stderr.fileno()) if sys.stderr else False
        try:
            with handling(loop, dict.fromkeys(signals, on_signal)):
                self._start(self._slots[0])  # the others start when its script runs
                return await self._result
        finally:
            if self._restarting is not None:
                self._restarting.cancel()
            if self._watchdog is not None:
                heartbeats.cancel()
            self._service.ended()
            self._close()

    def _close(self) -> None:
        for slot in self._slots:
            slot.cancel_retry()
            for worker in slot.workers:  # only if the supervisor crashed: the worker will drain
                worker.cancel_opening()
                worker.channel.close()
        self._sockets.close()

    def stop(self) -> None:
        """Drain all workers; a second call stops them at once."""
        self._stop_count += 1
        if self._stop_count > 2:  # draining them again would delay the kill
            return
        workers = self._workers()
        for slot in self._slots:
            slot.cancel_retry()
        for worker in workers:
            if self._stop_count > 1 or worker.state is not State.STOPPING:
                self._drain(worker, self._grace if self._stop_count == 1 else 0)
        self._finish_if_done()
        if self._stop_count == 1:
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

    def _finish_if_done(self) -> None:
        assert self._result is not None
        if self._result.done() or self._workers():
            return
        finished = all(slot.is_finished or not slot.is_wanted for slot in self._slots)
        if self._stop_count or (finished and not self._develop):
            self._result.set_result(self._code)

    # ----------------------------------------------------------------- starting

    def _start(self, slot: Slot) -> Worker | None:
        """Start a worker for *slot*. If that fails, return None and try again later."""
        slot.cancel_retry()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            environment = {
                name: value
                for name, value in os.environ.items()
                if name not in VARIABLES and name not in _SUPERVISOR_VARIABLES
            }
            heartbeat = self._watchdog / 3 if self._watchdog is not None else 0
            environment[CHANNEL] = f"{theirs.fileno()}:{heartbeat}"
            environment["SILLY_WORKER"] = str(slot.number)
            try:
                process = subprocess.Popen(  # noqa: S603 - our own command
                    self._command,
                    cwd=self._directory,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=None if self._develop else subprocess.DEVNULL,
                    # In its own process group, so that Ctrl-C reaches only the supervisor.
                    process_group=None if self._develop else 0,
                )
            except OSError as error:
                ours.close()
                if slot.is_empty:
                    slot.failures += 1
                    self._retry(slot)
                logger.error("cannot start worker %d: %s", slot.number, error)  # noqa: TRY400
                return None
        predecessor = next((each for each in slot.workers if each.has_reported), None)
        worker = Worker(
            slot,
            process,
            Channel(ours),
            self._loop.time(),
            expected=set(predecessor.listening) if predecessor is not None else None,
        )
        slot.workers.append(worker)
        # A thread instead of SIGCHLD, which uvloop reserves for itself.
        threading.Thread(target=self._wait_for, args=(worker,), daemon=True).start()
        worker.channel.attach(
            self._loop,
            lambda message, _: self._on_message(worker, message),
            lambda: None,  # `_on_exit` handles it
        )
        return worker

    def _wait_for(self, worker: Worker) -> None:
        worker.process.wait()
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._on_exit, worker)

    def _retry(self, slot: Slot) -> float:
        """Schedule the start of a worker for *slot*; return the back-off in seconds."""
        delay = 0.0
        if slot.failures:
            delay = min(self._back_off_limit, self._back_off * 2 ** (slot.failures - 1))
        slot.retry_timer = self._loop.call_later(delay, self._start, slot)
        return delay

    def _reconcile(self) -> None:
        """Start missing workers, lend their sockets to others, and report the status."""
        if self._stop_count:
            return
        for slot in self._slots if self._program_started else self._slots[:1]:
            if self._develop and slot.workers:
                continue  # the new worker starts when the old one has ended
            if slot.is_empty and slot.is_wanted and not slot.is_finished and not slot.retry_timer:
                self._start(slot)
        self._lend_sockets()
        wanted = [slot for slot in self._slots if slot.is_wanted]
        if self._restarting is None and all(slot.was_ready for slot in wanted):
            self._service.ready()
        ready = sum(slot.worker is not None for slot in wanted)
        status = f"{ready} of {len(wanted)} worker{'s'[: len(wanted) != 1]} ready"
        if status != self._status:
            self._status = status
            self._service.status(status)

    # ------------------------------------------------------------------- stopping

    def _drain(self, worker: Worker, grace: float) -> None:
        worker.state = State.STOPPING
        if not worker.became_ready.done():
            worker.became_ready.set_result(False)
        if worker.has_reported:
            worker.cancel_opening()
            worker.channel.send(Drain(grace))
        else:  # its event loop does not run yet
            worker.process.send_signal(signal.SIGTERM)
        if worker.kill_timer is not None:
            worker.kill_timer.cancel()
            worker.kill_timer = None
        if grace != float("inf"):
            delay = grace + _KILL_MARGIN if grace else _KILL_DELAY
            worker.kill_timer = self._loop.call_later(delay, self._kill, worker)

    def _kill(self, worker: Worker) -> None:
        if worker.process.poll() is None:
            worker.process.kill()
            logger.warning("%s did not stop in time: killing it", worker)

    def _on_exit(self, worker: Worker) -> None:
        slot = worker.slot
        worker.channel.deliver()  # its last messages
        worker.channel.close()
        slot.workers.remove(worker)
        worker.cancel_waits()
        for name, answer in worker.answers.items():
            self._keep_last_answer(name, answer)
        for other in self._slots:
            if other.lent_to is worker:
                other.lent_to = None
        code = worker.process.returncode
        if worker.state is State.STOPPING:
            if code > 0:
                logger.warning("%s %s while stopping", worker, describe_exit(code))
        elif self._develop:
            slot.is_finished = True
            logger.info("the program %s; waiting for a change", describe_exit(code))
        elif code == 0:
            slot.is_finished = slot.is_empty
            logger.info("%s finished", worker)
        elif not self._stop_count:
            self._on_crash(worker, code)
        self._reconcile()
        self._finish_if_done()

    def _on_crash(self, worker: Worker, code: int) -> None:
        slot = worker.slot
        self._deaths += not self._was_ready
        refused = (
            worker.refused is not None and worker.refused.errno in _PERMANENT_ERRORS and code == 1
        )
        if (self._deaths >= self._give_up or refused) and not self._was_ready:
            why = "; giving up: it was never ready"
            if self._deaths > 1:
                why = f"; giving up: {self._deaths} workers died, and none was ever ready"
            self._code = code if code > 0 else 1
            self.stop()
            logger.error("%s %s%s", worker, worker.exit_description, "" if refused else why)
            return
        if worker.became_ready.result() and self._loop.time() - worker.started_at >= self._settled:
            slot.failures = 0
        else:
            slot.failures += 1
        if not slot.is_empty:
            logger.error(
                "%s %s; another process runs as worker %d",
                worker,
                worker.exit_description,
                slot.number,
            )
            return
        delay = self._retry(slot)
        when = f"in {delay:g} s" if delay else "now"
        logger.error("%s %s; starting another %s", worker, worker.exit_description, when)

    # --------------------------------------------------------- messages of workers

    def _on_message(self, worker: Worker, message: Message) -> None:
        worker.last_message_at = self._loop.time()
        match message:
            case Open():
                worker.opening = self._loop.create_task(self._open(worker, message))
            case Release(address, index):
                worker.listening.discard((address, index))
                self._release(worker.slot, (address, index))
            case Running(started, listening):
                worker.listening = {(address, index) for address, index in listening}
                self._on_running(worker, started=started)
            case Stopping(told):
                if not worker.stopped_accepting.done():
                    worker.stopped_accepting.set_result(None)
                if worker.state is not State.STOPPING:
                    worker.state = State.STOPPING if told else State.ENDING
                    self._reconcile()  # the supervisor did not stop it: replace it
            case Answer(number, name, known, value):
                if known:
                    worker.answers[name] = value
                pending = worker.pending_answers.pop(number, None)
                if pending is not None and not pending.done():
                    pending.set_result(None)
            case Last(answers):
                worker.answers |= answers
            case Heartbeat() | _:
                pass

    def _on_running(self, worker: Worker, *, started: bool) -> None:
        worker.has_reported = True
        worker.refused = None
        if worker.state is State.STARTING:
            worker.state = State.RUNNING
            self._program_started = True
        if worker.state is State.RUNNING and (started or worker.listens_as_expected):
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
        self._reconcile()

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
        """Close the sockets for *key* that no worker listens on any more."""
        if not any(key in worker.listening for worker in slot.workers):
            self._sockets.release(slot.number, key)
        if not any(key in worker.listening for worker in self._workers()):
            self._sockets.forget(key)

    def _lend_sockets(self) -> None:
        """Make sure that a worker accepts on the sockets of each slot."""
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

    def _on_hangup(self) -> None:
        if self._has_terminal and not os.isatty(sys.stderr.fileno()):
            self.stop()  # the terminal was closed
        elif self._develop:
            self.reload()
        else:
            self.restart()

    def restart(self) -> None:
        """Replace all workers one by one; each serves until its successor is ready.

        If a successor does not become ready within a minute, or dies, the restart
        is abandoned and the other workers keep running.
        """
        self._restart_wanted = True
        if self._restarting is None and not self._stop_count:
            self._restarting = self._loop.create_task(self._restart_all())

    async def _restart_all(self) -> None:
        while self._restart_wanted:
            self._restart_wanted = False
            self._service.reloading()
            logger.info("restarting")
            done = True
            for slot in list(self._slots):
                if slot.is_wanted and not slot.is_finished and done and not self._stop_count:
                    done = await self._replace(slot)
            if done:
                logger.info("restarted")
            elif not self._stop_count:
                logger.error("the restart was abandoned; the other workers keep running")
        self._restarting = None
        self._reconcile()

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
            not_listening = (new.expected or set()) - new.listening
            missing = ", ".join(sorted(address for address, _ in not_listening))
            logger.error(  # noqa: TRY400
                "%s was not ready after %g s%s",
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
            await asyncio.wait([worker.stopped_accepting for worker in old], timeout=_START_TIMEOUT)
        return True

    def add_worker(self) -> None:
        """Start one more worker."""
        retired = [slot for slot in self._slots if not slot.is_wanted]
        if retired:
            retired[0].is_wanted = True
        else:
            self._slots.append(Slot(len(self._slots) + 1))
        self._reconcile()

    def remove_worker(self) -> None:
        """Drain one worker and do not replace it; the last worker always stays.

        Another worker accepts on its sockets.
        """
        if self._stop_count:
            return
        *others, slot = (slot for slot in self._slots if slot.is_wanted)
        if not others:
            logger.info("worker %d is the last one: not removed", slot.number)
            return
        slot.is_wanted = False
        slot.cancel_retry()
        for worker in slot.workers:
            if worker.state is not State.STOPPING:
                self._drain(worker, self._grace)
        self._reconcile()

    # --------------------------------------------------------------- development

    def reload(self) -> None:
        """Stop the program and start it again; new connections wait meanwhile (development)."""
        if self._stop_count:
            return
        for slot in self._slots:
            slot.is_finished = False
        for worker in self._workers():
            self._drain(worker, 0)
        self._reconcile()

    # ------------------------------------------------------- questions, heartbeats

    async def ask(self, name: str, *, timeout: float = 5.0) -> list[Any]:
        """Ask all workers for *name* and return their answers.

        A worker registers what it can answer with `silly.workers.answers.provide`.

        Args:
            name: such as ``"stats"``.
            timeout: seconds; if a worker does not answer in time, its previous
                answer is used.

        Returns:
            The JSON values: one from each live worker that has ever answered, then
            the last answers of ended workers (one for all of them if the provider
            merges them).
        """
        pending: list[asyncio.Future[None]] = []
        self._question_count += 1
        number = self._question_count
        for worker in self._workers():
            if worker.has_reported and not worker.channel.ended and not worker.channel.is_clogged:
                future = worker.pending_answers[number] = self._loop.create_future()
                pending.append(future)
                worker.channel.send(Ask(number, name))
        try:
            if pending:
                await asyncio.wait(pending, timeout=seconds(timeout, "timeout"))
        finally:
            for future in pending:
                future.cancel()
            for worker in self._workers():
                worker.pending_answers.pop(number, None)
        living = [each.answers[name] for each in self._workers() if name in each.answers]
        return [*living, *self._last_answers.get(name, ())]

    def _keep_last_answer(self, name: str, answer: Any) -> None:
        merge = merging(name)
        kept = self._last_answers.setdefault(name, deque(maxlen=_ANSWERS_KEPT))
        if merge is None:
            kept.append(answer)
            return
        try:
            previous = kept[0] if kept else None
            merged = merge(previous, answer)
        except ENDS_PROGRAM:
            raise
        except BaseException:
            logger.exception("cannot merge the last answer for %r", name)
        else:
            kept.clear()
            kept.append(merged)

    def _request_reports(self) -> None:
        """Have each worker print what it is doing."""
        for worker in self._workers():
            # The signal would kill a worker that does not run yet or is exiting.
            if worker.has_reported and not worker.channel.ended:
                worker.process.send_signal(signal.SIGUSR1)

    async def _watch_heartbeats(self, period: float) -> None:
        while True:
            await asyncio.sleep(period / 2)
            for worker in self._workers():
                silent = self._loop.time() - worker.last_message_at
                if worker.has_reported and silent > period:
                    worker.process.send_signal(signal.SIGABRT)
                    if silent > 2 * period:
                        worker.process.kill()
                    logger.error("%s has not answered for %.3g s: killing it", worker, silent)
