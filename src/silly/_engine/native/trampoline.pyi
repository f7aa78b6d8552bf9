import asyncio
from collections.abc import Coroutine
from typing import Any

def wrap_coroutine(
    coroutine: Coroutine[Any, Any, object], loop: asyncio.AbstractEventLoop
) -> Coroutine[Any, Any, object]: ...
