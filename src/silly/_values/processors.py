"""How many processors this process may use."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Final

__all__ = ["usable"]

_GROUPS: Final = Path("/sys/fs/cgroup")


def usable(groups: Path = _GROUPS) -> int:
    """Return how many processors this process may use, 1 or more.

    That is the smaller of the processors that it may run on (sched_setaffinity(2)) and of
    the processor time that its container gets (the quota of its cgroup, rounded up).

    Args:
        groups: where the cgroup is mounted, of version 2 or 1.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    quota = _quota(groups)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def _quota(groups: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (groups / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = (groups / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (groups / "cpu" / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    return None
