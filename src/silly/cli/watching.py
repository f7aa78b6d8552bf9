"""``--access-log``, ``--metrics`` and ``--admin``: what is to be seen of a program from outside.

In a program of one process, `watch` opens them before the script begins. With
worker processes, each worker is only measured (`measure_worker`) and answers its
supervisor (`ANSWERS`), who opens them for all (`watch_workers`). The supervisor
asks every now and then, so that of a worker that is killed little is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from silly import _control, admin, metrics
from silly._live import Live
from silly._logger import Logger
from silly.log import FORMATS, DroppingHandler
from silly.net import observer, tcp
from silly.net.access_log import AccessLog

__all__ = [
    "ANSWERS",
    "log_access",
    "measure_worker",
    "watch",
    "watch_workers",
    "watched",
]

logger = Logger("silly.workers")

_PERIOD: Final = 2.0  # seconds between two questions to the workers


def log_access(form: str = "text") -> None:
    """Log the connections of all listeners, to standard error unless the program decides else."""
    access = logging.getLogger("silly.access")
    if not access.handlers:
        handler = DroppingHandler()
        handler.setFormatter(FORMATS[form]())
        access.addHandler(handler)
        access.propagate = False
    if access.level == logging.NOTSET:
        access.setLevel(logging.INFO)
    observer.register(AccessLog())


def watch(metrics_addr: str | None, admin_addr: str | None) -> None:
    """Open what is asked for, in the running loop.

    Raises:
        SystemExit: it cannot be opened; the message says why.
    """
    _open("--metrics", metrics.serve, metrics_addr)
    _open("--admin", admin.serve, admin_addr)


def _open(
    flag: str, serve: Callable[..., tcp.Listener], addr: str | None, *source: Any
) -> tcp.Listener | None:
    if addr is None:
        return None
    try:
        return serve(addr, *source)
    except (OSError, ImportError) as error:
        sys.exit(f"silly: {flag}: {error}")


# ----------------------------------------------------------------------- workers


class _Supervisor(Protocol):
    async def ask(self, name: str) -> list[Any]:
        """Return the answers of all workers."""


def _retire(so_far: Any, last: Any) -> Any:
    return metrics.retired(last, so_far)


def _forget(_so_far: Any, _last: Any) -> Any:
    return None


ANSWERS: Final[Mapping[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]]] = {
    "stats": (metrics.snapshot, _retire),
    "connections": (lambda: admin.answer("connections"), _forget),
    "tasks": (lambda: admin.answer("tasks"), _forget),
}
"""What a worker can be asked, what answers it, and what is kept of its last answer."""


def measure_worker() -> None:
    """Measure this worker, in the running loop, for as long as that runs; let it be asked."""
    _provide()
    metrics.measure()


def _provide() -> None:
    for name, (function, merge) in ANSWERS.items():
        meanwhile = metrics.snapshot_in_turns if name == "stats" else None
        _control.provide(name, function, merge=merge, meanwhile=meanwhile)


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

    _provide()  # for merging
    listener = _open("--metrics", metrics.serve, metrics_addr, merged)
    if listener is not None:
        logger.info("metrics at http://%s/metrics", listener.local_addr)
    _open("--admin", admin.serve, admin_addr, answer)


async def watched(
    run: Callable[[], Awaitable[int]],
    supervisor: _Supervisor,
    metrics_addr: str | None,
    admin_addr: str | None,
) -> int:
    """Run the workers, with what is asked for opened until they have ended.

    Raises:
        SystemExit: it cannot be opened; the message says why.
    """
    if metrics_addr is None and admin_addr is None:
        return await run()
    asking = asyncio.create_task(_ask_regularly(supervisor))
    try:
        watch_workers(supervisor, metrics_addr, admin_addr)
        return await run()
    finally:
        asking.cancel()
        for attendant in list(Live.of(asyncio.get_running_loop()).attendants):
            await attendant.close(0)


async def _ask_regularly(supervisor: _Supervisor) -> None:
    while True:
        await asyncio.sleep(_PERIOD)
        await supervisor.ask("stats")
