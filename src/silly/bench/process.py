"""What another process costs: its processor time and memory, from /proc (proc_pid_stat(5))."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """At the time of asking."""

    at: float
    """When it was asked for, in seconds of `time.monotonic`."""
    cpu: float
    """Processor seconds of all its threads so far, user and system."""
    rss: int
    """Bytes of memory that it has resident."""


def usage(pid: int) -> Usage:
    """Return what the process *pid* has used.

    Raises:
        OSError: there is no such process, or no /proc on this system.
    """
    directory = Path(f"/proc/{pid}")
    stat = (directory / "stat").read_text(encoding="ascii", errors="replace")
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    ticks = int(fields[11]) + int(fields[12])
    pages = int((directory / "statm").read_text(encoding="ascii").split()[1])
    return Usage(
        time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")
    )
