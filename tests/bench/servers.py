"""Servers to measure: correct ones, and ones that make a certain error."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

Serve = Callable[[socket.socket], None]


def lines(sock: socket.socket) -> Iterator[bytes]:
    with sock.makefile("rb") as file:
        yield from file


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def corrupting(sock: socket.socket) -> None:
    for number, line in enumerate(lines(sock)):
        sock.sendall(line[:20] + b"?" + line[21:] if number == 5 else line)


def losing(sock: socket.socket) -> None:
    for number, line in enumerate(lines(sock)):
        if number != 5:
            sock.sendall(line)


def doubling(sock: socket.socket) -> None:
    for number, line in enumerate(lines(sock)):
        sock.sendall(line * 2 if number == 5 else line)


def reordering(sock: socket.socket) -> None:
    held = b""
    for number, line in enumerate(lines(sock)):
        if number == 5:
            held = line
        else:
            sock.sendall(line + held)
            held = b""


def closing(sock: socket.socket) -> None:
    for number, line in enumerate(lines(sock)):
        if number == 5:
            return
        sock.sendall(line)


def resetting(sock: socket.socket) -> None:
    sock.recv(64)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def greeting(sock: socket.socket) -> None:
    sock.recv(1, socket.MSG_PEEK)  # before there is a request, the greeting is "unasked"
    sock.sendall(b"220 ready\r\n")
    echo(sock)


class Exchanging:
    """Sends each line of the first two connections to the other one."""

    def __init__(self) -> None:
        self._both: list[socket.socket] = []
        self._met = threading.Barrier(2)

    def __call__(self, sock: socket.socket) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            self._both.append(sock)
            self._met.wait(timeout=10)
            other = next(each for each in self._both if each is not sock)
            for line in lines(sock):
                other.sendall(line)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


@contextlib.contextmanager
def serving(serve: Serve) -> Iterator[str]:
    """Run *serve* for each connection, in a thread; yield the address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                serve(self.request)

    class Server(_Server):
        def shutdown_request(self, request: Any) -> None:
            self.close_request(request)  # without shutdown(): a reset must stay a reset

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
