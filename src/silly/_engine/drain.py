"""What `write` and `send` return: `DRAINED` if there is room, else a `Draining`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

from silly._engine.interface import Drain

__all__ = ["DRAINED", "Drained", "Draining"]


class Drained(Drain):
    """Awaiting it does not suspend."""

    __slots__ = ()
    __await__ = staticmethod(().__iter__)  # type: ignore[assignment]

    def send(self, value: Any) -> Any:  # noqa: ARG002
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        return (None for _ in ()).throw(*error)

    def close(self) -> None:
        pass


DRAINED: Final = Drained()


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
