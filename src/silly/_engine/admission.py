"""Admitting connections to one listener: how many are open, of which client.

Each accepted connection passes here twice, when it comes and when it is gone. What a refusal
means (counts by reason, the log) is decided by the listener's gate, which derives from this.

As `lifecycle`, this file is compiled a second time for the native engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

__all__ = ["Admission"]

_V4_MAPPED: Final = b"\0" * 10 + b"\xff\xff"


class Proxies(Protocol):
    """Clients that connect for others, whose addresses come later (`silly.net.proxy`)."""

    def covers(self, client: bytes) -> bool:
        """Return whether *client* is one."""


class Admission:
    """The base of `silly.net.gate.Gate`."""

    __slots__ = (
        "_burst",
        "_clients",
        "_exempt4",
        "_exempt6",
        "_max_connections",
        "_max_per_client",
        "_proxies",
        "_rate",
        "_refilled",
        "_tokens",
        "connections",
        "peak",
    )

    connections: int  # open now
    peak: int  # the most that were open at a time
    _max_connections: int  # 0: no limit
    _max_per_client: int  # 0: no limit
    _clients: dict[bytes, int]  # connections by client; exempt ones are not counted
    _exempt4: tuple[bytes, ...]  # prefixes of exempt clients' addresses
    _exempt6: tuple[bytes, ...]
    _proxies: Proxies | None  # they are counted, but not limited
    _rate: float  # connections per second; 0: no limit
    _burst: float
    _tokens: float
    _refilled: float  # when tokens were last added

    def _begin(
        self,
        max_connections: int,
        max_per_client: int,
        rate: float,
        exempt: tuple[Sequence[bytes], Sequence[bytes]],
        proxies: Proxies | None,
    ) -> None:
        """Set the state of a new listener; 0 stands for no limit."""
        self.connections = self.peak = 0
        self._max_connections = max_connections
        self._max_per_client = max_per_client
        self._clients = {}
        self._exempt4 = tuple(exempt[0])
        self._exempt6 = tuple(exempt[1])
        self._proxies = proxies
        self._rate = rate
        self._burst = self._tokens = max(1.0, rate)
        self._refilled = self._now() if rate else 0.0

    # ------------------------------------------------------- implemented by the gate

    def _now(self) -> float:
        """Return the loop's time."""
        raise NotImplementedError

    def _refuse(self, reason: str, client: bytes) -> None:
        """Count and log a refused connection of *client*."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------

    def enter(self, client: bytes) -> bool:
        """Admit a connection or refuse it; *client* is its packed address, empty if it has none."""
        held = self._clients.get(client, 0)
        key: bytes | None = client
        if not held:  # otherwise it is a key: those are shorter than addresses that have another
            key = self._key(client)
            held = 0 if key is None else self._clients.get(key, 0)
        if self._max_connections and self.connections >= self._max_connections:
            self._refuse("max_connections", client)
        elif key is not None and held >= self._max_per_client and not self._is_proxy(client):
            self._refuse("max_per_client", client)
        elif self._rate and not self._take_token():
            # Checked last: a refused connection takes no token.
            self._refuse("accept_rate", client)
        else:
            self.connections += 1
            if self.connections > self.peak:  # noqa: PLR1730 - takes less than a call
                self.peak = self.connections
            if key is not None:
                self._clients[key] = held + 1
            return True
        return False

    def leave(self, ticket: bytes) -> None:
        """Count a connection as gone: the *ticket* is the client that it is charged to."""
        self.connections -= 1
        if self._clients:
            self._discharge(ticket)

    def change_ticket(self, ticket: bytes, client: bytes) -> bytes | None:
        """Charge a connection to *client* instead; return its new ticket.

        None if that client has as many connections as it may: refused, and still charged
        to *ticket*.
        """
        if client == ticket:
            return ticket
        key = self._key(client)
        if key is not None:
            held = self._clients.get(key, 0)
            if held >= self._max_per_client:
                self._refuse("max_per_client", client)
                return None
            self._clients[key] = held + 1
        self._discharge(ticket)
        return client

    def _is_proxy(self, client: bytes) -> bool:
        return self._proxies is not None and self._proxies.covers(client)

    def _discharge(self, ticket: bytes) -> None:
        key = ticket if ticket in self._clients else self._key(ticket)
        if key is not None:
            held = self._clients[key] - 1
            if held:
                self._clients[key] = held
            else:
                del self._clients[key]

    def _take_token(self) -> bool:
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _key(self, client: bytes) -> bytes | None:
        """Return what identifies the client of this address; None if it is not limited."""
        if not client or not self._max_per_client:
            return None
        if len(client) == 16:
            if not client.startswith(_V4_MAPPED):
                return None if client.startswith(self._exempt6) else client[:8]
            client = client[12:]
        return None if client.startswith(self._exempt4) else client
