"""The supervisor's questions to its workers, and their answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from silly._logs.logger import ENDS_PROGRAM, Logger
from silly._values.arguments import seconds
from silly.workers.answers import merging
from silly.workers.channel import Act, Acted, Answer, Ask, Message
from silly.workers.fleet import Fleet
from silly.workers.process import Worker

__all__ = ["Questions"]

logger = Logger("silly.workers")

_ANSWERS_KEPT: Final = 1000  # last answers of ended workers, where they are not merged


class Questions:
    """Asks all workers, and keeps the last answers of those that have ended."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._count = 0
        self._last_answers: dict[str, deque[Any]] = {}

    async def ask(self, name: str, timeout: float) -> list[Any]:
        """See `silly.workers.Supervisor.ask`."""
        await self._send(lambda number: Ask(number, name), timeout)
        living = [each.answers[name] for each in self._fleet.workers if name in each.answers]
        return [*living, *self._last_answers.get(name, ())]

    async def command(self, text: str, timeout: float) -> list[tuple[Any, str | None]]:
        """Have each worker do *text*; return the value or the error of those that answer."""
        return await self._send(lambda number: Act(number, text), timeout)

    async def _send(self, question: Callable[[int], Message], timeout: float) -> list[Any]:
        """Send *question* to all workers that listen; return what comes in time."""
        pending: list[asyncio.Future[Any]] = []
        self._count += 1
        number = self._count
        for worker in self._fleet.workers:
            if worker.has_reported and not worker.channel.ended and not worker.channel.is_clogged:
                future = asyncio.get_running_loop().create_future()
                worker.pending_answers[number] = future
                pending.append(future)
                worker.channel.send(question(number))
        try:
            if pending:
                await asyncio.wait(pending, timeout=seconds(timeout, "timeout"))
            return [each.result() for each in pending if each.done() and not each.cancelled()]
        finally:
            for future in pending:
                future.cancel()
            for worker in self._fleet.workers:
                worker.pending_answers.pop(number, None)

    def answered(self, worker: Worker, answer: Answer | Acted) -> None:
        """Take an answer of *worker*."""
        result = None
        if isinstance(answer, Acted):
            result = answer.value, answer.error
        elif answer.known:
            worker.answers[answer.name] = answer.value
        pending = worker.pending_answers.pop(answer.id, None)
        if pending is not None and not pending.done():
            pending.set_result(result)

    def worker_ended(self, worker: Worker) -> None:
        """Keep the last answers of *worker*."""
        for name, answer in worker.answers.items():
            self._keep(name, answer)

    def _keep(self, name: str, answer: Any) -> None:
        merge = merging(name)
        kept = self._last_answers.setdefault(name, deque(maxlen=_ANSWERS_KEPT))
        if merge is None:
            kept.append(answer)
            return
        try:
            previous = kept[0] if kept else None
            merged = merge(previous, answer)
        except ENDS_PROGRAM:
            raise
        except BaseException:
            logger.exception("cannot merge the last answer for %r", name)
        else:
            kept.clear()
            kept.append(merged)
