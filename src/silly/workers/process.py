"""Worker processes: one of them, the place that one has, and how it is started."""

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

from silly._channel import Channel, Key, Refused

__all__ = ["Slot", "State", "Worker", "command_line", "manner", "working_directory"]


class State(enum.Enum):
    """How far a worker is."""

    STARTING = "starting"  # not heard of
    RUNNING = "running"
    READY = "ready"
    ENDING = "ending"  # by itself
    STOPPING = "stopping"  # because it was told to


class Worker:
    """One process."""

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
        self.last_beat = now
        self.expected = expected  # where its predecessor listens; None without one
        self.listening: set[Key] = set()
        self.answers: dict[str, Any] = {}  # the latest, by name
        self.opening: asyncio.Task[None] | None = None  # the sockets that it waits for
        self.asked: dict[int, asyncio.Future[None]] = {}
        self.became_ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # accepting
        self.was_heard = False
        self.overdue: asyncio.TimerHandle | None = None
        self.refused: Refused | None = None  # where it last wanted to listen, unless it goes on

    @property
    def manner(self) -> str:
        """How it ended, when it has."""
        if self.refused is not None and self.process.returncode == 1:
            return f"cannot listen on {self.refused.address}: {self.refused.text}"
        return manner(self.process.returncode)

    @property
    def is_ready_now(self) -> bool:
        """True if it listens everywhere it should, as far as that can be known."""
        if self.expected is None:
            return bool(self.listening)
        return self.listening >= self.expected

    def cancel_opening(self) -> None:
        """Let it wait no longer for the sockets that it asked for."""
        if self.opening is not None:
            self.opening.cancel()

    def died(self) -> None:
        """Let nobody wait for it any more."""
        self.cancel_opening()
        if self.overdue is not None:
            self.overdue.cancel()
        for asked in self.asked.values():
            asked.cancel()
        if not self.became_ready.done():
            self.became_ready.set_result(False)
        if not self.stopped.done():
            self.stopped.set_result(None)

    def __str__(self) -> str:
        return f"worker {self.slot.number} (pid {self.process.pid})"


class Slot:
    """The place of one worker, and what outlives it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.workers: list[Worker] = []  # of which one, at most, is neither new nor stopping
        self.lent_to: Worker | None = None
        self.failures = 0  # in a row
        self.retry: asyncio.TimerHandle | None = None
        self.is_wanted = True
        self.is_finished = False  # its program came to its end
        self.was_ready = False

    def cancel_retry(self) -> None:
        """Start no worker later, if that was the plan."""
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None

    @property
    def worker(self) -> Worker | None:
        """The one that serves."""
        serving = [each for each in self.workers if each.state is State.READY]
        return serving[0] if serving else None

    @property
    def is_empty(self) -> bool:
        """True if nobody serves or is about to."""
        return all(worker.state is State.STOPPING for worker in self.workers)


def manner(code: int) -> str:
    """Say how a process with exit code *code* (`subprocess.Popen.returncode`) ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def working_directory() -> str | None:
    """Return the working directory by the name that it was entered under; None if it is gone.

    A shell says that name in ``PWD``. It may lead through a symbolic link, such as
    one to the current release, which leads elsewhere when the next one is installed.
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
    """Return the command that runs *target*, with the options, in an interpreter like this one.

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
        command.append("-P")  # the current directory is no place to import silly from
    command += ["-m", "silly", "--grace", str(grace)]
    command += ["--debug"] * debug + ["--uvloop"] * uvloop
    return [*command, *options, target, "--", *args]
