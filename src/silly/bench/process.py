"""The processor time and memory of another process, from /proc (proc_pid_stat(5))."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of a process at one moment."""

    at: float
    """The moment, in seconds of `time.monotonic`."""
    cpu: float
    """Processor seconds used so far by all threads, user and system."""
    rss: int
    """Resident memory, in bytes."""


def usage(pid: int) -> Usage:
    """Return the usage of the process *pid*.

    Raises:
        OSError: there is no such process, or this system has no /proc.
    """
    directory = Path(f"/proc/{pid}")
    stat = (directory / "stat").read_text(encoding="ascii", errors="replace")
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    ticks = int(fields[11]) + int(fields[12])
    pages = int((directory / "statm").read_text(encoding="ascii").split()[1])
    return Usage(
        time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")
    )
