"""TCP services as one straight-line coroutine per connection.

The modules, from the bottom up (imports point down only):

- `silly.errors`: what can go wrong, and which side caused it.
- ``silly._engine``: moves bytes between sockets and streams; knows no protocol.
- `silly.net`: addresses, and `silly.net.tcp`: `listen`, `connect`, the `Conn`.
- `silly.streams`: asyncio's streams API on these connections.
- `silly.pubsub`: messages between processes and machines.
- `silly.task`, `silly.time`, `silly.crypto`: forked tasks, timers, random keys.
- ``silly.runtime``: `run`, script mode, signals and draining.
- `silly.workers`: several processes and their supervisor; `silly.systemd`.
- `silly.metrics`, `silly.admin`, `silly.otel`: observing a running program.
- ``silly.cli``: the command ``silly``.
- `silly.testing`: test doubles for programs that use silly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from silly._engine import engine as _engine_in_use
from silly.errors import (
    ConcurrentRead,
    ConnectionClosed,
    EndOfStream,
    LimitExceeded,
    SillyError,
    TruncatedStream,
    WriteQueueFull,
)
from silly.runtime import loop_factory, run

if TYPE_CHECKING:
    from silly.workers import run_workers

__all__ = [
    "ConcurrentRead",
    "ConnectionClosed",
    "EndOfStream",
    "LimitExceeded",
    "SillyError",
    "TruncatedStream",
    "WriteQueueFull",
    "__version__",
    "engine",
    "loop_factory",
    "run",
    "run_workers",
]

__version__ = "0.1.0"


def engine() -> str:
    """Return the name of the engine in use: ``"portable"`` or ``"native"``."""
    return _engine_in_use.NAME


def __getattr__(name: str) -> object:
    if name not in {"run_workers", "workers"}:
        raise AttributeError(f"module 'silly' has no attribute {name!r}", name=name)
    workers = importlib.import_module("silly.workers")  # late: most programs have no workers
    return workers if name == "workers" else workers.run_workers
