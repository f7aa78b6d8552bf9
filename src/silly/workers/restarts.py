"""Rolling restarts: all workers are replaced one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from silly._logs.logger import Logger
from silly.systemd import Service
from silly.workers.fleet import Fleet
from silly.workers.process import Slot, State

__all__ = ["Restarts"]

logger = Logger("silly.workers")

_START_TIMEOUT: Final = 60.0  # seconds for a replacement to become ready


class Restarts:
    """Restarts a fleet on request, one restart after the other.

    Each worker serves until its successor is ready.
    """

    def __init__(self, fleet: Fleet, service: Service, on_done: Callable[[], None]) -> None:
        self._fleet = fleet
        self._service = service
        self._on_done = on_done
        self._is_wanted = False
        self._task: asyncio.Task[None] | None = None
        self.counts = {"done": 0, "abandoned": 0}
        """The restarts that are over, by result."""

    @property
    def is_running(self) -> bool:
        """True from a request until the last requested restart is over."""
        return self._task is not None

    def request(self) -> None:
        """Restart all workers, once more if a restart is running."""
        self._is_wanted = True
        if self._task is None and not self._fleet.stop_count:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """Abandon the restart that is running, if any."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        fleet = self._fleet
        while self._is_wanted:
            self._is_wanted = False
            self._service.reloading()
            logger.info("restarting")
            done = True
            for slot in list(fleet.slots):
                if slot.is_wanted and not slot.is_finished and done and not fleet.stop_count:
                    done = await self._replace(slot)
            self.counts["done" if done else "abandoned"] += 1
            if done:
                logger.info("restarted")
            elif not fleet.stop_count:
                logger.error("the restart was abandoned; the other workers keep running")
        self._task = None
        self._on_done()

    async def _replace(self, slot: Slot) -> bool:
        old = slot.workers[:]
        new = self._fleet.start(slot)
        if new is None:
            return False
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                is_ready = await asyncio.shield(new.became_ready)
        except TimeoutError:
            is_ready = False
            self._fleet.drain(new, 0)
            not_listening = (new.expected or set()) - new.listening
            missing = ", ".join(sorted(address for address, _ in not_listening))
            logger.error(  # noqa: TRY400
                "%s was not ready after %g s%s",
                new,
                _START_TIMEOUT,
                f": it does not listen on {missing}" if missing else "",
            )
        if not is_ready:
            return False
        for worker in old:
            if worker in slot.workers and worker.state is not State.STOPPING:
                self._fleet.drain(worker, is_replaced=True)
        if old:
            await asyncio.wait([worker.stopped_accepting for worker in old], timeout=_START_TIMEOUT)
        return True
