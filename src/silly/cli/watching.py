"""``--access-log``, ``--metrics``, ``--health`` and ``--admin``: a program seen from outside.

In a single process, `watch` opens the listeners for them before the script
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
from typing import Any, Final, NamedTuple, Protocol

from silly import admin, health, metrics
from silly._logs.logger import Logger
from silly._loop.live import Live
from silly._values.units import counted
from silly.log import FORMATS, DroppingHandler
from silly.net import observer, tcp
from silly.net.access_log import AccessLog

__all__ = [
    "ANSWERS",
    "Addrs",
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
    is_configured = logging.getLogger("silly.access").hasHandlers()  # by --log-config
    show_access_log(None if is_configured else form)
    observer.register(AccessLog())


def show_access_log(form: str | None) -> None:
    """Send the access log to standard error in *form*, unless it has a handler of its own.

    None: it goes where the logging of the program sends it.
    """
    access = logging.getLogger("silly.access")
    if form is not None and not access.handlers:
        handler = DroppingHandler()
        handler.setFormatter(FORMATS[form]())
        access.addHandler(handler)
        access.propagate = False
    if access.level == logging.NOTSET:
        access.setLevel(logging.INFO)


class Addrs(NamedTuple):
    """Where to listen for those who watch; None: not at all."""

    metrics: str | None = None
    health: str | None = None
    admin: str | None = None


def watch(addrs: Addrs) -> None:
    """Open the listeners in the running loop.

    Raises:
        SystemExit: one of them cannot be opened; the message says why.
    """
    _open("--metrics", metrics.serve, addrs.metrics)
    _open("--health", health.serve, addrs.health)
    _open("--admin", admin.serve, addrs.admin)


def _open(
    flag: str, serve: Callable[..., tcp.Listener], addr: str | None, *source: Any, **more: Any
) -> tcp.Listener | None:
    if addr is None:
        return None
    try:
        return serve(addr, *source, **more)
    except (OSError, ImportError) as error:
        sys.exit(f"silly: {flag}: {error}")


# ----------------------------------------------------------------------- workers


class _Supervisor(Protocol):
    @property
    def counts(self) -> Mapping[str, Any]: ...
    @property
    def processes(self) -> list[dict[str, Any]]: ...
    @property
    def is_stopping(self) -> bool: ...
    def stop(self, grace: float | None = ...) -> None: ...
    async def ask(self, name: str) -> list[Any]: ...
    async def command(self, text: str) -> list[tuple[Any, str | None]]: ...


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
    from silly.workers.answers import obey, provide  # noqa: PLC0415 - most have no workers

    for name, (function, merge) in ANSWERS.items():
        meanwhile = metrics.snapshot_in_turns if name == "stats" else None
        provide(name, function, merge=merge, meanwhile=meanwhile)
    obey(admin.act)


def watch_workers(supervisor: _Supervisor, addrs: Addrs) -> None:
    """Open the listeners in the supervisor's loop; they answer for all workers.

    Raises:
        SystemExit: one of them cannot be opened; the message says why.
    """

    async def merged() -> metrics.Snapshot:
        taken = metrics.merge(filter(None, await supervisor.ask("stats")))
        return {**taken, "workers": supervisor.counts}

    def current() -> health.Health:
        return _health_of(supervisor)

    async def answer(command: str) -> Any:
        word, rest = admin.check(command)
        if word == "stats":
            return await merged()
        if word == "health":
            return current()._asdict()
        return await _answer(supervisor, word, rest)

    _provide()  # for merging
    listener = _open("--metrics", metrics.serve, addrs.metrics, merged, health_source=current)
    if listener is not None:
        logger.info("metrics at http://%s/metrics", listener.local_addr)
    _open("--health", health.serve, addrs.health, current)
    _open("--admin", admin.serve, addrs.admin, answer)


def _health_of(supervisor: _Supervisor) -> health.Health:
    counts = supervisor.counts
    if supervisor.is_stopping:
        return health.Health(health.DRAINING)
    detail = f"{counts['ready']} of {counted(counts['wanted'], 'worker')}"
    return health.Health(health.READY if counts["ready"] else health.STARTING, detail)


def _entry(process: dict[str, Any]) -> dict[str, Any]:
    answers = process.pop("answers")
    return admin.process_entry(answers.get("stats") or {}, **process)


async def _answer(supervisor: _Supervisor, word: str, rest: str) -> Any:
    """Answer an admin command for all workers."""
    if word == "help":
        return admin.COMMANDS
    if word == "processes":
        await supervisor.ask("stats")
        return [_entry(each) for each in supervisor.processes]
    if word in ANSWERS and not rest:
        return [each for each in await supervisor.ask(word) if each is not None]
    if word == "drain":
        logger.warning("on the admin socket: %s", f"drain {rest}".strip())
        supervisor.stop(admin.grace_of(rest))
        return {"draining": True}
    return await _command(supervisor, word, rest)


async def _command(supervisor: _Supervisor, word: str, rest: str) -> Any:
    """Have all workers do it; return what they answer, together."""
    if word == "log-level" and rest:
        await admin.act(f"{word} {rest}")  # the supervisor's own log, too
    answers = await supervisor.command(f"{word} {rest}".strip())
    found = [value for value, error in answers if error is None]
    if not found:
        raise ValueError(answers[0][1] if answers else "no worker answers")
    if word in {"close", "abort"}:
        return {"closed": sum(each["closed"] for each in found)}
    return found[0] if word == "log-level" else found


async def watched(run: Callable[[], Awaitable[int]], supervisor: _Supervisor, addrs: Addrs) -> int:
    """Run the workers, with the listeners open until they have ended.

    Raises:
        SystemExit: one of them cannot be opened; the message says why.
    """
    if not any(addrs):
        return await run()
    asking = asyncio.create_task(_ask_regularly(supervisor))
    try:
        watch_workers(supervisor, addrs)
        return await run()
    finally:
        asking.cancel()
        for auxiliary in list(Live.of(asyncio.get_running_loop()).auxiliaries):
            await auxiliary.close(0)


async def _ask_regularly(supervisor: _Supervisor) -> None:
    while True:
        await asyncio.sleep(_PERIOD)
        await supervisor.ask("stats")
