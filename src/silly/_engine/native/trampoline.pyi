import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

def start_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, object],
    ended: Callable[[asyncio.Task[Any]], object],
    name: str | None,
    context: Context | None,
    ended_context: Context,
) -> asyncio.Task[Any]: ...
def new_callback(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[[asyncio.Future[None]], object],
    context: Context,
) -> asyncio.Future[None]: ...
def rehearse(loop: Any) -> tuple[Callable[[], object], Callable[[object], object]]: ...
