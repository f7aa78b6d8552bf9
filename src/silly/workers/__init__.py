"""Several worker processes that serve the same addresses, and their supervisor.

The supervisor serves nothing itself. It starts workers (fresh interpreters,
each running the whole program), starts another where one dies, and replaces all
of them, one by one, when it is told to. The rules it keeps:

- It owns the listening sockets; they outlive the worker, so what waits in an
  accept queue is served by the next.
- A new worker listens before the old one stops accepting.
- While a worker is missing, another one accepts on its sockets, too.
- A worker that dies young is started again later each time; a program of which
  no worker ever became ready is given up.
- A worker whose supervisor is gone drains and leaves.

A worker is *ready* when its main coroutine (a script's top level) has returned,
or waits while it listens everywhere its predecessor did.

Signals: SIGTERM and SIGINT drain all (again: at once), SIGHUP restarts one
worker after the other, SIGTTIN and SIGTTOU add and remove one, SIGUSR1 has each
worker print what it is doing (`silly.runtime`). What the supervisor logs never
waits for a reader: it would not supervise meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from silly import stdio
from silly.log import dropping_last_resort
from silly.workers.supervisor import Supervisor

__all__ = ["Supervisor", "run_workers"]


def run_workers(target: str, args: Sequence[str] = (), **options: Any) -> int:
    """Run a program in several worker processes until it has ended; return the exit code.

    Args:
        target: the path of a script, or ``"module:function"``.
        args: what follows it in each worker's `sys.argv`.
        **options: as for `Supervisor`, such as ``workers=4``.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """

    async def supervise() -> int:
        supervisor = Supervisor(target, args, **options)
        return await supervisor.run()

    stdio.reserve()
    with dropping_last_resort():
        return asyncio.run(supervise())
