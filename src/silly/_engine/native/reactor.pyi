import asyncio
from collections.abc import Callable

class Source:
    @property
    def _fileno(self) -> int: ...

class Reactor:
    loop: asyncio.AbstractEventLoop

def spin(loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None: ...
def call_last(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None: ...
