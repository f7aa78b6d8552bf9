import asyncio
import socket

from silly._engine.accepting import Accepting
from silly._engine.interface import Accept, Gate
from silly._engine.native.reactor import Source

class Server(Accepting, Source):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        accept: Accept,
        busy_poll: float,
        gate: Gate,
        are_entering: bool,
    ) -> None: ...
    def backlog(self) -> tuple[int, int] | None: ...
    def close(self) -> None: ...

def adopt(loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept) -> None: ...
