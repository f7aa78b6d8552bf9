"""Several worker processes that serve the same addresses, and their supervisor.

The supervisor accepts no connections. It starts workers (fresh interpreters,
each running the whole program), restarts those that die, and replaces them one
by one on request. Its rules:

- The supervisor owns the listening sockets. They outlive a worker, so
  connections in the accept queue are served by its replacement.
- A new worker listens before the old one stops accepting.
- While a worker is missing, another worker also accepts on its sockets.
- A worker that dies soon after its start is restarted with a growing delay. If
  no worker ever becomes ready, the supervisor gives up.
- A worker that loses its supervisor drains and exits.

A worker is *ready* when its main coroutine (a script's top level) has returned,
or when it waits while the worker listens everywhere its predecessor did.

Signals: SIGTERM and SIGINT drain all workers (a second one stops them at once),
SIGHUP restarts the workers one by one, SIGTTIN adds a worker and SIGTTOU removes
one, SIGUSR1 has each worker print what it is doing (`silly.runtime`). Logging
never blocks the supervisor, even if nothing reads the log.
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
    """Run a program in several worker processes until it ends; return the exit code.

    Args:
        target: the path of a script, or ``"module:function"``.
        args: the arguments after it in each worker's `sys.argv`.
        **options: those of `Supervisor`, such as ``workers=4``.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """

    async def supervise() -> int:
        supervisor = Supervisor(target, args, **options)
        return await supervisor.run()

    stdio.reserve()
    with dropping_last_resort():
        return asyncio.run(supervise())
