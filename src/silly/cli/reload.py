"""``silly --reload``: restart the program when one of its source files changes."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import watchfiles

from silly._logs.logger import Logger
from silly.workers import Supervisor

__all__ = ["run_reloading"]

logger = Logger("silly.workers")

_LINK_CHECKS: Final = 1000  # milliseconds between checks where the directory's links lead


async def run_reloading(supervisor: Supervisor, directory: Path) -> int:
    """Run *supervisor*, and reload it when a ``.py`` file under *directory* changes.

    It also reloads when a symbolic link in the path of *directory* changes.
    """
    watching = asyncio.create_task(_watch(supervisor, directory))
    try:
        return await supervisor.run()
    finally:
        watching.cancel()


async def _watch(supervisor: Supervisor, directory: Path) -> None:
    while True:
        real = await asyncio.to_thread(directory.resolve)
        logger.info("watching %s", real)
        watching = watchfiles.awatch(
            real,
            watch_filter=watchfiles.PythonFilter(),
            rust_timeout=_LINK_CHECKS,
            yield_on_timeout=True,
        )
        async with contextlib.aclosing(watching):
            async for changes in watching:
                names = sorted({Path(path).name for _, path in changes})
                is_elsewhere = await asyncio.to_thread(_is_elsewhere, directory, real)
                if names or is_elsewhere:
                    what = str(directory) if is_elsewhere else ", ".join(names)
                    logger.info("%s changed: restarting", what)
                    supervisor.reload()
                if is_elsewhere:
                    break


def _is_elsewhere(directory: Path, before: Path) -> bool:
    return directory.is_dir() and directory.resolve() != before
