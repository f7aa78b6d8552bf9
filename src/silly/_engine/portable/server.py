"""Accepting, on any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import select
import socket
import struct
import sys
from typing import Any, Final

from silly._engine.accepting import ACCEPT_BATCH, Accepting
from silly._engine.interface import Accept, Gate, packed_ip
from silly._engine.portable.link import RESET_ON_CLOSE
from silly._engine.portable.poller import READ, pollers
from silly._engine.portable.socket_link import SocketLink
from silly._engine.portable.transport_link import TransportLink
from silly._loop.live import disown_socket

__all__ = ["LoopServer", "SocketServer"]

_IP_TRANSPARENT: Final = 19  # of ip(7): it accepts connections to other addresses, too


class SocketServer(Accepting):
    """Accepts on one socket whenever the loop reports it readable."""

    _reserve = -1  # also if __init__ raises

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, accept: Accept, gate: Gate
    ) -> None:
        self._loop = loop
        self._sock = sock
        # What accepted sockets are. The methods of `socket.socket` take longer than accept(2).
        self._family, self._type, self._proto = int(sock.family), int(sock.type), sock.proto
        self._accept = accept
        self._poller = pollers.of(loop)
        self._local = _address_of_accepted(sock)
        self._tried = 0  # accepts since the socket was reported readable
        self._more = select.poll()
        self._more.register(sock, select.POLLIN)
        self.interest = 0
        self._begin(gate)
        self._hold_reserve()
        self._poller.hold()
        try:
            self._watch_backlog(True)
        except BaseException:
            self._poller.let_go()
            raise

    def __del__(self) -> None:
        if self._reserve >= 0:  # its loop was collected, and close() was never called
            os.close(self._reserve)

    def readable(self) -> None:
        """Accept what waits."""
        self._tried = 0
        self._accept_some(ACCEPT_BATCH)

    @property
    def _fileno(self) -> int:
        return self._sock.fileno()

    def _accept_one(self) -> int:
        # Often only one waits. To ask takes less than an accept(2) that fails, with its exception.
        self._tried += 1
        if self._tried == 2 and not self._more.poll(0):
            return errno.EAGAIN
        try:
            descriptor, sockaddr = self._sock._accept()  # type: ignore[attr-defined] # as `accept` does
            sock = socket.SocketType(self._family, self._type, self._proto, descriptor)
            sock.setblocking(False)
        except OSError as error:
            return error.errno or errno.EIO
        entered = False
        try:
            client = packed_ip(sockaddr)
            entered = self._gate.enter(client)
        finally:
            if not entered:
                _reset(sock)
        if not entered:
            return 0
        link: SocketLink | None = None
        try:
            link = SocketLink(self._poller, sock, sockaddr, client, self._local)
            link.start(self._accept)
        except Exception as error:  # noqa: BLE001 - others are accepted
            self._loop.call_exception_handler(
                {"message": "a connection could not be set up", "exception": error}
            )
        finally:
            if link is None or not link.has_stream:
                self._gate.leave(client)
        return 0

    def _turn_away_one(self) -> int:
        try:
            sock, sockaddr = self._sock.accept()
        except OSError as error:
            return error.errno or errno.EIO
        _reset(sock)
        self._turned_away = packed_ip(sockaddr)
        return 0

    def _is_listening(self) -> bool:
        return self._sock.fileno() >= 0

    def _watch_backlog(self, on: bool) -> None:
        before, self.interest = self.interest, READ if on else 0
        try:
            self._poller.watch_server(self, self._sock.fileno(), before)
        except BaseException:
            self.interest = before
            raise

    def writable(self) -> None:
        """Do nothing: a listening socket is not watched for that."""

    def _resume_later(self, delay: float) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, self._resume_accepting)

    def backlog(self) -> tuple[int, int] | None:
        return _backlog_of(self._sock)

    def close(self) -> None:
        self._stop()
        if self._sock.fileno() >= 0:
            self._watch_backlog(False)
            self._sock.close()
            self._poller.let_go()

    def disown(self) -> None:
        """Close in a forked child, without touching the event loop."""
        self._drop_reserve()  # first: `disown_socket` needs a free descriptor
        disown_socket(self._sock)


def _address_of_accepted(sock: socket.socket) -> Any:
    """Return the local address that all sockets accepted on *sock* have; None if they differ."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    address = sock.getsockname()
    if not any(packed_ip(address)):  # 0.0.0.0, or ::
        return None
    if sys.platform == "linux":
        try:
            is_transparent = sock.getsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT)
        except OSError:  # a kernel that does not know it may redirect in other ways
            return None
        if is_transparent:
            return None
    return address


def _backlog_of(sock: socket.socket) -> tuple[int, int] | None:
    """Return how full a listening socket's backlog is, and its limit; None if unknown."""
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    except OSError:
        return None
    # For a listening socket, tcpi_unacked and tcpi_sacked describe its queue (ss(8)).
    used, size = struct.unpack_from("II", info, 24)
    return used, size


def _reset(sock: socket.SocketType) -> None:
    """Close *sock* with a reset (a zero linger time does that: socket(7))."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    socket.SocketType.close(sock)


class LoopServer:
    """Accepts with the loop's own server: on Windows, its loop cannot watch a socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        backlog: int,
        accept: Accept,
        gate: Gate,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._server: asyncio.AbstractServer | None = None
        self._starting = loop.create_task(self._start(backlog, accept, gate))

    async def _start(self, backlog: int, accept: Accept, gate: Gate) -> None:
        self._server = await self._loop.create_server(
            functools.partial(TransportLink, accept, gate=gate),
            sock=self._sock,
            backlog=backlog,
        )

    @property
    def _fileno(self) -> int:
        return self._sock.fileno()

    def accept_queued(self) -> None:
        """Do nothing: the loop's server accepts."""

    def backlog(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        self._starting.cancel()
        if isinstance(self._loop, asyncio.SelectorEventLoop):
            # The server's own close would drop connections accepted in this iteration of the loop.
            self._loop.remove_reader(self._sock)
            self._sock.close()
        elif self._server is not None:
            self._server.close()
        else:
            self._sock.close()
