"""Bad networks: connections that delay, slice, stall, reset, half-close and drop.

A `Faults` describes what goes wrong in one direction: *up* is from the client to
the server, *down* is from the server to the client. There are two ways to use it:

- `proxy` listens on an address and forwards to another, in real time;
- `memory_pair` joins two connections in memory, for the virtual clock.

For datagrams, a `DatagramFaults` describes what goes wrong in one direction: loss,
duplication, reordering, corruption and delay. `udp_proxy` forwards them in real time;
`silly.testing.MemoryNetwork` is the same in memory, for the virtual clock.

A fault *after* a number of bytes is applied when exactly that many were forwarded
in its direction; a fault *at* a time is applied when the session has that age.
All randomness comes from `Faults.seed`: the same faults cut and delay the same
pieces in the same way. `Session` records what was done; the ``repr`` of its faults
is Python code that creates them again.
"""

from __future__ import annotations

from silly.testing.faults.datagrams import DatagramFaults, DatagramFlow
from silly.testing.faults.faults import Faults
from silly.testing.faults.pair import memory_pair
from silly.testing.faults.proxies import Proxy, proxy
from silly.testing.faults.session import Applied, Flow, Session
from silly.testing.faults.udp_proxy import DatagramSession, UDPProxy, udp_proxy

__all__ = [
    "Applied",
    "DatagramFaults",
    "DatagramFlow",
    "DatagramSession",
    "Faults",
    "Flow",
    "Proxy",
    "Session",
    "UDPProxy",
    "memory_pair",
    "proxy",
    "udp_proxy",
]
