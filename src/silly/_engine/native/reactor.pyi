import asyncio
from collections.abc import Callable

class Source:
    @property
    def _fileno(self) -> int: ...

class Reactor:
    loop: asyncio.AbstractEventLoop

def spin(loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None: ...
