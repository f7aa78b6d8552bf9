"""What run.py, web.py and websocket.py have in common: options, and the memory of connections."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from typing import Final

from server import Server

WARM: Final = 500  # connections that are opened before memory is first measured
IDLE: Final = 4000  # and those that are measured


def options(doc: str | None, seconds: float) -> argparse.ArgumentParser:
    """Return a parser of the options that select what is measured, *seconds* long by default."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"per measurement; default: {seconds:g}"
    )
    parser.add_argument("--only", default="", help="servers: parts of their names, with commas")
    parser.add_argument("--jobs", default="", help="jobs: parts of their names, with commas")
    return parser


def chosen(name: str, parts: str) -> bool:
    return not parts or any(part.strip().lower() in name.lower() for part in parts.split(","))


def idle_memory(server: Server, request: bytes, is_answer: Callable[[bytes], bool]) -> float:
    """Return KiB of *server* for each connection that waits after an answer to its *request*."""
    socks = []
    before = 0
    try:
        for number in range(WARM + IDLE):
            if number == WARM:
                before = server.memory()
            socks.append(sock := socket.create_connection(("127.0.0.1", server.port), timeout=10))
            sock.sendall(request)
            if not is_answer(sock.recv(4096)):
                raise RuntimeError(f"{server.name} did not answer")
        return (server.memory() - before) / IDLE
    finally:
        for sock in socks:
            sock.close()
