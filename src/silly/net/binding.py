"""UDP sockets: from an address to a socket that is bound or connected."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from silly.errors import at_address
from silly.net.addr import TCPAddress
from silly.net.listening import activated_sockets, explained
from silly.net.resolving import getaddrinfo, getaddrinfo_now

__all__ = [
    "Found",
    "Group",
    "SocketOptions",
    "find",
    "find_now",
    "group",
    "is_everywhere",
    "open_bound",
    "open_to",
]

_IP_MULTICAST_ALL: Final = 49  # Linux's numbers
_IPV6_MULTICAST_ALL: Final = 29

Found = list[tuple[int, Any]]  # families and addresses, as the `socket` module takes them


@dataclass(frozen=True, slots=True)
class Group:
    """A multicast group, and the interface on which it is joined."""

    family: int
    packed: bytes
    interface: int
    """Its number; 0: the operating system chooses one."""

    def join(self, sock: socket.socket) -> None:
        """Make *sock* receive what is sent to the group, and send to groups where it joined."""
        if self.family == socket.AF_INET6:
            number = struct.pack("@I", self.interface)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, self.packed + number)
            if self.interface:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, number)
        else:
            there = struct.pack("@i", self.interface)  # of ip_mreqn (ip(7))
            request = self.packed + bytes(4) + there
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            if self.interface:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + there)


def group(text: str) -> Group:
    """Parse ``"239.1.2.3"``, ``"239.1.2.3%eth0"`` or ``"ff02::fb%eth0"``.

    Raises:
        TypeError: *text* is not a `str`.
        ValueError: it is not the address of a multicast group, or there is no such interface.
    """
    if not isinstance(text, str):
        raise TypeError(f"multicast must be a str such as '239.1.2.3%eth0', not {text!r}")
    host, percent, name = text.partition("%")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or not address.is_multicast:
        raise ValueError(
            f"multicast {text!r} is not a group's address: expected "
            "'239.1.2.3', '239.1.2.3%eth0' or 'ff02::fb%eth0'"
        )
    interface = 0
    if percent:
        try:
            interface = int(name) if name.isdecimal() else socket.if_nametoindex(name)
        except OSError:
            raise ValueError(f"multicast {text!r}: there is no interface {name!r}") from None
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    return Group(family, address.packed, interface)


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """The options of a UDP socket that the operating system keeps."""

    reuse_port: bool = False
    broadcast: bool = False
    groups: tuple[Group, ...] = ()
    hops: int | None = None
    receive_buffer: int | None = None

    def set(self, sock: socket.socket) -> None:
        """Set them, before *sock* is bound."""
        sock.setblocking(False)
        if self.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if self.groups:  # several programs on one machine receive from a group
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if self.receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(self.receive_buffer, 1 << 30))
        if self.hops is not None and sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, self.hops)
        elif self.hops is not None:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, self.hops)

    def join(self, sock: socket.socket) -> None:
        """Join the groups, with the bound *sock*, and receive from no others."""
        for each in self.groups:
            each.join(sock)
        if self.groups and sys.platform == "linux":
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            if sock.family == socket.AF_INET6:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)


def find_now(address: TCPAddress) -> Found:
    """Return what *address* resolves to; a signal to stop interrupts the wait.

    Raises:
        OSError: the host name cannot be resolved.
    """
    try:
        return _distinct(
            getaddrinfo_now(address.host or None, address.port, type=socket.SOCK_DGRAM)
        )
    except OSError as error:
        raise at_address(error, str(address)) from None


async def find(address: TCPAddress) -> Found:
    """Return what *address* resolves to; without a host, this machine's loopback addresses.

    Raises:
        OSError: the host name cannot be resolved.
    """
    try:
        return _distinct(
            await getaddrinfo(address.host or None, address.port, type=socket.SOCK_DGRAM)
        )
    except OSError as error:
        raise at_address(error, str(address)) from None


def _distinct(found: Iterable[tuple[Any, ...]]) -> Found:
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def open_bound(address: TCPAddress, options: SocketOptions) -> socket.socket:
    """Return a socket that is bound to *address*: one that systemd passed, or a new one.

    Without a host, it receives on all interfaces, IPv4 and IPv6. A host name is resolved,
    and the first of its addresses that can be bound is used.

    Raises:
        OSError: the operating system refused, or the host name cannot be resolved; the
            error names the address. No socket stays open.
    """
    for passed in activated_sockets(address, kind=socket.SOCK_DGRAM):
        return _use(passed.dup(), address, options)
    if not address.host:
        return _open_everywhere(address, options)
    first: OSError | None = None
    for family, sockaddr in find_now(address):
        try:
            return _open(family, sockaddr, address, options)
        except OSError as error:
            first = first or error
    assert first is not None
    raise first


def _use(sock: socket.socket, address: TCPAddress, options: SocketOptions) -> socket.socket:
    """Set up *sock*, which is bound already."""
    with contextlib.ExitStack() as undo:
        try:
            undo.enter_context(sock)
            options.set(sock)
            if is_everywhere(sock.getsockname()):
                is_dual = sock.family == socket.AF_INET6 and not sock.getsockopt(
                    socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
                )
                _note_destinations(sock, takes_ipv4=is_dual)
            options.join(sock)
        except OSError as error:
            raise explained(error, address) from None
        undo.pop_all()
    return sock


def _open_everywhere(address: TCPAddress, options: SocketOptions) -> socket.socket:
    ipv4 = (socket.AF_INET, ("0.0.0.0", address.port))  # noqa: S104 - asked for
    if {each.family for each in options.groups} == {socket.AF_INET}:
        return _open(*ipv4, address, options)
    try:
        return _open(socket.AF_INET6, ("::", address.port, 0, 0), address, options, takes_ipv4=True)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    return _open(*ipv4, address, options)  # a machine without IPv6


def _open(
    family: int,
    sockaddr: Any,
    address: TCPAddress,
    options: SocketOptions,
    *,
    takes_ipv4: bool = False,
) -> socket.socket:
    with contextlib.ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            options.set(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not takes_ipv4)
            if is_everywhere(sockaddr):
                _note_destinations(sock, takes_ipv4=takes_ipv4)
            sock.bind(sockaddr)
            options.join(sock)
        except OSError as error:
            raise explained(error, address) from None
        undo.pop_all()
    return sock


def is_everywhere(sockaddr: Any) -> bool:
    """Return whether a socket that is bound to *sockaddr* receives on all interfaces."""
    return sockaddr[0] in ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def _note_destinations(sock: socket.socket, *, takes_ipv4: bool) -> None:
    """Have the operating system tell the address that each datagram was sent to (ip(7))."""
    if sys.platform != "linux":
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    if sock.family == socket.AF_INET or takes_ipv4:
        sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_PKTINFO", 8), 1)


def open_to(
    address: TCPAddress, found: Found, local: Found | None, options: SocketOptions
) -> socket.socket:
    """Return a socket that is connected to the first of *found* that it can be.

    *local* are the addresses to send from, if any: the first of the same family is used.

    Raises:
        OSError: there is no route to any of them; the error names the address.
    """
    first: OSError | None = None
    for family, sockaddr in found:
        own = [each for at, each in local or () if at == family]
        if local is not None and not own:
            what = "No address of the same family to bind"
            first = first or OSError(errno.EAFNOSUPPORT, what)
            continue
        with contextlib.ExitStack() as undo:
            try:
                sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                options.set(sock)
                if own:
                    sock.bind(own[0])
                sock.connect(sockaddr)
            except OSError as error:
                first = first or error
                continue
            undo.pop_all()
            return sock
    assert first is not None
    cause = "" if first.errno is None else first.strerror or os.strerror(first.errno)
    raise at_address(first, str(address), cause) from None
