"""The addresses of sockets, and how they are written; `silly.net.addr` parses them."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from typing import Any

__all__ = ["TCPAddress", "UnixAddress", "format_sockaddr", "host_of"]


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A host (a name, an IPv4 or an IPv6 address; ``""`` is every interface) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix-domain socket (unix(7)).

    A path that begins with a NUL is an abstract name (Linux), written with an ``@``
    in its place: ``"unix:@name"``. A file whose name begins with ``@`` is written
    ``"unix:./@name"``.
    """

    path: str

    @property
    def is_abstract(self) -> bool:
        """True if there is no file: the name disappears with its socket and has no permissions."""
        return self.path.startswith("\0")

    def __str__(self) -> str:
        if self.is_abstract:
            return f"unix:@{self.path[1:]}"
        return f"unix:./{self.path}" if self.path.startswith("@") else f"unix:{self.path}"


def format_sockaddr(sockaddr: Any) -> str:
    """Return an address of the `socket` module as text that `parse` accepts.

    *sockaddr* is ``(host, port)`` (IPv4), ``(host, port, flow, scope)`` (IPv6) or a
    Unix path. Two results are no addresses, and `parse` refuses them: ``"unix:"``,
    the unnamed end of a Unix connection, and ``"unknown"``, for None.
    """
    if isinstance(sockaddr, tuple):
        if len(sockaddr) == 2 and ":" not in sockaddr[0]:  # faster: errors have it
            return f"{sockaddr[0]}:{sockaddr[1]}"
        return str(TCPAddress(host_of(sockaddr), sockaddr[1]))
    if sockaddr is None:  # the peer was gone before getpeername(2)
        return "unknown"
    return str(UnixAddress(os.fsdecode(sockaddr)))


def host_of(sockaddr: tuple[Any, ...]) -> str:
    """Return the host of an IP address as text, with the interface if it has a scope.

    The interface is given by name for link-local addresses whose interface exists
    (only those names can be resolved again), otherwise by number.
    """
    host, scope = str(sockaddr[0]), sockaddr[3] if len(sockaddr) > 3 else 0
    if not scope or "%" in host:
        return host
    if ipaddress.IPv6Address(host).is_link_local:
        with contextlib.suppress(OSError):
            interface = socket.if_indextoname(scope)
            if re.fullmatch(r"[\w.-]+", interface, re.ASCII):
                return f"{host}%{interface}"
    return f"{host}%{scope}"
