"""`Draining`: what `write` returns while the queue is long."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any

from silly._engine.interface import Drain

__all__ = ["Draining"]


class Draining(Drain):
    """Waits for room when it is awaited, or when a task that was made of it is stepped."""

    __slots__ = ("_drain", "_waiting")

    def __init__(self, drain: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._drain = drain
        self._waiting: Coroutine[Any, Any, None] | None = None  # used if a task steps this object

    def __await__(self) -> Generator[Any, None, None]:
        return self._drain().__await__()

    def send(self, value: Any) -> Any:
        return self._started().send(value)

    def throw(self, *error: Any) -> Any:
        return self._started().throw(*error)

    def _started(self) -> Coroutine[Any, Any, None]:
        if self._waiting is None:
            self._waiting = self._drain()
        return self._waiting

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
