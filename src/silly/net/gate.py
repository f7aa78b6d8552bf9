"""The gate of a listener: admits or refuses each connection, and counts those ended by limits.

Engines ask it about each accepted connection before they set anything up. A refused
connection is reset: that is the cheapest for this side, and the client notices at
once. The gate counts by reason and logs at a bounded rate (tally.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
from typing import Final

from silly._logs.logger import Logger
from silly._values.units import counted
from silly.net.limits import Limits
from silly.net.tally import Tally
from silly.text import printable

__all__ = ["Gate"]

logger = Logger("silly.net")

# Explanations of the reasons, for the log.
_REFUSED: Final = {
    "max_connections": "the listener is full",
    "max_per_client": "the client has too many connections; for a proxy, set exempt_networks",
    "accept_rate": "connections arrive too fast",
    "descriptors": "out of file descriptors (RLIMIT_NOFILE, fs.file-max)",
}
_ENDED: Final = {
    "idle_timeout": (logging.INFO, "no byte moved in either direction"),
    "first_byte_timeout": (logging.INFO, "the client sent nothing"),
    "read_deadline": (logging.WARNING, "the client did not finish the line or frame that it began"),
    "min_send_rate": (logging.WARNING, "the client read too slowly"),
    "deadline": (logging.WARNING, "the exchange was not finished in time"),
    "memory_budget": (logging.WARNING, "it held the most memory for the least traffic"),
    "linger": (logging.INFO, "the client did not read the rest after close()"),
    "read_limit": (logging.WARNING, "the client sent too long a line"),
    "max_unsent": (logging.WARNING, "too much was queued for the client"),
}

_V4_MAPPED: Final = b"\0" * 10 + b"\xff\xff"


class Gate:
    """Admission to one listener."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, name: str) -> None:
        self._loop = loop
        self._name = name
        self.connections = 0
        self.peak = 0
        self.refused = Tally(loop, self._summarize_refused)
        self.ended = Tally(loop, self._summarize_ended)
        self.stalls = Tally(loop, lambda _error, _count: None)
        self._max_connections = limits.max_connections or math.inf
        self._max_per_client = limits.max_per_client
        self._clients: dict[bytes, int] = {}  # connections by client; exempt ones are not counted
        self._exempt4, self._exempt6 = _prefixes(limits.exempt_networks)
        self._rate = limits.accept_rate
        self._burst = self._tokens = max(1.0, self._rate or 0.0)
        self._refilled = loop.time()

    # -------------------------------------------------- called by engines' servers

    def enter(self, client: bytes) -> bool:
        """Admit a connection or refuse it; *client* is its packed address, empty if it has none."""
        key = self._key(client) if client and self._max_per_client is not None else None
        held = self._clients.get(key, 0) if key is not None else 0
        reason = None
        if self.connections >= self._max_connections:
            reason = "max_connections"
        elif self._max_per_client is not None and held >= self._max_per_client:
            reason = "max_per_client"
        elif self._rate is not None and not self._take_token():
            reason = "accept_rate"  # checked last: a refused connection takes no token
        if reason is None:
            self.connections += 1
            self.peak = max(self.peak, self.connections)
            if key is not None:
                self._clients[key] = held + 1
            return True
        self._refuse(reason, client)
        return False

    def leave(self, ticket: bytes) -> None:
        """Count a connection as gone: the *ticket* is the client that it is charged to."""
        self.connections -= 1
        self._discharge(ticket)

    def _discharge(self, ticket: bytes) -> None:
        key = self._key(ticket) if ticket and self._max_per_client is not None else None
        if key is not None:
            held = self._clients[key] - 1
            if held:
                self._clients[key] = held
            else:
                del self._clients[key]

    def shed(self, client: bytes) -> None:
        """Count a connection that was reset because no descriptor was free."""
        self._refuse("descriptors", client)

    def stalled(self, error: int, delay: float) -> None:
        """Count and log a failure to accept, which is retried after *delay* seconds."""
        if self.stalls.add(os.strerror(error)):
            logger.error(
                "%s: cannot accept: %s; trying again every %g s",
                self._name,
                os.strerror(error),
                delay,
            )

    # --------------------------------------------------------- called by the course

    def change_ticket(self, ticket: bytes, client: bytes) -> bytes | None:
        """Charge a connection to *client* instead; return its new ticket.

        None if that client has as many connections as it may: refused, and still charged
        to *ticket*.
        """
        if client == ticket:
            return ticket
        key = self._key(client) if client and self._max_per_client is not None else None
        if key is not None:
            held = self._clients.get(key, 0)
            if self._max_per_client is not None and held >= self._max_per_client:
                self._refuse("max_per_client", client)
                return None
            self._clients[key] = held + 1
        self._discharge(ticket)
        return client

    def log_refused(self, reason: str, client: str, why: str) -> None:
        """Log that a preface refused a connection of *client*."""
        logger.warning("%s: refused %s: %s (%s)", self._name, client, reason, printable(why))

    def end(self, reason: str) -> bool:
        """Count a connection that a limit ended; return whether to log it."""
        return self.ended.add(reason)

    def log_end(self, reason: str, client: str) -> None:
        """Log that the limit *reason* ended a connection of *client*."""
        level, why = _ENDED[reason]
        logger.log(level, "%s: ended %s: %s (%s)", self._name, client, reason, why)

    def close(self) -> None:
        """Log the counts that were not logged yet."""
        for tally in (self.refused, self.ended, self.stalls):
            tally.close()

    # --------------------------------------------------------------------- internals

    def _take_token(self) -> bool:
        assert self._rate is not None
        now = self._loop.time()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _key(self, client: bytes) -> bytes | None:
        """Return what identifies the client of this address; None if it is exempt."""
        if len(client) == 16:
            if not client.startswith(_V4_MAPPED):
                return None if client.startswith(self._exempt6) else client[:8]
            client = client[12:]
        return None if client.startswith(self._exempt4) else client

    def _refuse(self, reason: str, client: bytes) -> None:
        if self.refused.add(reason):
            logger.warning(
                "%s: refused %s: %s (%s)", self._name, _text(client), reason, _REFUSED[reason]
            )

    def _summarize_refused(self, reason: str, count: int) -> None:
        logger.warning(
            "%s: refused %s: %s (%s)",
            self._name,
            counted(count, "more connection"),
            reason,
            _REFUSED.get(reason, "before its handler started"),
        )

    def _summarize_ended(self, reason: str, count: int) -> None:
        level, why = _ENDED[reason]
        logger.log(
            level,
            "%s: ended %s: %s (%s)",
            self._name,
            counted(count, "more connection"),
            reason,
            why,
        )


def _prefixes(networks: tuple[str, ...]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return the prefixes of *networks* as whole bytes: those of IPv4, those of IPv6."""
    prefixes: dict[int, list[bytes]] = {4: [], 6: []}
    for network in networks:
        net = ipaddress.ip_network(network)
        length = (net.prefixlen + 7) // 8
        # If the prefix ends within a byte, list each value that this byte can have.
        for part in net.subnets(new_prefix=length * 8):
            prefixes[net.version].append(part.network_address.packed[:length])
    return tuple(prefixes[4]), tuple(prefixes[6])


def _text(client: bytes) -> str:
    return str(ipaddress.ip_address(client)) if client else "a client"
