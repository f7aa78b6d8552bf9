import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

def wrap_coroutine(
    coroutine: Coroutine[Any, Any, object], loop: asyncio.AbstractEventLoop
) -> Coroutine[Any, Any, object]: ...
def rehearse(loop: Any) -> tuple[Callable[[], object], Callable[[object], object]]: ...
