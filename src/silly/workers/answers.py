"""What a worker answers and does for its supervisor, and what is kept of the last answers."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from silly._logs.logger import ENDS_PROGRAM, Logger

__all__ = [
    "act",
    "answer",
    "answer_all",
    "answer_later",
    "is_coroutine",
    "merging",
    "obey",
    "provide",
]

logger = Logger("silly.workers")

_Merge = Callable[[Any, Any], Any]
_Meanwhile = Callable[[], Coroutine[Any, Any, Any]]

_Obey = Callable[[str], "Any | Awaitable[Any]"]

_providers: dict[str, tuple[Callable[[], Any], _Merge | None, _Meanwhile | None]] = {}
_obey: list[_Obey] = []  # at most one


def provide(
    name: str,
    function: Callable[[], Any],
    *,
    merge: _Merge | None = None,
    meanwhile: _Meanwhile | None = None,
) -> None:
    """Let the supervisor ask this worker for *name* (`silly.workers.Supervisor.ask`).

    Args:
        name: the name to ask for, such as ``"stats"``; a later call replaces an
            earlier one.
        function: called in the worker's event loop to get the answer, which can be
            any JSON value. It is called one last time after the worker has drained.
        merge: called in the supervisor (which must import the same module) as
            ``merge(so_far, last)`` with the last answer of each worker that has
            ended; *so_far* is the previous result, None at first. The result
            represents all workers that have ended. Without *merge*, the last
            answers of the latest 1000 workers are kept individually.
        meanwhile: a coroutine function that returns the same answer without
            blocking the event loop; it is called instead, except the last time.
    """
    _providers[name] = function, merge, meanwhile


def merging(name: str) -> _Merge | None:
    """Return the *merge* function that `provide` was given for *name*."""
    return _providers[name][1] if name in _providers else None


def answer(name: str) -> tuple[bool, Any]:
    """Return whether *name* can be answered, and the answer."""
    if name in _providers:
        try:
            return True, _providers[name][0]()
        except ENDS_PROGRAM:
            raise
        except BaseException:
            logger.exception("cannot answer for %r", name)
    return False, None


def answer_all() -> dict[str, Any]:
    """Return the answer for each name that can be answered."""
    answers = {name: answer(name) for name in _providers}
    return {name: value for name, (known, value) in answers.items() if known}


def is_coroutine(name: str) -> bool:
    """Return whether to use `answer_later` for *name*, instead of `answer`."""
    return name in _providers and _providers[name][2] is not None


async def answer_later(name: str) -> tuple[bool, Any]:
    """Return what `answer` does, without blocking the event loop."""
    meanwhile = _providers[name][2]
    assert meanwhile is not None
    try:
        return True, await meanwhile()
    except Exception:
        logger.exception("cannot answer for %r", name)
        return False, None


def obey(function: _Obey) -> None:
    """Let the supervisor have this worker do something (`silly.workers.Supervisor.command`).

    Args:
        function: a function or coroutine function that takes the command, a line of text,
            and returns a JSON value. Its `ValueError` is reported. A later call replaces it.
    """
    _obey[:] = [function]


async def act(command: str) -> tuple[Any, str | None]:
    """Do *command*; return the value, or None and why not."""
    if not _obey:
        return None, "this worker takes no commands"
    try:
        value = _obey[0](command)
        return (await value if inspect.isawaitable(value) else value), None
    except ValueError as error:
        return None, str(error)
    except Exception as error:
        logger.exception("cannot do %r", command)
        return None, f"cannot do it ({type(error).__name__}): see the log"
