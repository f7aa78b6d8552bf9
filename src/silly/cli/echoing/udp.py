"""A UDP socket in the event loop.

An answer is sent from the address that the datagram was sent to, even if the socket
is bound to all addresses (IP_PKTINFO in ip(7), RFC 3542 for IPv6).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from silly.errors import at_address
from silly.net import addr as addresses

__all__ = ["Peer", "Socket"]

_LARGEST: Final = 65535
_BATCH: Final = 64  # datagrams received before the loop may do something else
_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)  # Linux's number


class Peer(NamedTuple):
    """Where a datagram came from."""

    address: Any
    """The sender's address, as the socket module has it."""
    destination: list[Any]
    """Ancillary data with the address that it was sent to, from which an answer is sent."""


class Socket:
    """A UDP socket on *addr* (``"127.0.0.1:9999"``); calls *received* for each datagram.

    Raises:
        OSError: the address cannot be bound; the error names it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        addr: str,
        received: Callable[[bytes, Peer], None],
    ) -> None:
        self._loop = loop
        self._received = received
        self._socket = _bound(addr)
        self.local_addr: str = addresses.format_sockaddr(self._socket.getsockname())
        loop.add_reader(self._socket, self._readable)

    @property
    def port(self) -> int:
        """The port that the socket is bound to."""
        port: int = self._socket.getsockname()[1]
        return port

    def send(self, data: bytes, peer: Peer) -> None:
        """Send a datagram to *peer*.

        Raises:
            OSError: it is lost: the socket's buffer is full, or there is no route.
        """
        self._socket.sendmsg([data], peer.destination, 0, peer.address)

    def close(self) -> None:
        """Free the port."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(_BATCH):
            try:
                data, extras, _, sender = self._socket.recvmsg(_LARGEST, 256)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error for an earlier answer
                continue
            self._received(data, Peer(sender, [one for one in extras if _is_destination(one)]))


def _bound(addr: str) -> socket.socket:
    address = addresses.parse(addr)
    if not isinstance(address, addresses.TCPAddress):
        raise OSError(errno.EAFNOSUPPORT, "Unix sockets have no UDP", addr)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if sys.platform == "linux":
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind(socket.getaddrinfo(address.host, address.port, family, sock.type)[0][4])
    except OSError as error:
        with contextlib.suppress(OSError):
            sock.close()
        raise at_address(error, addr) from None
    return sock


def _is_destination(extra: tuple[int, int, bytes]) -> bool:
    if sys.platform != "linux":
        return False
    return extra[:2] in (
        (socket.IPPROTO_IP, _IP_PKTINFO),
        (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO),
    )
