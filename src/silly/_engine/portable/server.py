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
from collections.abc import Coroutine
from typing import Any

from silly._engine.accepting import ACCEPT_BATCH, Accepting
from silly._engine.interface import Accept, Gate, packed_ip
from silly._engine.portable.link import RESET_ON_CLOSE
from silly._engine.portable.socket_link import SocketLink, scratch_buffer
from silly._engine.portable.transport_link import TransportLink, is_uvloop
from silly._loop.live import disown_socket

__all__ = ["LoopServer", "SocketServer"]


class _TakenOver(socket.SocketType):
    """An accepted socket for uvloop, which sets up and closes the descriptor by itself.

    It calls `close` when the number may already be that of another file.
    """

    __slots__ = ()
    close = socket.SocketType.detach  # type: ignore[assignment]


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
        self._kind: type[socket.SocketType] = socket.socket
        self._accept = accept
        self._scratch: memoryview | None = None  # None: the loop's transports are faster
        if isinstance(loop, asyncio.SelectorEventLoop):
            self._scratch = scratch_buffer.of(loop)
            self._kind = socket.SocketType
        elif is_uvloop(loop):
            self._kind = _TakenOver
        self._tried = 0  # accepts since the socket was reported readable
        self._more = select.poll()
        self._more.register(sock, select.POLLIN)
        self._begin(gate)
        self._hold_reserve()
        loop.add_reader(sock, self._on_ready)

    def __del__(self) -> None:
        if self._reserve >= 0:  # its loop was collected, and close() was never called
            os.close(self._reserve)

    def _on_ready(self) -> None:
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
            sock = self._kind(self._family, self._type, self._proto, descriptor)
            if self._kind is not _TakenOver:
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
        if self._scratch is not None:
            self._start(SocketLink(self._loop, sock, sockaddr, client, self._scratch))
        else:
            link = TransportLink(self._accept, sockaddr, client)
            making = self._loop.connect_accepted_socket([link].pop, sock)  # type: ignore[arg-type]
            self._set_up(making, link, sock)
        return 0

    def _start(self, link: SocketLink) -> None:
        try:
            link.start(self._accept)
        except Exception as error:  # noqa: BLE001 - others are accepted
            self._report(error)
        finally:
            if not link.has_stream:
                self._gate.leave(link.remote_ip)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": "a connection could not be set up", "exception": error}
        )

    def _set_up(
        self,
        making: Coroutine[Any, Any, object],
        link: TransportLink,
        sock: socket.SocketType,
        _waiter: asyncio.Future[None] | None = None,
    ) -> None:
        """Step *making*, a coroutine that only awaits futures, without the cost of a task."""
        is_waiting = False
        try:
            making.send(None).add_done_callback(functools.partial(self._set_up, making, link, sock))
            is_waiting = True
        except StopIteration:
            pass
        except BaseException as error:
            socket.SocketType.close(sock)
            if not isinstance(error, Exception):
                raise
            self._report(error)
        finally:
            if not (is_waiting or link.has_stream):
                self._gate.leave(link.remote_ip)

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
        if on:
            self._loop.add_reader(self._sock, self._on_ready)
        else:
            self._loop.remove_reader(self._sock)

    def _resume_later(self, delay: float) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, self._resume_accepting)

    def backlog(self) -> tuple[int, int] | None:
        return _backlog_of(self._sock)

    def close(self) -> None:
        self._stop()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def disown(self) -> None:
        """Close in a forked child, without touching the event loop."""
        self._drop_reserve()  # first: `disown_socket` needs a free descriptor
        disown_socket(self._sock)


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
