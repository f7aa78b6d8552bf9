"""Two connections in memory, joined by a relay."""

from __future__ import annotations

import asyncio

from silly._engine.interface import LINGER, MAX_UNSENT, READ_LIMIT
from silly.net.conn import Conn
from silly.task import fork
from silly.testing import memory
from silly.testing.faults.faults import NO_FAULTS, FaultsOf
from silly.testing.faults.relay import WINDOW, Relay, check_arguments
from silly.testing.faults.session import Session, new_session

__all__ = ["memory_pair"]


async def memory_pair(
    *,
    up: FaultsOf = NO_FAULTS,
    down: FaultsOf = NO_FAULTS,
    window: int = WINDOW,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    linger: float = LINGER,
    idle_timeout: float | None = None,
) -> tuple[Conn, Conn, Session]:
    """Return a client and a server joined in memory through faults, and their `Session`.

    They are like the connections of `silly.testing.memory_pair`; with
    `silly.testing.run_virtual`, latency and stalls take no real time. The relay
    between them ends when both connections are gone.

    Args:
        up: the faults from client to server; see `proxy` (the number is 0).
        down: the faults from server to client.
        window: bytes that each direction holds before it stops reading.
        read_limit: bytes, for both connections; see `Conn.read_limit`.
        max_unsent: bytes; see `Conn.max_unsent`.
        linger: seconds; see `Conn.linger`.
        idle_timeout: seconds, or None; see `Conn.idle_timeout`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """
    check_arguments(up, down, window)
    inner = {"window": window, "read_limit": window}
    client, near = memory.memory_pair(**inner)
    far, server = memory.memory_pair(**inner)
    for conn in (client, server):
        conn.read_limit = read_limit
        conn.max_unsent = max_unsent
        conn.linger = linger
        conn.idle_timeout = idle_timeout
    session = new_session(0, up, down)
    relay = Relay(session, near, far, window)

    async def end_with_both() -> None:
        await client.wait_closed()
        await server.wait_closed()
        relay.end("closed")

    async def carry() -> None:
        watch = asyncio.ensure_future(end_with_both())
        try:
            await relay.run()
        finally:
            watch.cancel()

    fork(carry)
    return client, server, session
