"""``silly --reload``: the program runs afresh when one of its source files changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import watchfiles

from silly._logger import Logger
from silly.workers import Supervisor

__all__ = ["run_reloading"]

logger = Logger("silly.workers")


async def run_reloading(supervisor: Supervisor, directory: Path) -> int:
    """Run *supervisor*, and reload it when a ``.py`` file under *directory* changes."""
    watching = asyncio.create_task(_watch(supervisor, directory))
    try:
        return await supervisor.run()
    finally:
        watching.cancel()


async def _watch(supervisor: Supervisor, directory: Path) -> None:
    logger.info("watching %s", directory)
    async for changes in watchfiles.awatch(directory, watch_filter=watchfiles.PythonFilter()):
        names = sorted({Path(path).name for _, path in changes})
        logger.info("%s changed: starting afresh", ", ".join(names))
        supervisor.reload()
