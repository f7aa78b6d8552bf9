"""``--access-log``, ``--metrics`` and ``--admin``: observing a program from outside.

In a single process, `watch` opens the metrics and admin listeners before the script
begins. With worker processes, each worker measures itself (`measure_worker`) and
answers its supervisor's questions (`ANSWERS`); the supervisor opens the listeners and
answers for all workers (`watch_workers`). It also asks regularly, so that little is
lost when a worker is killed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from silly import admin, metrics
from silly._logs.logger import Logger
from silly._loop.live import Live
from silly.log import FORMATS, DroppingHandler
from silly.net import observer, tcp
from silly.net.access_log import AccessLog

__all__ = [
    "ANSWERS",
    "log_access",
    "measure_worker",
    "show_access_log",
    "watch",
    "watch_workers",
    "watched",
]

logger = Logger("silly.workers")

_PERIOD: Final = 2.0  # seconds between questions to the workers


def log_access(form: str = "text") -> None:
    """Log all connections; see `show_access_log`."""
    show_access_log(form)
    observer.register(AccessLog())


def show_access_log(form: str = "text") -> None:
    """Send the access log to standard error, unless the program has configured a handler."""
    access = logging.getLogger("silly.access")
    if not access.handlers:
        handler = DroppingHandler()
        handler.setFormatter(FORMATS[form]())
        access.addHandler(handler)
        access.propagate = False
    if access.level == logging.NOTSET:
        access.setLevel(logging.INFO)


def watch(metrics_addr: str | None, admin_addr: str | None) -> None:
    """Open the listeners whose address is not None, in the running loop.

    Raises:
        SystemExit: one of them cannot be opened; the message says why.
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
"""For each question: the function that answers it, and what to keep of a dead worker's answer."""


def measure_worker() -> None:
    """Measure this worker for as long as the running loop lives, and answer the supervisor."""
    _provide()
    metrics.measure()


def _provide() -> None:
    from silly.workers.answers import provide  # noqa: PLC0415 - most programs have no workers

    for name, (function, merge) in ANSWERS.items():
        meanwhile = metrics.snapshot_in_turns if name == "stats" else None
        provide(name, function, merge=merge, meanwhile=meanwhile)


def watch_workers(
    supervisor: _Supervisor, metrics_addr: str | None, admin_addr: str | None
) -> None:
    """Open the listeners in the supervisor's loop; they answer for all workers.

    Raises:
        SystemExit: one of them cannot be opened; the message says why.
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
            raise ValueError(f"{word} takes no argument when there are workers")
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
    """Run the workers, with the listeners open until they have ended.

    Raises:
        SystemExit: one of them cannot be opened; the message says why.
    """
    if metrics_addr is None and admin_addr is None:
        return await run()
    asking = asyncio.create_task(_ask_regularly(supervisor))
    try:
        watch_workers(supervisor, metrics_addr, admin_addr)
        return await run()
    finally:
        asking.cancel()
        for auxiliary in list(Live.of(asyncio.get_running_loop()).auxiliaries):
            await auxiliary.close(0)


async def _ask_regularly(supervisor: _Supervisor) -> None:
    while True:
        await asyncio.sleep(_PERIOD)
        await supervisor.ask("stats")
