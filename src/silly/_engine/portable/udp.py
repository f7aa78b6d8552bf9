"""Carries datagrams over a UDP socket that any event loop watches."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from typing import Any, Final, Protocol

from silly._loop.live import disown_socket

__all__ = ["DatagramEvents", "UDPCarrier"]

_BATCH: Final = 64  # datagrams received before the loop may do something else
_LAST: Final = 1024  # batches received when a socket is closed, at most
_CONTROL: Final = 256  # bytes
_LONGEST: Final = 65536  # bytes received of one datagram, at most
_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)  # Linux's number
_SO_MEMINFO: Final = 55  # Linux's number: the counters of sock_diag(7)
_MEMINFO: Final = struct.Struct("@9I")  # the last one counts what SO_RXQ_OVFL reports


class DatagramEvents(Protocol):
    """What a carrier calls."""

    def received(self, data: bytes, sockaddr: Any, via: Any) -> None:
        """Take a datagram; *via* is given back to send an answer."""

    def truncated(self) -> None:
        """Note that a datagram was too long."""

    def failed(self, number: int) -> None:
        """Note an error that the network reported for a datagram sent earlier."""

    def arrived(self) -> None:
        """Note that all that has arrived was reported, for now."""

    def has_room(self) -> None:
        """Note that sending may work again."""


class UDPCarrier:
    """See `datagrams.Carrier`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        max_datagram: int,
        *,
        answers_from: bool,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._longest = max_datagram
        self._room = min(max_datagram + 1, _LONGEST)
        self._received_any = False
        self._has_via = answers_from and sys.platform != "win32"
        self.family: int = sock.family
        self.local_sockaddr = sock.getsockname()
        try:
            self.peer_sockaddr = sock.getpeername()
        except OSError:
            self.peer_sockaddr = None

    def start(self, events: DatagramEvents) -> None:
        self._events = events
        self._loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        self._received_any = False
        self._receive()
        if not self._received_any and self._sock.fileno() >= 0:
            # After an error of the network, uvloop no longer watches the descriptor.
            self._loop.remove_reader(self._sock)
            self._loop.add_reader(self._sock, self._readable)
        self._events.arrived()

    def _receive(self) -> bool:
        """Receive a batch; return whether there may be more."""
        events, via = self._events, None
        for _ in range(_BATCH):
            try:
                if self._has_via:
                    data, extras, _, sender = self._sock.recvmsg(self._room, _CONTROL)
                    via = _answering(extras)
                else:
                    data, sender = self._sock.recvfrom(self._room)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINTR):
                    events.failed(error.errno or errno.EIO)
                return False
            self._received_any = True
            if len(data) > self._longest:
                events.truncated()
            else:
                events.received(data, sender, via)
        return True

    def receive_last(self) -> None:
        for _ in range(_LAST):
            if not self._receive():
                break

    def send(self, data: bytes, name: Any, via: Any) -> None:
        if name is None:
            self._sock.send(data)
        elif via and self._has_via:
            self._sock.sendmsg([data], via, 0, name)
        else:
            self._sock.sendto(data, name)

    def call_when_room(self) -> None:
        self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._events.has_room()

    def drops(self) -> int:
        if sys.platform != "linux":
            return -1
        try:
            counters = self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return -1
        return int(_MEMINFO.unpack(counters)[-1]) if len(counters) == _MEMINFO.size else -1

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()

    def disown(self) -> None:
        disown_socket(self._sock)


def _answering(extras: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data that makes an answer leave from where its question came to.

    A socket for both families has both messages for IPv4. A multicast address is none to
    answer from: IPv6 then leaves the choice open; IPv4 tells the interface's own.
    """
    if sys.platform == "win32":
        return []
    found: list[tuple[int, int, bytes]] = []
    for level, kind, value in extras:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return [(level, kind, value)]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            local = bytes(16) if value[0] == 0xFF else value[:16]
            found = [(level, kind, local + value[16:])]
    return found
