"""The lifespan of an application: startup and shutdown (ASGI lifespan specification 2.0).

An application has one lifespan in an event loop, however many listeners it has: it starts before
the first of them accepts, and ends after the last is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from silly._logs.logger import Logger
from silly._loop.live import AFTER_CANCEL
from silly._loop.registry import PerLoop
from silly._values.units import in_seconds
from silly.errors import SillyError
from silly.net.asgi.types import Application, Message

__all__ = ["Lifespan", "StartupError", "lifespan_of"]

logger = Logger("silly.asgi")

_PHASES: Final = {
    f"lifespan.{phase}.{end}": phase
    for phase in ("startup", "shutdown")
    for end in ("complete", "failed")
}


class StartupError(SillyError, RuntimeError):
    """An application did not start."""


class Lifespan:
    """The lifespan of *app*, for all who `join` it.

    Attributes:
        state: what the application puts into it; each request gets a copy.
    """

    def __init__(self, app: Application, on_end: Callable[[], object]) -> None:
        self._app = app
        self._on_end = on_end
        self._users = 0  # who have joined, or are about to
        self._is_running = False
        self._changing = asyncio.Lock()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.state: dict[str, Any] = {}
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._answers = {phase: loop.create_future() for phase in ("startup", "shutdown")}
        self._has_asked = False
        self._error: BaseException | None = None
        self._task = loop.create_task(self._run())

    @property
    def _has_started(self) -> bool:
        answer = self._answers["startup"]
        return answer.done() and answer.result()["type"] == "lifespan.startup.complete"

    # -------------------------------------------------------------------- for listeners

    async def join(self, *, is_required: bool, timeout: float) -> None:
        """Start the application, unless it has been started.

        Args:
            is_required: an application that does not know lifespans is an error.
            timeout: seconds.

        Raises:
            StartupError: it says that it cannot start, or does not in time.
        """
        self._users += 1
        try:
            async with self._changing:
                if not self._is_running:
                    self._begin()
                    self._is_running = True
                    await self._start(timeout, is_required=is_required)
        except BaseException:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Let the application end if nobody else has joined. Cancelling it cuts that short."""
        self._users -= 1
        async with self._changing:
            if self._users or not self._is_running:
                return
            try:
                await self._end()
            finally:
                self._is_running = False
                self._on_end()
                await self._cancel()

    # ------------------------------------------------------------------------- phases

    async def _start(self, timeout: float, *, is_required: bool) -> None:
        try:
            async with asyncio.timeout(timeout):
                answer = await self._ask("startup")
        except TimeoutError:
            raise StartupError(
                f"the application did not start within {in_seconds(timeout)}"
            ) from None
        if answer is None:
            self._note_absence(is_required=is_required)
        elif answer["type"] == "lifespan.startup.failed":
            text = str(answer.get("message", "")).strip() or "it does not say why"
            raise StartupError(f"the application did not start: {text}")

    def _note_absence(self, *, is_required: bool) -> None:
        """Go on without a lifespan, as the specification wants it, unless it is required."""
        error = self._error
        why = "it does not answer" if error is None else f"{type(error).__name__}: {error}"
        if is_required:
            raise StartupError(f"the application has no lifespan: {why}") from error
        if error is not None and self._has_asked:
            logger.warning("served without the lifespan, in which the application failed: %s", why)

    async def _end(self) -> None:
        if not self._has_started or self._task.done():
            return
        try:
            answer = await self._ask("shutdown")
            if answer is not None:
                await asyncio.wait({self._task})
        except asyncio.CancelledError:
            logger.error("the application did not end in time")  # noqa: TRY400
            raise
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            text = str(answer.get("message", "")).strip() or "it does not say why"
            if self._error is not None:  # logged already, with the traceback that this may be
                text = text.splitlines()[-1]
            logger.error("the application did not end as it should: %s", text)

    async def _ask(self, phase: str) -> Message | None:
        """Send a message; return the answer, or None if the application has ended instead."""
        self._messages.put_nowait({"type": f"lifespan.{phase}"})
        answer = self._answers[phase]
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None

    async def _cancel(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=AFTER_CANCEL)

    # ---------------------------------------------------------------- for the application

    async def _run(self) -> None:
        scope: dict[str, Any] = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:
            self._error = error
            if self._has_started:
                logger.exception("the lifespan of the application failed")

    async def _receive(self) -> Message:
        self._has_asked = True
        return await self._messages.get()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        phase = _PHASES.get(kind)
        if phase is None:
            raise ValueError(f"ASGI: {kind!r} is not understood in a lifespan")
        if self._answers[phase].done():
            raise RuntimeError(f"ASGI: {kind!r}: the {phase} was answered already")
        self._answers[phase].set_result(message)


# By the identity of the application, which need not be hashable.
_lifespans: Final[PerLoop[dict[int, Lifespan]]] = PerLoop("lifespans", lambda _loop: {})


def lifespan_of(app: Application) -> Lifespan:
    """Return the lifespan of *app* in the running loop."""
    running, key = _lifespans.of(asyncio.get_running_loop()), id(app)
    if key not in running:
        running[key] = Lifespan(app, lambda: running.pop(key, None))
    return running[key]
