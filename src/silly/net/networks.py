"""Networks of IP addresses: which clients belong to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, Final

from silly._values.kinds import Kind

__all__ = ["NETWORKS", "UNIX", "Networks", "checked_networks"]

UNIX: Final = "unix"
"""In place of a network: the clients of Unix sockets."""

_V4_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_MAPPED_PREFIX: Final = _V4_MAPPED.network_address.packed[:12]

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def checked_networks(value: Any, name: str, *, or_unix: bool = False) -> tuple[str, ...]:
    """Return *value* as a tuple of networks.

    Raises:
        TypeError, ValueError: it is something else; the message begins with *name*.
    """
    example = f"('10.0.0.0/8', '{UNIX}')" if or_unix else "('10.0.0.0/8',)"
    if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{name} must be a tuple of networks such as {example}")
    for item in value:
        if or_unix and item == UNIX:
            continue
        try:
            ipaddress.ip_network(item)
        except ValueError as error:
            expected = f"'10.0.0.0/8' or {UNIX!r}" if or_unix else "'10.0.0.0/8'"
            raise ValueError(f"{name}: {error}; expected a network such as {expected}") from None
    return tuple(value)


NETWORKS: Final = Kind(
    "NETWORKS",
    lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
    ",".join,
    "networks separated by commas, such as 127.0.0.0/8,::1/128",
    checked_networks,
)


class Networks:
    """A set of networks, such as ``("10.0.0.0/8", "fd00::/8", "unix")``.

    An IPv4 address that is written in IPv6 (``::ffff:10.0.0.1``) counts as the IPv4 address.
    """

    __slots__ = ("has_unix", "prefixes4", "prefixes6")

    def __init__(self, networks: Iterable[str]) -> None:
        prefixes: dict[int, list[bytes]] = {4: [], 6: []}
        networks = set(networks)
        self.has_unix = UNIX in networks
        for text in networks - {UNIX}:
            network = _unmapped(ipaddress.ip_network(text))
            length = (network.prefixlen + 7) // 8
            # If the prefix ends within a byte, list each value that this byte can have.
            for part in network.subnets(new_prefix=length * 8):
                prefixes[network.version].append(part.network_address.packed[:length])
        # As whole bytes, which are compared by one call.
        self.prefixes4 = tuple(prefixes[4])
        self.prefixes6 = tuple(prefixes[6])

    def covers(self, client: bytes) -> bool:
        """Return whether *client*, a packed IP address, is in one of the networks."""
        if len(client) == 16:
            if not client.startswith(_MAPPED_PREFIX):
                return client.startswith(self.prefixes6)
            client = client[12:]
        return client.startswith(self.prefixes4)

    def covers_peer(self, conn: Any) -> bool:
        """Return whether the client of the connection *conn* is in one of the networks."""
        if conn._client:
            return self.covers(conn._client)
        # It has no IP address: a Unix socket, or lost before its address was known.
        return self.has_unix and isinstance(conn._local_sockaddr, str | bytes)


def _unmapped(network: _Network) -> _Network:
    if network.version == 6 and network.subnet_of(_V4_MAPPED):
        address = network.network_address.packed[12:]
        return ipaddress.IPv4Network((address, network.prefixlen - 96))
    return network
