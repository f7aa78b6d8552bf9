"""UDP for ``silly connect``: each line of the input is a datagram."""

from __future__ import annotations

from silly.cli.connecting.pieces import Pieces
from silly.net import udp

__all__ = ["Datagrams"]


class Datagrams(Pieces):
    """What ``silly connect`` needs of a connection, over a UDP socket."""

    def __init__(self, sock: udp.Socket) -> None:
        super().__init__()
        self._socket = sock

    @property
    def remote_addr(self) -> str:
        """The peer's address."""
        return str(self._socket.peer)

    async def _send(self, line: bytes) -> None:
        await self._socket.send(line)

    async def _next(self, timeout: float | None) -> bytes:
        data, _ = await self._socket.recv(timeout=timeout)
        return data

    def abort(self) -> None:
        """Close the socket."""
        self._socket.close()
