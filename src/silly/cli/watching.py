"""``--access-log``, ``--metrics`` and ``--admin``: what is to be seen of a program from outside.

In a program of one process, `watch` opens them before the script begins. With
worker processes, each worker is only measured (`measure_worker`) and answers its
supervisor (`ANSWERS`), who opens them for all (`watch_workers`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from silly import admin, metrics
from silly.net import observer
from silly.net.access_log import AccessLog

__all__ = [
    "ANSWERS",
    "log_access",
    "measure_worker",
    "watch",
    "watch_workers",
]


def log_access() -> None:
    """Log the connections of all listeners, to standard error unless the program decides else."""
    logger = logging.getLogger("silly.access")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    observer.register(AccessLog())


def watch(metrics_addr: str | None, admin_addr: str | None) -> None:
    """Open what is asked for, in the running loop.

    Raises:
        SystemExit: it cannot be opened; the message says why.
    """
    _open("--metrics", metrics.serve, metrics_addr)
    _open("--admin", admin.serve, admin_addr)


def _open(flag: str, serve: Callable[..., object], addr: str | None, *source: Any) -> None:
    if addr is None:
        return
    try:
        serve(addr, *source)
    except (OSError, ImportError) as error:
        sys.exit(f"silly: {flag}: {error}")


# ----------------------------------------------------------------------- workers


class _Supervisor(Protocol):
    async def ask(self, name: str) -> list[Any]:
        """Return the answers of all workers."""


def _retire(so_far: Any, last: Any) -> Any:
    return metrics.merge([so_far or {}, metrics.retired(last)])


def _forget(_so_far: Any, _last: Any) -> Any:
    return None


ANSWERS: Final[Mapping[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]]] = {
    "stats": (metrics.snapshot, _retire),
    "connections": (lambda: admin.answer("connections"), _forget),
    "tasks": (lambda: admin.answer("tasks"), _forget),
}
"""What a worker can be asked, what answers it, and what is kept of its last answer."""


def measure_worker() -> None:
    """Measure this worker, in the running loop, for as long as that runs."""
    metrics.measure()


def watch_workers(
    supervisor: _Supervisor, metrics_addr: str | None, admin_addr: str | None
) -> None:
    """Open what is asked for in the supervisor's loop, answering for all workers.

    Raises:
        SystemExit: it cannot be opened; the message says why.
    """

    async def merged() -> metrics.Snapshot:
        return metrics.merge(filter(None, await supervisor.ask("stats")))

    async def answer(command: str) -> Any:
        if command == "stats":
            return await merged()
        if command in ANSWERS:
            return [each for each in await supervisor.ask(command) if each is not None]
        word = command.partition(" ")[0]
        if word in ANSWERS:
            raise ValueError(f"{word} takes no argument where there are workers")
        return admin.answer(command)

    _open("--metrics", metrics.serve, metrics_addr, merged)
    _open("--admin", admin.serve, admin_addr, answer)
