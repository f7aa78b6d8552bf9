import asyncio
import socket
from collections.abc import Callable

from silly._engine.interface import Gate
from silly._engine.native.reactor import Source

class Server(Source):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        accept: Callable[[int], object],
        busy_poll: float,
        gate: Gate,
    ) -> None: ...
    def accept_queued(self) -> None: ...
    def backlog(self) -> tuple[int, int] | None: ...
    def close(self) -> None: ...

def adopt(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Callable[[int], object]
) -> None: ...
