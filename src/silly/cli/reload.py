"""``silly --reload``: restart the program when one of its source files changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import watchfiles

from silly._logs.logger import Logger
from silly.workers import Supervisor

__all__ = ["Watched", "run_reloading"]

logger = Logger("silly.workers")

_SOURCES: Final = ("*.py", "*.pyx", "*.pyd")
_LINK_CHECKS: Final = 1000  # milliseconds between checks where the directories' links lead


class Watched(watchfiles.DefaultFilter):
    """Which files are watched: Python's, and those whose names match a pattern in *include*.

    Files that match a pattern in *exclude* are not, nor are those of caches, version control
    and editors. A directory in *include* is watched like one of *directories*; nothing below
    a directory in *exclude* is. Patterns are those of `pathlib.PurePath.match`.
    """

    def __init__(
        self, directories: Iterable[Path], include: Iterable[str] = (), exclude: Iterable[str] = ()
    ) -> None:
        included, more = _directories_among(include)
        excluded, absent = _directories_among(exclude)
        super().__init__(ignore_paths=[f"{path.resolve()}{os.sep}" for path in absent])
        self.directories = [*directories, *more]
        self._include = [*_SOURCES, *included]
        self._exclude = excluded

    def __call__(self, change: watchfiles.Change, path: str) -> bool:
        """Return whether *change* of the file *path* counts."""
        file = Path(path)
        return (
            any(map(file.match, self._include))
            and not any(map(file.match, self._exclude))
            and super().__call__(change, path)
        )


def _directories_among(patterns: Iterable[str]) -> tuple[list[str], list[Path]]:
    """Return the patterns, and those of them that are directories."""
    all_ = list(patterns)
    directories = [each for each in all_ if Path(each).is_dir()]
    return [each for each in all_ if each not in directories], list(map(Path, directories))


async def run_reloading(supervisor: Supervisor, watched: Watched) -> int:
    """Run *supervisor*, and reload it when a file that is *watched* changes.

    It also reloads when a symbolic link in the path of a directory changes.
    """
    watching = asyncio.create_task(_watch(supervisor, watched))
    try:
        return await supervisor.run()
    finally:
        watching.cancel()


async def _watch(supervisor: Supervisor, watched: Watched) -> None:
    try:
        await _watch_for_ever(supervisor, watched)
    except (OSError, RuntimeError) as error:  # such as a limit of inotify
        logger.warning("cannot watch for changes: %s", error)


async def _watch_for_ever(supervisor: Supervisor, watched: Watched) -> None:
    while True:
        real = await asyncio.to_thread(_resolved, watched.directories)
        logger.info("watching %s", ", ".join(map(str, real.values())))
        watching = watchfiles.awatch(
            *real.values(),
            watch_filter=watched,
            rust_timeout=_LINK_CHECKS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        async with contextlib.aclosing(watching):
            async for changes in watching:
                names = sorted({Path(path).name for _, path in changes})
                elsewhere = await asyncio.to_thread(_elsewhere, real)
                if names or elsewhere:
                    logger.info("%s changed: restarting", ", ".join(elsewhere or names))
                    supervisor.reload()
                if elsewhere:
                    break


def _resolved(directories: Iterable[Path]) -> dict[Path, Path]:
    return {directory: directory.resolve() for directory in directories}


def _elsewhere(before: dict[Path, Path]) -> list[str]:
    """Return which directories are others than *before*, behind the same name."""
    return [
        str(directory)
        for directory, real in before.items()
        if directory.is_dir() and directory.resolve() != real
    ]
