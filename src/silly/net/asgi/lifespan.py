"""The lifespan of an application: startup and shutdown (ASGI lifespan specification 2.0)."""

from __future__ import annotations

import asyncio
from typing import Any

from silly._logs.logger import Logger
from silly.net.asgi.types import Application, Message

__all__ = ["Lifespan"]

logger = Logger("silly.asgi")


class Lifespan:
    """Runs the lifespan of *app*.

    Attributes:
        state: what the application puts into it; each request gets a copy.
    """

    def __init__(self, app: Application) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._is_supported = False

    async def startup(self, *, is_required: bool) -> None:
        """Let the application start.

        Args:
            is_required: an application that does not know lifespans is an error.

        Raises:
            RuntimeError: it says that it cannot start.
        """
        self._task = asyncio.get_running_loop().create_task(self._run())
        answer = await self._ask("lifespan.startup")
        if answer is not None:
            self._is_supported = True
            if answer["type"] == "lifespan.startup.failed":
                text = answer.get("message", "") or "no reason given"
                raise RuntimeError(f"the application did not start: {text}")
            return
        error = self._task.exception()
        if is_required:
            raise RuntimeError("the application has no lifespan") from error

    async def shutdown(self) -> None:
        """Let the application end."""
        if not self._is_supported or self._task is None or self._task.done():
            return
        answer = await self._ask("lifespan.shutdown")
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            logger.error("the application did not end: %s", answer.get("message", ""))
        await asyncio.wait({self._task})

    async def _ask(self, kind: str) -> Message | None:
        """Send a message; return the answer, or None if the application has ended instead."""
        assert self._task is not None
        self._messages.put_nowait({"type": kind})
        answer = asyncio.ensure_future(self._answers.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        return None

    async def _run(self) -> None:
        scope: dict[str, Any] = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._messages.get, self._send)
        except Exception:
            if self._is_supported:
                logger.exception("the lifespan of the application failed")
            raise

    async def _send(self, message: Message) -> None:
        self._answers.put_nowait(message)
