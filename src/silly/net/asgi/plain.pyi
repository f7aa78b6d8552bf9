from silly.net.asgi.bases import Caller as Caller
from silly.net.asgi.bases import Cycle as Cycle
from silly.net.asgi.bases import RawAnswer as RawAnswer

def use(exchange: type[Cycle], response: type[RawAnswer]) -> None: ...
