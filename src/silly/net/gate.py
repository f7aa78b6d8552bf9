"""The gate of a listener: admits or refuses each connection, and counts those ended by limits.

Engines ask it about each accepted connection before they set anything up. A refused
connection is reset: that is the cheapest for this side, and the client notices at
once. The gate counts by reason and logs at a bounded rate (tally.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from typing import TYPE_CHECKING, Final

from silly._engine import engine
from silly._logs.logger import Logger
from silly._values.units import counted
from silly.net.limits import Limits
from silly.net.networks import Networks
from silly.net.tally import Tally
from silly.text import printable

__all__ = ["CUT_OFF", "TOO_LATE", "Gate"]

logger = Logger("silly.net")

CUT_OFF: Final = "handshake"  # the connection ended before its handshake did, or its preface
TOO_LATE: Final = "handshake_timeout"

# Explanations of the reasons, for the log.
_REFUSED: Final = {
    "max_connections": "the listener is full",
    "max_per_client": "the client has too many connections; for a proxy, set proxy_protocol "
    "or exempt_networks",
    "accept_rate": "connections arrive too fast",
    "descriptors": "out of file descriptors (RLIMIT_NOFILE, fs.file-max)",
    "proxy_header": "the PROXY header is missing or invalid",
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
    "max_head_bytes": (logging.WARNING, "the client sent too long a head"),
    "max_headers": (logging.WARNING, "the client sent too many header fields"),
    "max_target_bytes": (logging.WARNING, "the client asked for too long a target"),
    "max_body_bytes": (logging.WARNING, "the client sent too long a body"),
    "max_pipelined": (logging.WARNING, "the client sent too many requests at once"),
    "head_timeout": (logging.INFO, "the client did not finish the head that it began"),
    "max_message_bytes": (logging.WARNING, "the client sent too long a message"),
    "max_fragments": (logging.WARNING, "the client sent a message in too many fragments"),
    "max_control_rate": (logging.WARNING, "the client sent control frames too fast"),
    "ping_timeout": (logging.INFO, "the client did not answer a ping"),
    "close_timeout": (logging.INFO, "the client did not answer a close frame"),
}

if TYPE_CHECKING:
    from silly._engine.admission import Admission
else:
    Admission = engine.Admission


class Gate(Admission):
    """Admission to one listener; `enter` and `leave` are in silly._engine.admission."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        name: str,
        proxies: Networks | None = None,
    ) -> None:
        self._loop = loop
        self._name = name
        self.refused = Tally(loop, self._summarize_refused)
        self.ended = Tally(loop, self._summarize_ended)
        self.failed_handshakes = Tally(loop, self._summarize_failed_handshakes)
        self.stalls = Tally(loop, lambda _error, _count: None)
        exempt = Networks(limits.exempt_networks)
        self._begin(
            limits.max_connections or 0,
            limits.max_per_client or 0,
            limits.accept_rate or 0.0,
            (exempt.prefixes4, exempt.prefixes6),
            proxies,
        )

    # -------------------------------------------------- called by engines' servers

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

    def log_failed_handshake(self, reason: str, client: str, why: str) -> None:
        """Log that `start_tls` failed in the handler of a connection of *client*."""
        logger.warning("%s: no TLS with %s: %s (%s)", self._name, client, reason, printable(why))

    def close(self) -> None:
        """Log the counts that were not logged yet."""
        for tally in (self.refused, self.ended, self.failed_handshakes, self.stalls):
            tally.close()

    # --------------------------------------------------------------------- internals

    def _now(self) -> float:
        return self._loop.time()

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

    def _summarize_failed_handshakes(self, reason: str, count: int) -> None:
        logger.warning("%s: no TLS with %s: %s", self._name, counted(count, "more client"), reason)

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


def _text(client: bytes) -> str:
    return str(ipaddress.ip_address(client)) if client else "a client"
