"""The name of this process, as ps(1), top(1) and pgrep(1) show it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

__all__ = ["set_title"]

_LENGTH: Final = 15  # bytes, PR_SET_NAME(2const)


def set_title(program: str, *, worker: int | None = None, is_supervisor: bool = False) -> None:
    """Name this process after *program*, such as ``app.py``.

    On Linux, the short name becomes ``silly app.py``, or ``silly 2 app.py`` for worker 2.
    Where setproctitle is installed (extra: ``silly-net[title]``), the command line that is
    shown becomes ``silly: worker 2 of app.py``, on other systems, too.
    """
    role = f"worker {worker} of " if worker is not None else "supervisor of " * is_supervisor
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle  # noqa: PLC0415 - an extra

        setproctitle(f"silly: {role}{program}")
    # Last, because setproctitle changes the short name, too.
    short = "silly" if worker is None else f"silly {worker}"
    with contextlib.suppress(OSError):
        name = f"{short} {Path(program).name}".encode()[:_LENGTH]
        Path("/proc/self/comm").write_bytes(name)
