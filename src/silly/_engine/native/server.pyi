import asyncio
from collections.abc import Callable

from silly._engine.native.reactor import Source

class Server(Source):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        accept: Callable[[int], object],
        busy_poll: float,
    ) -> None: ...
    def close(self) -> None: ...
