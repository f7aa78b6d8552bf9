"""UDP: answers to datagrams (RFC 862, 863, 864).

A forged source address must not make two services answer each other for ever, as
echo and chargen once did (CERT CA-1996-01). So datagrams are never answered if they
come from ports below 1024, where services are, from some other ports whose services
answer anything, or from this server's own ports. A loop with a server on any other
port ends because one answer is left out after `REPEATS` answers to the same datagram
from the same sender.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

from silly.cli.echoing import chargen
from silly.cli.echoing.impairment import Impairment, Pace
from silly.cli.echoing.meter import Meter
from silly.net import udp

__all__ = ["NEVER_ANSWERED", "REPEATS", "Answer", "Datagrams", "characters", "echo", "nothing"]

# Those above 1023: SSDP, WS-Discovery, SIP, mDNS, LLMNR, memcached.
NEVER_ANSWERED: Final = frozenset({*range(1024), 1900, 3702, 5060, 5353, 5355, 11211})
"""Source ports whose datagrams are not answered."""

REPEATS: Final = 100
"""How many times the same datagram from the same sender is answered before one is left out."""

Answer = Callable[[bytes], bytes | None]

_LATE_BYTES: Final = 16 << 20  # bytes of delayed answers, at most; more are lost
_LATE: Final = 10_000  # delayed answers, at most; below _REMEMBERED, since they may loop
_REMEMBERED: Final = 20_000  # datagrams whose repeats are counted


def echo(data: bytes) -> bytes:
    """Answer with the same bytes (RFC 862)."""
    return data


def nothing(_data: bytes) -> None:
    """Answer nothing (RFC 863)."""


def characters(_data: bytes) -> bytes:
    """Answer with 0 to 512 characters (RFC 864)."""
    return chargen.datagram(random.randrange(chargen.DATAGRAM_MAX + 1))  # noqa: S311


class Datagrams:
    """A UDP socket on *addr* (``"127.0.0.1:9999"``) that answers what it receives.

    Raises:
        OSError: the address cannot be bound; the error names it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        addr: str,
        answer: Answer,
        impairment: Impairment,
        meter: Meter,
    ) -> None:
        self._loop = loop
        self._answer = answer
        self._impairment = impairment
        self._pace = Pace(impairment.max_rate, loop.time()) if impairment.max_rate else None
        self._meter = meter
        self._late: set[asyncio.TimerHandle] = set()
        self._late_bytes = 0
        self._repeats = _Repeats()
        self.refused_ports: frozenset[int] = NEVER_ANSWERED
        """Source ports that are not answered; the server adds the ports of its own sockets."""
        self._socket = udp.bind(addr)
        self.answered_bytes = 0
        """Bytes of the answers given to the socket, whether it could send them or not."""
        self._serving = loop.create_task(self._serve())

    async def _serve(self) -> None:
        async for data, peer in self._socket:
            self._received(data, peer)

    @property
    def local_addr(self) -> str:
        """The address that the socket is bound to."""
        return self._socket.local_addr

    @property
    def port(self) -> int:
        """The port that the socket is bound to."""
        return int(self.local_addr.rpartition(":")[2])

    @property
    def stats(self) -> udp.SocketStats:
        """What became of the datagrams, by all counts of the socket."""
        return self._socket.stats

    def close(self) -> None:
        """Free the port; delayed answers are lost."""
        self._socket.close()
        for timer in self._late:
            timer.cancel()
        self._late.clear()

    def _received(self, data: bytes, peer: udp.Peer) -> None:
        self._meter.received(str(peer), len(data))
        if peer.port in self.refused_ports:
            self._meter.datagrams_refused += 1
            return
        answer = self._answer(data)
        if answer is None:
            return
        if self._repeats.ends_loop(peer, data if self._answer is echo else b""):
            self._meter.datagrams_refused += 1
            return
        if self._impairment.drops():
            self._meter.dropped += 1
            return
        if self._pace is not None and not self._pace.admits(len(answer), self._loop.time()):
            self._meter.datagrams_lost += 1
            return
        if self._impairment.delay:
            self._send_later(answer, peer)
        else:
            self._send(answer, peer)

    def _send_later(self, answer: bytes, peer: udp.Peer) -> None:
        if self._late_bytes + len(answer) > _LATE_BYTES or len(self._late) >= _LATE:
            self._meter.datagrams_lost += 1
            return
        self._late_bytes += len(answer)

        def send() -> None:
            self._late.discard(timer)
            self._late_bytes -= len(answer)
            self._send(answer, peer)

        timer = self._loop.call_later(self._impairment.delay, send)
        self._late.add(timer)

    def _send(self, answer: bytes, peer: udp.Peer) -> None:
        if self._socket.is_open:
            self._socket.send(answer, peer)
            self.answered_bytes += len(answer)
            self._meter.answered(str(peer), len(answer))


class _Repeats:
    """Counts repeats among the last tens of thousands of datagrams."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._older: dict[int, int] = {}

    def ends_loop(self, sender: Any, data: bytes) -> bool:
        """Count *data* from *sender*; return True if it must not be answered, to end a loop."""
        key = hash((sender, data))
        count = self._counts.get(key) or self._older.get(key, 0)
        if count >= REPEATS:
            self._counts[key] = 0
            self._older.pop(key, None)
            return True
        if len(self._counts) >= _REMEMBERED:
            self._older, self._counts = self._counts, {}
        self._counts[key] = count + 1
        return False
