"""The two addresses in a header, in the form that the `socket` module uses."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any, Final

from silly.net import addr as addresses
from silly.net.addr import TCPAddress

__all__ = ["Endpoints", "HeaderError", "inet", "inet6", "is_inet6", "packed", "parse_endpoint"]

Endpoints = tuple[Any, Any]
"""The source and the destination: both IPv4, both IPv6 or both Unix sockets."""

_V4_MAPPED: Final = b"\0" * 10 + b"\xff\xff"


class HeaderError(ValueError):
    """What was received is not a valid header; the text says why."""


def inet(address: bytes, port: int) -> tuple[str, int]:
    """Return the socket address of a packed IPv4 address."""
    return socket.inet_ntop(socket.AF_INET, address), port


def inet6(address: bytes, port: int) -> tuple[str, int, int, int]:
    """Return the socket address of a packed IPv6 address."""
    return socket.inet_ntop(socket.AF_INET6, address), port, 0, 0


def is_inet6(endpoint: Any) -> bool:
    """Return whether *endpoint* has an IPv6 address."""
    return isinstance(endpoint, tuple) and ":" in endpoint[0]


def packed(endpoint: tuple[Any, ...], *, as_inet6: bool = False) -> bytes:
    """Return the packed IP address of *endpoint*; IPv4 as a mapped one if *as_inet6*."""
    if is_inet6(endpoint):
        return socket.inet_pton(socket.AF_INET6, endpoint[0])
    address = socket.inet_pton(socket.AF_INET, endpoint[0])
    return _V4_MAPPED + address if as_inet6 else address


def parse_endpoint(text: str, name: str) -> Any:
    """Return the socket address that *text* stands for.

    Raises:
        TypeError, ValueError: *text* is no address, or one of a host name; the message begins
            with *name*.
    """
    if text == "unix:":
        return ""
    address = addresses.parse(text, name)
    if not isinstance(address, TCPAddress):
        path = address.path
        return os.fsencode(path) if address.is_abstract else path
    host = address.host.partition("%")[0]  # a scope has no meaning on another machine
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{name} {text!r} needs an IP address instead of {host!r}") from None
    make = inet if number.version == 4 else inet6
    return make(number.packed, address.port)
