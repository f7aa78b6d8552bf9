"""The listening sockets of all workers: their supervisor owns them.

Each worker has its own for each TCP address on Linux, where the kernel shares
connections out among all that have SO_REUSEPORT (socket(7)); port 0 is picked
once for all. Unix sockets, those of socket activation, and all on other systems
are one for all workers. They are closed when a program says that it listens
there no more, never because a worker died.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

from silly._channel import Key
from silly.net import addr as addresses
from silly.net.addr import TCPAddress, UnixAddress
from silly.net.listening import (
    Resolved,
    activated_sockets,
    open_sockets,
    resolve,
    unlink_path,
)

__all__ = ["Sockets"]

_IS_SHARED: Final = not sys.platform.startswith("linux")  # elsewhere the last one gets all


class Sockets:
    """What is open, by the worker's number and by address."""

    def __init__(self) -> None:
        self._own: dict[int, dict[Key, list[socket.socket]]] = {}
        self._shared: dict[Key, list[socket.socket]] = {}
        self._paths: dict[Key, str] = {}  # of those, the Unix sockets'
        self._ports: dict[Key, int] = {}  # of the others

    def own(self, number: int) -> dict[Key, list[socket.socket]]:
        """Return those that only worker *number* accepts on."""
        return self._own.setdefault(number, {})

    async def resolve(self, number: int, key: Key) -> Resolved | None:
        """Return where *key* is, to be given to `open`; None if that need not be known.

        Raises:
            OSError: the host name cannot be resolved.
        """
        address = addresses.parse(key[0])
        if key in self.own(number) or key in self._shared or isinstance(address, UnixAddress):
            return None
        return await resolve(address)

    def open(
        self, number: int, key: Key, backlog: int, where: Resolved | None, *, reuse_port: bool
    ) -> list[socket.socket]:
        """Return the sockets for worker *number* to listen on *key*, opened now if need be.

        Raises:
            OSError: the operating system refused.
        """
        own = self.own(number)
        for held in (own, self._shared):
            if key in held:
                return held[key]
        address = addresses.parse(key[0])
        if passed := activated_sockets(address, where):
            self._shared[key] = [each.dup() for each in passed]
            return self._shared[key]
        if isinstance(address, UnixAddress) or _IS_SHARED:
            self._shared[key] = open_sockets(address, backlog, where, reuse_port=reuse_port)
            if isinstance(address, UnixAddress):
                self._paths[key] = address.path
            return self._shared[key]
        if key in self._ports:
            address = TCPAddress(address.host, self._ports[key])
        elif address.port and not reuse_port:
            # SO_REUSEPORT would share the port with another program: see whether it is free.
            _close_all(open_sockets(address, backlog, where, reuse_port=False))
        own[key] = open_sockets(address, backlog, where, reuse_port=True)
        self._ports[key] = own[key][0].getsockname()[1]
        return own[key]

    def release(self, number: int, key: Key) -> None:
        """Close what only worker *number* accepts on for *key*."""
        _close_all(self.own(number).pop(key, []))

    def forget(self, key: Key) -> None:
        """Close what is shared for *key*: no worker listens there any more."""
        self._ports.pop(key, None)
        _close_all(self._shared.pop(key, []))
        if key in self._paths:
            unlink_path(self._paths.pop(key))

    def close(self) -> None:
        """Close all."""
        for number, own in self._own.items():
            for key in list(own):
                self.release(number, key)
        for key in list(self._shared):
            self.forget(key)


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
