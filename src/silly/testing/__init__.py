"""Tools for testing programs that use silly: no ports, no sleeps, no flakiness.

- `ask`: a request to an HTTP handler, without a socket.
- `memory_pair`: two connections joined in memory.
- `MemoryNetwork`: UDP sockets in memory.
- `run_virtual`, `VirtualClockLoop`: a virtual clock; timeouts take no real time.
- `check_conn`: the conformance suite for a new kind of connection.
- `silly.testing.faults`: networks that delay, cut, stall and lose.
"""

from __future__ import annotations

from silly.testing.clock import VirtualClockLoop, run_virtual
from silly.testing.conformance import CONN_CHECKS, check_conn, run_check
from silly.testing.memory import memory_pair
from silly.testing.network import MemoryNetwork
from silly.testing.requests import ask

__all__ = [
    "CONN_CHECKS",
    "MemoryNetwork",
    "VirtualClockLoop",
    "ask",
    "check_conn",
    "memory_pair",
    "run_check",
    "run_virtual",
]
