"""Counts of what an echo server has done, for its live view and its summary.

Connections count their own bytes; the meter asks the open ones, and keeps the sums of
the closed ones. It remembers at most `HOSTS_KEPT` hosts: when there are more, it
forgets the half with the least traffic.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Protocol

__all__ = ["HOSTS_KEPT", "Meter", "Peer", "Sample"]

HOSTS_KEPT: Final = 1000
_SAMPLES_KEPT: Final = 400
_SHORTEST: Final = 0.5  # seconds between samples, at least


class _Stats(Protocol):
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...


class _Conn(Protocol):
    @property
    def remote_addr(self) -> str: ...
    @property
    def stats(self) -> _Stats: ...


@dataclass(slots=True)
class Peer:
    """The traffic of one host, or of all Unix clients (``"unix:"``)."""

    host: str
    connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """Rates per second since the previous sample."""

    bytes_in: float
    bytes_out: float
    answers: float


class Meter:
    """Counts; the sums are up to date at any time."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.accepted = self.peak = 0
        self.answers = 0
        """Lines, pieces, frames, commands or datagrams that were answered."""
        self.dropped = 0
        """Answers that ``--drop`` lost."""
        self.datagrams_in = 0
        self.datagrams_refused = 0
        """Datagrams not answered because their sender may be forged, or to end a loop."""
        self.datagrams_lost = 0
        """Datagrams that could not be answered: the rate was exceeded, or too many were delayed."""
        self.datagrams_overflowed = 0
        """Datagrams that the operating system dropped because its buffer was full."""
        self.samples: deque[Sample] = deque(maxlen=_SAMPLES_KEPT)
        self._live: set[_Conn] = set()
        self._past: dict[str, Peer] = {}
        self._bytes_in = self._bytes_out = 0  # of closed connections and of datagrams
        self._last = (now, 0, 0, 0)

    # ------------------------------------------------------------------- counting

    def opened(self, conn: _Conn) -> None:
        """Count a new connection."""
        self.accepted += 1
        self._live.add(conn)
        self.peak = max(self.peak, len(self._live))

    def closed(self, conn: _Conn) -> None:
        """Add a closed connection to the sums."""
        self._live.discard(conn)
        stats = conn.stats
        self._moved(conn.remote_addr, stats.bytes_in, stats.bytes_out)

    def received(self, addr: str, count: int) -> None:
        """Count a datagram of *count* bytes from *addr*."""
        self.datagrams_in += 1
        self._moved(addr, count, 0)

    def answered(self, addr: str, count: int) -> None:
        """Count a datagram of *count* bytes to *addr*."""
        self.answers += 1
        self._moved(addr, 0, count)

    def _moved(self, addr: str, bytes_in: int, bytes_out: int) -> None:
        self._bytes_in += bytes_in
        self._bytes_out += bytes_out
        name = host(addr)
        peer = self._past.get(name)
        if peer is None:
            if len(self._past) >= HOSTS_KEPT:
                heaviest = sorted(self._past.values(), key=_weight, reverse=True)
                self._past = {each.host: each for each in heaviest[: HOSTS_KEPT // 2]}
            peer = self._past[name] = Peer(name)
        peer.bytes_in += bytes_in
        peer.bytes_out += bytes_out

    # -------------------------------------------------------------------- figures

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._live)

    def totals(self) -> tuple[int, int]:
        """Return all bytes in and out, of connections and datagrams."""
        bytes_in, bytes_out = self._bytes_in, self._bytes_out
        for conn in self._live:
            stats = conn.stats
            bytes_in += stats.bytes_in
            bytes_out += stats.bytes_out
        return bytes_in, bytes_out

    def top(self, count: int) -> list[Peer]:
        """Return the *count* hosts with the most traffic."""
        peers = {
            name: Peer(name, 0, each.bytes_in, each.bytes_out) for name, each in self._past.items()
        }
        for conn in self._live:
            name = host(conn.remote_addr)
            peer = peers.setdefault(name, Peer(name))
            stats = conn.stats
            peer.connections += 1
            peer.bytes_in += stats.bytes_in
            peer.bytes_out += stats.bytes_out
        return sorted(peers.values(), key=_weight, reverse=True)[:count]

    def sample(self, now: float) -> None:
        """Add the rates since the last sample to `samples`."""
        before, *counts = self._last
        if now - before < _SHORTEST:
            return
        latest = (*self.totals(), self.answers)
        rates = ((new - old) / (now - before) for new, old in zip(latest, counts, strict=True))
        self.samples.append(Sample(*rates))
        self._last = (now, *latest)

    def summary(self, now: float) -> dict[str, Any]:
        """Return all figures, for JSON."""
        bytes_in, bytes_out = self.totals()
        return {
            "seconds": round(now - self.started, 3),
            "connections": {"accepted": self.accepted, "peak": self.peak},
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "answers": self.answers,
            "dropped": self.dropped,
            "datagrams": {
                "received": self.datagrams_in,
                "refused": self.datagrams_refused,
                "lost": self.datagrams_lost,
            },
        }


def _weight(peer: Peer) -> int:
    return peer.bytes_in + peer.bytes_out


def host(addr: str) -> str:
    """Return *addr* without its port; all Unix clients count as one host."""
    return "unix:" if addr.startswith("unix:") else addr.rpartition(":")[0]
