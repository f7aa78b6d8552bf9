"""The listening sockets of all workers, owned by the supervisor.

On Linux, each worker has its own socket for each TCP address, and the kernel
distributes connections among them (SO_REUSEPORT, socket(7)). For port 0, the
port is chosen once and used by all workers. Unix sockets, sockets passed by
systemd, and all sockets on other systems are shared by the workers. A socket is
closed when the program stops listening there, never because a worker died.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

from silly.net import addr as addresses
from silly.net.addr import TCPAddress, UnixAddress
from silly.net.listening import Opened, Resolved, activated_sockets, open_sockets, resolve
from silly.workers.channel import Key, Open

__all__ = ["Sockets"]

# Elsewhere, the socket that was bound last gets all connections.
_IS_SHARED: Final = not sys.platform.startswith("linux")


class Sockets:
    """The open sockets, by worker number and address."""

    def __init__(self) -> None:
        self._own: dict[int, dict[Key, list[socket.socket]]] = {}
        self._shared: dict[Key, Opened] = {}
        self._ports: dict[Key, int] = {}  # the ports of the sockets in `_own`

    def own(self, number: int) -> dict[Key, list[socket.socket]]:
        """Return the sockets that only worker *number* accepts on."""
        return self._own.setdefault(number, {})

    async def resolve(self, number: int, key: Key) -> Resolved | None:
        """Return the resolved address of *key* for `open`; None if `open` does not need it.

        Raises:
            OSError: the host name cannot be resolved.
        """
        address = addresses.parse(key[0])
        if key in self.own(number) or key in self._shared or isinstance(address, UnixAddress):
            return None
        return await resolve(address)

    def open(self, number: int, wanted: Open, where: Resolved | None) -> list[socket.socket]:
        """Return the sockets that worker *number* asked for; open them if they are not open.

        Raises:
            OSError: the operating system refused.
        """
        key, reuse_port = (wanted.address, wanted.index), wanted.reuse_port
        own = self.own(number)
        if key in own:
            return own[key]
        if key in self._shared:
            return self._shared[key].sockets
        address = addresses.parse(key[0])
        if passed := activated_sockets(address, where):
            self._shared[key] = Opened([each.dup() for each in passed])
            return self._shared[key].sockets
        if isinstance(address, UnixAddress) or _IS_SHARED:
            self._shared[key] = open_sockets(
                address, wanted.backlog, where, reuse_port=reuse_port, mode=wanted.mode
            )
            return self._shared[key].sockets
        if key in self._ports:
            address = TCPAddress(address.host, self._ports[key])
        elif address.port and not reuse_port:
            # SO_REUSEPORT would share the port with another program: check that it is free.
            _close_all(open_sockets(address, wanted.backlog, where, reuse_port=False).sockets)
        own[key] = open_sockets(address, wanted.backlog, where, reuse_port=True).sockets
        self._ports[key] = own[key][0].getsockname()[1]
        return own[key]

    def names(self, number: int, key: Key) -> list[str]:
        """Return the addresses that worker *number* listens on for *key*."""
        shared = self._shared[key].sockets if key in self._shared else []
        sockets = self.own(number).get(key, shared)
        return [addresses.format_sockaddr(sock.getsockname()) for sock in sockets]

    def release(self, number: int, key: Key) -> None:
        """Close the sockets for *key* that only worker *number* accepts on."""
        _close_all(self.own(number).pop(key, []))

    def forget(self, key: Key) -> None:
        """Close the shared sockets for *key*: no worker listens there any more."""
        self._ports.pop(key, None)
        if (shared := self._shared.pop(key, None)) is not None:
            _close_all(shared.sockets)
            shared.release()

    def close(self) -> None:
        """Close all sockets."""
        for number, own in self._own.items():
            for key in list(own):
                self.release(number, key)
        for key in list(self._shared):
            self.forget(key)


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
