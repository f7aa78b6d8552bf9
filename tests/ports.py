"""Ports for programs that cannot be asked which one they got."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def held_port(number: int = 0) -> Iterator[int]:
    """A port of 127.0.0.1 that the kernel gives to nobody else until the end of the block.

    A socket stays bound to it. Because of SO_REUSEADDR, which servers set as well, a
    server can listen there all the same; while none does, connections are refused.
    A *number* other than 0 is the port of workers, which listen there already
    (SO_REUSEPORT).
    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if number:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", number))
        yield sock.getsockname()[1]
