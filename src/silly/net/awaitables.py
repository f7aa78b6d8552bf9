"""Awaitables that also work with `asyncio.create_task` or ``async with``.

`asyncio.create_task` and `asyncio.TaskGroup.create_task` accept only coroutine objects
(`collections.abc.Coroutine`), no other awaitables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

__all__ = ["Closing", "Connecting"]


class Closing(asyncio.Future[None], Coroutine[Any, Any, None]):
    """A future for the end of *work*, a task that keeps running if the wait is cancelled."""

    def __init__(self, work: asyncio.Task[None]) -> None:
        super().__init__(loop=work.get_loop())
        self._steps: Generator[Any, Any, None] | None = None
        work.add_done_callback(self._settle)

    def _settle(self, work: asyncio.Task[None]) -> None:
        if self.done():
            return
        if work.cancelled():
            self.cancel()
        elif (error := work.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(None)

    # The coroutine interface, for tasks made from this object.

    def send(self, value: Any) -> Any:
        """Continue waiting (see `collections.abc.Coroutine.send`)."""
        if self._steps is None:
            self._steps = cast("Generator[Any, Any, None]", self.__await__())
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """End the wait with *error* (see `collections.abc.Coroutine.throw`)."""
        self.close()
        return (None for _ in ()).throw(*error)

    def close(self) -> None:
        """Stop waiting; the work continues."""
        self._steps = None


class _Connection(Protocol):
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


C = TypeVar("C", bound=_Connection)


class Connecting(Coroutine[Any, Any, C], Generic[C]):
    """A connection that is being made: await it, or use it in ``async with``."""

    __slots__ = ("_conn", "_steps")

    _missing = "not connected"
    _example = "conn = await tcp.connect(...)"

    def __init__(self, connecting: Coroutine[Any, Any, C]) -> None:
        self._steps = connecting

    def __await__(self) -> Generator[Any, Any, C]:
        return self._steps.__await__()

    def send(self, value: Any) -> Any:
        """Continue connecting (see `collections.abc.Coroutine.send`)."""
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise *error* where the coroutine waits (see `collections.abc.Coroutine.throw`)."""
        return self._steps.throw(*error)

    def close(self) -> None:
        """Stop connecting (see `collections.abc.Coroutine.close`)."""
        self._steps.close()

    async def __aenter__(self) -> C:
        self._conn = await self._steps
        return self._conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._conn.__aexit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self._missing} yet, so there is no {name!r}: `await` is missing, as in "
            f"`{self._example}`",
            name=name,
            obj=self,
        )
