"""All worker processes of a supervisor: how they start, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from silly._logs.logger import Logger
from silly.systemd import VARIABLES
from silly.workers.channel import CHANNEL, Channel, Drain, Message
from silly.workers.process import Slot, State, Worker, working_directory

__all__ = ["BackOff", "Fleet"]

logger = Logger("silly.workers")

_KILL_MARGIN: Final = 10.0  # seconds from the end of the grace until a worker is killed
_KILL_DELAY: Final = 3.0  # seconds until a worker is killed if the grace is 0
_SUPERVISOR_VARIABLES: Final = {"SILLY_WORKERS", "SILLY_RELOAD", "SILLY_WATCHDOG"}


@dataclass(frozen=True, slots=True)
class BackOff:
    """Delays between failed starts: each is twice the one before, up to a limit."""

    first: float
    """Seconds."""
    limit: float
    """Seconds."""

    def delay(self, failures: int) -> float:
        """Return how many seconds to wait after *failures* in a row."""
        if not failures:
            return 0.0
        return min(self.limit, self.first * 2.0 ** min(failures - 1, 100))  # no overflow


class Fleet:
    """The slots and their workers: starts, drains and kills them."""

    def __init__(
        self,
        workers: int,
        command: Sequence[str],
        back_off: BackOff,
        *,
        grace: float,
        watchdog: float | None,
        develop: bool,
        on_message: Callable[[Worker, Message], None],
        on_exit: Callable[[Worker], None],
    ) -> None:
        self.slots = [Slot(number + 1) for number in range(workers)]
        self.starts = 0
        """How many processes were started."""
        self.stop_count = 0
        """How often `stop` was called; after the first time, no worker is to be started."""
        self._command = command
        self._directory = working_directory()
        self._back_off = back_off
        self._grace = grace
        self._watchdog = watchdog
        self._develop = develop
        self._on_message = on_message
        self._on_exit = on_exit

    @property
    def workers(self) -> list[Worker]:
        """All workers that are alive, including those that drain."""
        return [worker for slot in self.slots for worker in slot.workers]

    @property
    def wanted(self) -> list[Slot]:
        """The slots that are to have a worker."""
        return [slot for slot in self.slots if slot.is_wanted]

    # ------------------------------------------------------------------ starting

    def start(self, slot: Slot) -> Worker | None:
        """Start a worker for *slot*. If that fails, return None and try again later."""
        slot.cancel_retry()
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                process = subprocess.Popen(  # noqa: S603 - our own command
                    self._command,
                    cwd=self._directory,
                    env=self._environment(slot, theirs),
                    pass_fds=[theirs.fileno()],
                    stdin=None if self._develop else subprocess.DEVNULL,
                    # In its own process group, so that Ctrl-C reaches only the supervisor.
                    process_group=None if self._develop else 0,
                )
            except OSError as error:
                ours.close()
                if slot.is_empty:
                    slot.failures += 1
                    self.retry(slot)
                logger.error("cannot start worker %d: %s", slot.number, error)  # noqa: TRY400
                return None
        self.starts += 1
        predecessor = next((each for each in slot.workers if each.has_reported), None)
        worker = Worker(
            slot,
            process,
            Channel(ours),
            loop.time(),
            expected=set(predecessor.listening) if predecessor is not None else None,
        )
        slot.workers.append(worker)
        # A thread instead of SIGCHLD, which uvloop reserves for itself.
        threading.Thread(target=self._wait_for, args=(worker, loop), daemon=True).start()
        worker.channel.attach(
            loop,
            lambda message, _: self._on_message(worker, message),
            lambda: None,  # `_ended` handles it
        )
        return worker

    def _environment(self, slot: Slot, channel: socket.socket) -> dict[str, str]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in VARIABLES and name not in _SUPERVISOR_VARIABLES
        }
        heartbeat = self._watchdog / 3 if self._watchdog is not None else 0
        environment[CHANNEL] = f"{channel.fileno()}:{heartbeat}"
        environment["SILLY_WORKER"] = str(slot.number)
        return environment

    def retry(self, slot: Slot) -> float:
        """Schedule the start of a worker for *slot*; return the back-off in seconds."""
        delay = self._back_off.delay(slot.failures)
        slot.retry_timer = asyncio.get_running_loop().call_later(delay, self.start, slot)
        return delay

    # -------------------------------------------------------------------- ending

    def stop(self, grace: float | None = None) -> None:
        """Drain all workers, within *grace* seconds if that is less; again: stop them at once."""
        self.stop_count += 1
        grace = self._grace if grace is None else min(grace, self._grace)
        if self.stop_count > 2:  # draining them again would delay the kill
            return
        for slot in self.slots:
            slot.cancel_retry()
        for worker in self.workers:
            if self.stop_count > 1 or worker.state is not State.STOPPING:
                self.drain(worker, grace if self.stop_count == 1 else 0)

    def drain(
        self, worker: Worker, grace: float | None = None, *, is_replaced: bool = False
    ) -> None:
        """Stop *worker*; its handlers have *grace* seconds (None: the program's) to finish.

        Args:
            is_replaced: another worker has taken its place.
        """
        grace = self._grace if grace is None else grace
        worker.state = State.STOPPING
        if not worker.became_ready.done():
            worker.became_ready.set_result(False)
        if not worker.has_reported:  # its event loop may not run yet
            worker.process.send_signal(signal.SIGTERM)
        if worker.has_reported or not grace:  # a second signal might count as the first
            worker.cancel_opening()
            worker.channel.send(Drain(grace, is_replaced))
        if worker.kill_timer is not None:
            worker.kill_timer.cancel()
            worker.kill_timer = None
        if grace != float("inf"):
            delay = grace + _KILL_MARGIN if grace else _KILL_DELAY
            loop = asyncio.get_running_loop()
            worker.kill_timer = loop.call_later(delay, self._kill, worker)

    def _kill(self, worker: Worker) -> None:
        if worker.process.poll() is None:
            worker.process.kill()
            logger.warning("%s did not stop in time: killing it", worker)

    def _wait_for(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        worker.process.wait()
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(self._ended, worker)

    def _ended(self, worker: Worker) -> None:
        worker.channel.deliver()  # its last messages
        worker.channel.close()
        worker.slot.workers.remove(worker)
        worker.cancel_waits()
        self._on_exit(worker)

    def close(self) -> None:
        """Let go of all workers, and start none."""
        self.stop_count += 1
        for slot in self.slots:
            slot.cancel_retry()
            for worker in slot.workers:  # only if `run` was cancelled or crashed: they drain
                worker.cancel_opening()
                worker.channel.close()

    # ---------------------------------------------------------------- heartbeats

    async def watch_heartbeats(self, period: float) -> None:
        """Kill workers that send nothing for *period* seconds: their event loop is stuck."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(period / 2)
            for worker in self.workers:
                silent = loop.time() - worker.last_message_at
                if worker.has_reported and silent > period:
                    worker.process.send_signal(signal.SIGABRT)
                    if silent > 2 * period:
                        worker.process.kill()
                    logger.error("%s has not answered for %.3g s: killing it", worker, silent)

    def request_reports(self) -> None:
        """Have each worker print what it is doing."""
        for worker in self.workers:
            # The signal would kill a worker that does not run yet or is exiting.
            if worker.has_reported and not worker.channel.ended:
                worker.process.send_signal(signal.SIGUSR1)
