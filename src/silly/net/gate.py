"""The gate of a listener: who is let in, who is not, and why; and what ended the others.

Engines ask it about each connection before they make anything of it. A refused
connection is reset: that costs this side nothing more, and the client learns of
it at once. The gate counts by reason, and logs at a bounded rate (tally.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
from typing import Final

from silly._logger import Logger
from silly.net.conn import Conn
from silly.net.limits import Limits
from silly.net.tally import Tally

__all__ = ["Gate"]

logger = Logger("silly.net")

# What the log says of each reason, next to its name.
_REFUSED: Final = {
    "max_connections": "the listener holds as many as it may",
    "max_per_client": "one client holds as many as it may; proxies belong in exempt_networks",
    "accept_rate": "they come faster than they may",
    "descriptors": "no descriptor is free (RLIMIT_NOFILE, fs.file-max)",
}
_ENDED: Final = {
    "idle_timeout": (logging.INFO, "no byte moved"),
    "first_byte_timeout": (logging.INFO, "the client sent nothing"),
    "read_deadline": (logging.WARNING, "the client did not finish what it began to send"),
    "min_send_rate": (logging.WARNING, "the client did not take what was sent"),
    "deadline": (logging.WARNING, "the client did not do its part in time"),
    "memory_budget": (logging.WARNING, "it held most and gave least"),
    "linger": (logging.INFO, "the client did not take the rest after close()"),
    "read_limit": (logging.WARNING, "the client sent a line that is too long"),
    "max_unsent": (logging.WARNING, "the client left too much unsent"),
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
        self._clients: dict[bytes, int] = {}  # connections by client, those that are exempt apart
        self._exempt4, self._exempt6 = _prefixes(limits.exempt_networks)
        self._rate = limits.accept_rate
        self._burst = self._tokens = max(1.0, self._rate or 0.0)
        self._refilled = loop.time()

    # -------------------------------------------------- called by engines' servers

    def enter(self, client: bytes) -> bool:
        """Let one connection in, of this address (packed; empty if it has none), or refuse it."""
        key = self._key(client) if client and self._max_per_client is not None else None
        held = self._clients.get(key, 0) if key is not None else 0
        reason = None
        if self.connections >= self._max_connections:
            reason = "max_connections"
        elif self._max_per_client is not None and held >= self._max_per_client:
            reason = "max_per_client"
        elif self._rate is not None and not self._take_token():
            reason = "accept_rate"  # asked last: what is refused anyway takes nobody's token
        if reason is None:
            self.connections += 1
            self.peak = max(self.peak, self.connections)
            if key is not None:
                self._clients[key] = held + 1
            return True
        self._refuse(reason, client)
        return False

    def leave(self, client: bytes) -> None:
        """Count one that `enter` let in as gone."""
        self.connections -= 1
        if client and self._max_per_client is not None:
            key = self._key(client)
            if key is not None:
                held = self._clients[key] - 1
                if held:
                    self._clients[key] = held
                else:
                    del self._clients[key]

    def shed(self, client: bytes) -> None:
        """Count one that was turned away because no descriptor was free."""
        self._refuse("descriptors", client)

    def stalled(self, error: int, delay: float) -> None:
        """Say that nothing can be accepted for *delay* seconds."""
        if self.stalls.add(os.strerror(error)):
            logger.error(
                "%s: cannot accept: %s; trying again every %g s",
                self._name,
                os.strerror(error),
                delay,
            )

    # ------------------------------------------------------- called by the listener

    def end(self, reason: str) -> bool:
        """Count a connection that a limit ended; tell whether to log it."""
        return self.ended.add(reason)

    def log_end(self, reason: str, conn: Conn) -> None:
        """Log it."""
        level, why = _ENDED[reason]
        logger.log(level, "%s: ended %s: %s (%s)", self._name, conn.remote_addr, reason, why)

    def close(self) -> None:
        """Log what is not logged yet."""
        for tally in (self.refused, self.ended, self.stalls):
            tally.close()

    # --------------------------------------------------------------------- the rest

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
        """What stands for the client of this address; None if it is not counted."""
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
            "%s: refused %s more connections: %s (%s)",
            self._name,
            f"{count:,}",
            reason,
            _REFUSED[reason],
        )

    def _summarize_ended(self, reason: str, count: int) -> None:
        level, why = _ENDED[reason]
        logger.log(
            level, "%s: ended %s more connections: %s (%s)", self._name, f"{count:,}", reason, why
        )


def _prefixes(networks: tuple[str, ...]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """What the addresses of *networks* begin with, whole bytes: of IPv4, and of IPv6."""
    prefixes: dict[int, list[bytes]] = {4: [], 6: []}
    for network in networks:
        net = ipaddress.ip_network(network)
        length = (net.prefixlen + 7) // 8
        # Where only some bits of the last byte count, each value that it can have is one prefix.
        for part in net.subnets(new_prefix=length * 8):
            prefixes[net.version].append(part.network_address.packed[:length])
    return tuple(prefixes[4]), tuple(prefixes[6])


def _text(client: bytes) -> str:
    return str(ipaddress.ip_address(client)) if client else "a client"
