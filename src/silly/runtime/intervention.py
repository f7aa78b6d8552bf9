"""What an operator can do to a running program: drain it, or close some of its connections."""

from __future__ import annotations

import asyncio
from typing import Final

from silly._loop.live import Live
from silly.runtime.inspection import conns, has_id
from silly.text import printable

__all__ = ["close", "drain"]

_BATCH: Final = 1000  # connections to look at in one turn of the event loop


def drain(loop: asyncio.AbstractEventLoop, grace: float | None = None) -> None:
    """Stop the program in *loop* as SIGTERM does.

    Args:
        loop: its event loop.
        grace: seconds for handlers to finish, if that is less than the program gives
            them; 0 ends a drain that has begun.

    Raises:
        ValueError: the program is not run by silly.
    """
    stop = Live.of(loop).stop
    if stop is None:
        raise ValueError("the program is run neither by `silly FILE.py` nor by silly.run")
    loop.call_soon(stop, grace)  # the answer is sent first


async def close(which: str, *, abort: bool = False) -> int:
    """Close connections of the running loop, and return how many.

    Args:
        which: the ``id`` of one in `silly.runtime.inspection.connections`, the address of
            its peer, or that address without the port, which means all connections that
            this client has made to listeners.
        abort: reset them, instead of sending what is queued first.
    """
    loop = asyncio.get_running_loop()
    made_here: set[object] = {*Live.of(loop).conns}
    closed = 0
    for number, conn in enumerate(conns(loop), 1):
        addr = printable(conn.remote_addr)
        is_meant = which == addr or has_id(conn, which)
        if is_meant or (conn not in made_here and which in _hosts(addr)):
            closed += 1
            if abort:
                conn.abort()
            else:
                conn.close()
        if number % _BATCH == 0:
            await asyncio.sleep(0)
    return closed


def _hosts(addr: str) -> tuple[str, ...]:
    host, colon, port = addr.rpartition(":")
    return (host, host.strip("[]")) if colon and port.isdigit() else ()
