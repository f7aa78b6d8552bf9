"""Ports for programs that cannot report which port they chose."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def held_port(number: int = 0) -> Iterator[int]:
    """Reserve a port of 127.0.0.1 until the end of the block.

    A bound socket keeps the kernel from giving the port to other programs. With
    SO_REUSEADDR, which servers also set, a server can still listen there; until one
    does, connections are refused.
    A *number* other than 0 is the port of workers that already listen there
    (SO_REUSEPORT).
    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if number:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", number))
        yield sock.getsockname()[1]
