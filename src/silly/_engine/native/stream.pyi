import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable
from typing import Any

from silly._engine.filter import Filtered
from silly._engine.interface import Budget, Drain, Owner
from silly._engine.native.reactor import Source
from silly._engine.stream_errors import Buffer

def specialize(kind: type[Any]) -> None: ...

class Stream(Filtered, Source):
    def __init__(
        self,
        link: int,
        loop: asyncio.AbstractEventLoop,
        owner: Owner,
        *,
        read_limit: int = ...,
        max_unsent: int = ...,
        linger: float = ...,
        idle_timeout: float | None = None,
        idle_swept: bool = False,
        budget: Budget | None = None,
    ) -> None: ...
    def read(
        self,
        until: bytes | int | None = None,
        *,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Coroutine[Any, Any, bytes]: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def __anext__(self) -> Awaitable[bytes]: ...
    def batches(
        self, until: bytes | int = b"\n", *, most: int = ..., timeout: float | None = None
    ) -> AsyncIterator[list[bytes]]: ...
    def _enter(self) -> None: ...
    def write(self, data: Buffer | Iterable[Buffer]) -> Drain: ...
    read_limit: int
    max_unsent: int
    @property
    def _held_bytes(self) -> int: ...
    @property
    def _waits_for(self) -> str | None: ...
