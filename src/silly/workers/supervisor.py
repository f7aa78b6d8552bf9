"""The supervisor; `silly.workers` states its rules."""

from __future__ import annotations

import asyncio
import errno
import signal
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

from silly._engine import engine
from silly._logs.logger import Logger
from silly._loop.signals import ControllingTerminal, Debouncer, handling
from silly._values.arguments import seconds, size
from silly.runtime import GRACE
from silly.runtime.program import listed
from silly.systemd import Service, watchdog_period
from silly.workers.channel import (
    Acted,
    Answer,
    Heartbeat,
    Last,
    Message,
    Open,
    Release,
    Running,
    Stopping,
)
from silly.workers.fleet import BackOff, Fleet
from silly.workers.lending import Lender
from silly.workers.process import (
    Slot,
    State,
    Worker,
    command_line,
    describe_exit,
    exit_reason,
)
from silly.workers.questions import Questions
from silly.workers.restarts import Restarts

__all__ = ["Supervisor"]

logger = Logger("silly.workers")

_USAGE_ERROR: Final = 2  # the exit code for wrong usage: a retry would fail again
_PERMANENT_ERRORS: Final = (errno.EADDRINUSE, errno.EACCES)  # likewise


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
        waits = BackOff(seconds(back_off, "back_off"), seconds(back_off_limit, "back_off_limit"))
        self._settled = seconds(settled, "settled")
        self._give_up = size(give_up, "give_up", least=1)
        self._fleet = Fleet(
            size(workers, "workers", least=1),
            command_line(
                target, args, grace=grace, debug=debug, uvloop=uvloop, options=worker_options
            ),
            waits,
            grace=self._grace,
            watchdog=self._watchdog,
            develop=develop,
            on_message=self._on_message,
            on_exit=self._on_exit,
        )
        self._lender = Lender(self._fleet)
        self._questions = Questions(self._fleet)
        self._early_deaths = 0  # before any worker was ready
        # By reason; the usual ones are there from the start, so that rates see the first.
        self._deaths = {"exit 1": 0, "SIGKILL": 0}
        self._was_ready = False
        self._program_started = False  # the first worker's main coroutine waits, or has returned
        self._status = ""
        self._code = 0
        self._result: asyncio.Future[int] | None = None

    @property
    def pids(self) -> list[int]:
        """The process IDs of all workers that are alive, including those that drain."""
        return [worker.process.pid for worker in self._fleet.workers]

    @property
    def counts(self) -> dict[str, Any]:
        """Counts of workers, as JSON values.

        ``wanted`` is how many are to serve, ``ready`` how many do, ``starts`` how many
        processes were started; ``deaths`` counts by reason those that ended unasked,
        ``restarts`` the rolling restarts, by whether they were ``done`` or ``abandoned``.
        """
        wanted = self._fleet.wanted
        return {
            "wanted": 0 if self._fleet.stop_count else len(wanted),
            "ready": sum(slot.worker is not None for slot in wanted),
            "starts": self._fleet.starts,
            "deaths": dict(self._deaths),
            "restarts": dict(self._restarts.counts) if self._result is not None else {},
        }

    @property
    def is_stopping(self) -> bool:
        """True once the workers have been told to stop."""
        return self._fleet.stop_count > 0

    @property
    def processes(self) -> list[dict[str, Any]]:
        """Each worker that is alive, as JSON values.

        The ``worker``'s number, its ``pid``, its ``state`` (``starting``, ``running``,
        ``ready``, ``ending``, ``stopping``), its ``age`` in seconds, and its last answer to
        each question of `ask`, as ``answers``.
        """
        now = asyncio.get_running_loop().time()
        return [
            {
                "worker": worker.slot.number,
                "pid": worker.process.pid,
                "state": worker.state.value,
                "age": round(now - worker.started_at, 3),
                "answers": dict(worker.answers),
            }
            for worker in self._fleet.workers
        ]

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
        self._restarts = Restarts(self._fleet, self._service, self._reconcile)
        if self._watchdog is not None:
            heartbeats = loop.create_task(self._fleet.watch_heartbeats(self._watchdog))
        signals: dict[int, Callable[[], object]] = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: self._on_hangup,
            signal.SIGTTIN: self.add_worker,
            signal.SIGTTOU: self.remove_worker,
            signal.SIGUSR1: self._fleet.request_reports,
        }
        presses = Debouncer()

        def on_signal(number: int, _frame: types.FrameType | None) -> None:
            if number not in (signal.SIGTERM, signal.SIGINT) or presses.is_new(number):
                loop.call_soon_threadsafe(signals[number])

        self._terminal = ControllingTerminal()
        try:
            with handling(loop, dict.fromkeys(signals, on_signal)):
                self._fleet.start(self._fleet.slots[0])  # the others start when its script runs
                return await self._result
        finally:
            self._restarts.cancel()
            if self._watchdog is not None:
                heartbeats.cancel()
            self._service.ended()
            self._fleet.close()
            self._lender.close()

    def stop(self, grace: float | None = None) -> None:
        """Drain all workers; a second call stops them at once.

        Args:
            grace: seconds for handlers to finish, if that is less than the workers give
                them; with 0, the first call stops them at once.
        """
        workers = self._fleet.workers
        self._fleet.stop(grace)
        self._finish_if_done()
        if self._fleet.stop_count == 1:
            self._service.stopping()
            if workers:
                logger.info(
                    "stopping; waiting up to %g s for %d worker%s (again to stop now)",
                    self._grace if grace is None else min(grace, self._grace),
                    len(workers),
                    "s"[: len(workers) > 1],
                )

    def _finish_if_done(self) -> None:
        assert self._result is not None
        if self._result.done() or self._fleet.workers:
            return
        finished = all(slot.is_finished for slot in self._fleet.wanted)
        if self._fleet.stop_count or (finished and not self._develop):
            self._result.set_result(self._code)

    def _reconcile(self) -> None:
        """Start missing workers, lend their sockets to others, and report the status."""
        if self._fleet.stop_count:
            return
        for slot in self._fleet.slots if self._program_started else self._fleet.slots[:1]:
            if self._develop and slot.workers:
                continue  # the new worker starts when the old one has ended
            if slot.is_empty and slot.is_wanted and not slot.is_finished and not slot.retry_timer:
                self._fleet.start(slot)
        self._lender.lend()
        wanted = self._fleet.wanted
        if not self._restarts.is_running and all(slot.was_ready for slot in wanted):
            self._service.ready()
        ready = sum(slot.worker is not None for slot in wanted)
        status = f"{ready} of {len(wanted)} worker{'s'[: len(wanted) != 1]} ready"
        if status != self._status:
            self._status = status
            self._service.status(status)

    # ----------------------------------------------------------- ends of workers

    def _on_exit(self, worker: Worker) -> None:
        slot = worker.slot
        self._questions.worker_ended(worker)
        self._lender.worker_ended(worker)
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
        elif not self._fleet.stop_count:
            self._on_crash(worker, code)
        self._reconcile()
        self._finish_if_done()

    def _on_crash(self, worker: Worker, code: int) -> None:
        slot = worker.slot
        self._early_deaths += not self._was_ready
        reason = exit_reason(code)
        self._deaths[reason] = self._deaths.get(reason, 0) + 1
        refused = (
            worker.refused is not None and worker.refused.errno in _PERMANENT_ERRORS and code == 1
        )
        refused = refused or code == _USAGE_ERROR
        if (self._early_deaths >= self._give_up or refused) and not self._was_ready:
            why = "; giving up: it was never ready"
            if self._early_deaths > 1:
                why = f"; giving up: {self._early_deaths} workers died, and none was ever ready"
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
        delay = self._fleet.retry(slot)
        when = f"in {delay:g} s" if delay else "now"
        logger.error("%s %s; starting another %s", worker, worker.exit_description, when)

    # --------------------------------------------------------- messages of workers

    def _on_message(self, worker: Worker, message: Message) -> None:
        worker.last_message_at = self._loop.time()
        match message:
            case Open():
                worker.opening = self._loop.create_task(self._lender.open(worker, message))
            case Release(address, index):
                worker.listening.discard((address, index))
                self._lender.release(worker.slot, (address, index))
            case Running(started, listening, encrypted, datagrams):
                worker.datagrams = datagrams
                worker.listening = {(address, index) for address, index in listening}
                self._on_running(worker, started=started, encrypted=encrypted)
            case Stopping(told):
                if not worker.stopped_accepting.done():
                    worker.stopped_accepting.set_result(None)
                if worker.state is not State.STOPPING:
                    worker.state = State.STOPPING if told else State.ENDING
                    self._reconcile()  # the supervisor did not stop it: replace it
            case Answer() | Acted():
                self._questions.answered(worker, message)
            case Last(answers):
                worker.answers |= answers
            case Heartbeat() | _:
                pass

    def _on_running(self, worker: Worker, *, started: bool, encrypted: Sequence[str]) -> None:
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
            if is_first and worker.listens:
                names = self._lender.names(worker)
                datagrams = [f"{addr} for UDP" for addr in worker.datagrams]
                logger.info(
                    "listening on %s (%s engine); Ctrl-C or SIGTERM stops, SIGHUP restarts",
                    listed([*names, *datagrams], encrypted),
                    engine.NAME,
                )
            logger.info("%s is ready", worker)
        self._reconcile()

    # ------------------------------------------------- restart, add, remove, reload

    def _on_hangup(self) -> None:
        if self._terminal.is_gone:
            self.stop()
        elif self._develop:
            self.reload()
        else:
            self.restart()

    def restart(self) -> None:
        """Replace all workers one by one; each serves until its successor is ready.

        If a successor does not become ready within a minute, or dies, the restart
        is abandoned and the other workers keep running.
        """
        self._restarts.request()

    def add_worker(self) -> None:
        """Start one more worker."""
        retired = [slot for slot in self._fleet.slots if not slot.is_wanted]
        if retired:
            retired[0].is_wanted = True
        else:
            self._fleet.slots.append(Slot(len(self._fleet.slots) + 1))
        self._reconcile()

    def remove_worker(self) -> None:
        """Drain one worker and do not replace it; the last worker always stays.

        Another worker accepts on its sockets.
        """
        if self._fleet.stop_count:
            return
        *others, slot = self._fleet.wanted
        if not others:
            logger.info("worker %d is the last one: not removed", slot.number)
            return
        slot.is_wanted = False
        slot.cancel_retry()
        for worker in slot.workers:
            if worker.state is not State.STOPPING:
                self._fleet.drain(worker)
        self._reconcile()

    def reload(self) -> None:
        """Stop the program and start it again; new connections wait meanwhile (development)."""
        if self._fleet.stop_count:
            return
        for slot in self._fleet.slots:
            slot.is_finished = False
        for worker in self._fleet.workers:
            self._fleet.drain(worker, 0)
        self._reconcile()

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
        return await self._questions.ask(name, timeout)

    async def command(self, text: str, *, timeout: float = 5.0) -> list[tuple[Any, str | None]]:
        """Have all workers do something (`silly.workers.answers.obey`).

        Args:
            text: a line, such as ``"close 192.0.2.7:53124"``.
            timeout: seconds.

        Returns:
            For each worker that answers in time, a JSON value and None, or None and the
            reason why it could not do it.
        """
        return await self._questions.command(text, timeout)
