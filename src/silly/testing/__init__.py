"""For tests of what is built on silly: no ports, no sleeps, no flakiness.

- `memory_pair`: two connections joined in memory.
- `run_virtual`, `VirtualClockLoop`: a clock on which timeouts take no time.
- `check_conn`: what every kind of connection must do, for those who make one.
"""

from __future__ import annotations

from silly.testing.clock import VirtualClockLoop, run_virtual
from silly.testing.conformance import CONN_CHECKS, check_conn, run_check
from silly.testing.memory import memory_pair

__all__ = [
    "CONN_CHECKS",
    "VirtualClockLoop",
    "check_conn",
    "memory_pair",
    "run_check",
    "run_virtual",
]
