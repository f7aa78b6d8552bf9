"""What ``get_extra_info("socket")`` returns: a socket for options and names, not for bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["BorrowedSocket"]


class _Owner(Protocol):
    @property
    def _fileno(self) -> int: ...


class BorrowedSocket:
    """Like `asyncio.trsock.TransportSocket`: the socket of a connection or listener.

    Its methods are those of `socket.socket`; they raise `OSError` (EBADF) once it is closed.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: _Owner) -> None:
        self._owner = owner

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[socket.socket]:
        descriptor = self._owner._fileno
        if descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sock = socket.socket(fileno=descriptor)
        try:
            yield sock
        finally:
            sock.detach()

    @property
    def family(self) -> socket.AddressFamily:
        """See `socket.socket.family`."""
        with self._borrowed() as sock:
            return sock.family

    @property
    def type(self) -> socket.SocketKind:
        """See `socket.socket.type`."""
        with self._borrowed() as sock:
            return sock.type

    @property
    def proto(self) -> int:
        """See `socket.socket.proto`."""
        with self._borrowed() as sock:
            return sock.proto

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        return self._owner._fileno

    def dup(self) -> socket.socket:
        """Return a socket of your own. The connection is open until both are closed."""
        with self._borrowed() as sock:
            return sock.dup()

    def get_inheritable(self) -> bool:
        """See `socket.socket.get_inheritable`."""
        with self._borrowed() as sock:
            return sock.get_inheritable()

    def getsockopt(self, *args: Any) -> Any:
        """See `socket.socket.getsockopt`."""
        with self._borrowed() as sock:
            return sock.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        """See `socket.socket.setsockopt`."""
        with self._borrowed() as sock:
            sock.setsockopt(*args)

    def getpeername(self) -> Any:
        """See `socket.socket.getpeername`."""
        with self._borrowed() as sock:
            return sock.getpeername()

    def getsockname(self) -> Any:
        """See `socket.socket.getsockname`."""
        with self._borrowed() as sock:
            return sock.getsockname()

    def shutdown(self, how: int) -> None:
        """See `socket.socket.shutdown`."""
        with self._borrowed() as sock:
            sock.shutdown(how)

    def gettimeout(self) -> float:
        """Return 0: it does not block."""
        return 0.0

    def settimeout(self, value: float) -> None:
        """Accept 0 only."""
        if value != 0:
            raise ValueError("settimeout(): only 0 timeout is allowed on transport sockets")

    def setblocking(self, flag: bool) -> None:
        """Accept False only."""
        if flag:
            raise ValueError("setblocking(): transport sockets cannot be blocking")

    def __repr__(self) -> str:
        return f"<BorrowedSocket fd={self.fileno()}>"
