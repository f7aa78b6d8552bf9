"""A worker process, the slot it runs in, and the command that starts it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from silly.workers.channel import Channel, Key, Refused

__all__ = [
    "Slot",
    "State",
    "Worker",
    "command_line",
    "describe_exit",
    "exit_reason",
    "working_directory",
]


class State(enum.Enum):
    """The stages of a worker's life."""

    STARTING = "starting"  # it has not reported that it runs
    RUNNING = "running"
    READY = "ready"
    ENDING = "ending"  # its program finished by itself
    STOPPING = "stopping"  # it was asked to stop


class Worker:
    """One worker process, as the supervisor sees it."""

    def __init__(
        self,
        slot: Slot,
        process: subprocess.Popen[bytes],
        channel: Channel,
        now: float,
        *,
        expected: set[Key] | None,
    ) -> None:
        self.slot = slot
        self.process = process
        self.channel = channel
        self.state = State.STARTING
        self.started_at = now
        self.last_message_at = now
        self.expected = expected  # where its predecessor listens; None without one
        self.listening: set[Key] = set()
        self.datagrams: list[str] = []  # where its UDP sockets are bound
        self.answers: dict[str, Any] = {}  # the latest answer to each question
        self.opening: asyncio.Task[None] | None = None  # opens the sockets it asked for
        self.pending_answers: dict[int, asyncio.Future[Any]] = {}
        self.became_ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.stopped_accepting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.has_reported = False
        self.kill_timer: asyncio.TimerHandle | None = None
        self.refused: Refused | None = None  # its last `Open`, if that failed

    @property
    def exit_description(self) -> str:
        """How the process ended, once it has."""
        if self.refused is not None and self.process.returncode == 1:
            return f"cannot listen on {self.refused.address}: {self.refused.text}"
        return describe_exit(self.process.returncode)

    @property
    def listens(self) -> bool:
        """True if it listens anywhere, or has a UDP socket bound."""
        return bool(self.listening or self.datagrams)

    @property
    def listens_as_expected(self) -> bool:
        """True if it listens wherever its predecessor did; without one, anywhere."""
        if self.expected is None:
            return self.listens
        return self.listening >= self.expected

    def cancel_opening(self) -> None:
        """Stop opening the sockets that it asked for."""
        if self.opening is not None:
            self.opening.cancel()

    def cancel_waits(self) -> None:
        """Finish everything that waits for this worker."""
        self.cancel_opening()
        if self.kill_timer is not None:
            self.kill_timer.cancel()
        for answer in self.pending_answers.values():
            answer.cancel()
        if not self.became_ready.done():
            self.became_ready.set_result(False)
        if not self.stopped_accepting.done():
            self.stopped_accepting.set_result(None)

    def __str__(self) -> str:
        return f"worker {self.slot.number} (pid {self.process.pid})"


class Slot:
    """A numbered place for one worker, and the state that outlives the worker."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.workers: list[Worker] = []  # at most one is neither new nor stopping
        self.lent_to: Worker | None = None  # the worker that accepts on its sockets for now
        self.failures = 0  # consecutive failures
        self.retry_timer: asyncio.TimerHandle | None = None
        self.is_wanted = True
        self.is_finished = False  # its program ended
        self.was_ready = False

    def cancel_retry(self) -> None:
        """Cancel the scheduled start of a worker, if any."""
        if self.retry_timer is not None:
            self.retry_timer.cancel()
            self.retry_timer = None

    @property
    def worker(self) -> Worker | None:
        """The worker that serves, if any."""
        serving = [each for each in self.workers if each.state is State.READY]
        return serving[0] if serving else None

    @property
    def is_empty(self) -> bool:
        """True if no worker serves or is starting."""
        return all(worker.state is State.STOPPING for worker in self.workers)


def describe_exit(code: int) -> str:
    """Say how a process with exit code *code* (`subprocess.Popen.returncode`) ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def exit_reason(code: int) -> str:
    """Return *code* as a label of metrics: ``"exit 1"`` or ``"SIGKILL"``."""
    if code >= 0:
        return f"exit {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def working_directory() -> str | None:
    """Return the working directory as the shell names it; None if it was deleted.

    The shell's name (``PWD``) may contain a symbolic link, such as ``current``,
    which points elsewhere once the next release is installed.
    """
    name = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if Path(name).is_absolute() and Path(name).samefile("."):
            return name
    with contextlib.suppress(OSError):
        return os.getcwd()  # noqa: PTH109
    return None


def command_line(
    target: str,
    args: Sequence[str],
    *,
    grace: float,
    debug: bool,
    uvloop: bool,
    options: Sequence[str] = (),
) -> list[str]:
    """Return the command that runs *target* with the options, in the same interpreter.

    Raises:
        TypeError, ValueError: *target* is neither a script's path nor ``module:function``.
    """
    if not isinstance(target, str):
        raise TypeError(
            f"target must be the path of a script or 'module:function', not {type(target).__name__}"
        )
    is_function = re.fullmatch(r"[\w.]+:[\w.]+", target) and not Path(target).exists()
    if not is_function and not Path(target).is_file():
        raise ValueError(
            f"target must be the path of a script or 'module:function', not {target!r}"
        )
    command = [sys.executable]
    command += ["-u"] * getattr(sys.stdout, "write_through", False)
    command += subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    directory = working_directory()
    if directory is None or Path(__file__).parents[2] != Path(directory).resolve():
        command.append("-P")  # do not import silly from the current directory
    command += ["-m", "silly", "--grace", str(grace)]
    command += ["--debug"] * debug + ["--uvloop"] * uvloop
    return [*command, *options, target, "--", *args]
