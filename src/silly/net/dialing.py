"""Connecting sockets: resolve, then race the addresses (Happy Eyeballs, RFC 8305).

The addresses are tried in the resolver's order, alternating between families. When an
attempt fails, or has not succeeded within `STAGGER` seconds, the next one starts; the
first to succeed wins and the others are closed.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Final

from silly._loop.live import INTERNAL_TASK, disown_socket
from silly.errors import at_address
from silly.net.addr import Address, TCPAddress, UnixAddress, format_sockaddr
from silly.net.resolving import getaddrinfo

__all__ = ["dial"]

STAGGER: Final = 0.25  # seconds: the "Connection Attempt Delay" of RFC 8305, section 5

_Target = tuple[int, Any]  # family, sockaddr

_connecting: weakref.WeakSet[socket.socket] = weakref.WeakSet()  # for forked children to close


async def dial(
    loop: asyncio.AbstractEventLoop, address: Address, bind: TCPAddress | None
) -> socket.socket:
    """Return a non-blocking socket that is connected to *address*.

    Raises:
        OSError: every attempt failed: the error of the first address, with a note
            for each attempt. No socket stays open, nor after cancellation.
    """
    if isinstance(address, UnixAddress):
        if not hasattr(socket, "AF_UNIX"):
            raise OSError(errno.EAFNOSUPPORT, "This system has no Unix sockets", str(address))
        return await _attempt(loop, (socket.AF_UNIX, address.path), None, str(address))
    targets = _interleave(await _resolve(address.host or None, address.port, address))
    local: list[_Target] | None = None
    if bind is not None:
        local = await _resolve(bind.host or "0.0.0.0", bind.port, bind)  # noqa: S104
        families = {family for family, _ in local}
        targets = [target for target in targets if target[0] in families]
        if not targets:
            raise OSError(
                errno.EAFNOSUPPORT,
                f"No address of the same family as bind={str(bind)!r}",
                str(address),
            )
    if len(targets) == 1:
        return await _attempt(loop, targets[0], local, str(address))
    return await _race(loop, targets, local, address)


async def _resolve(host: str | None, port: int, address: Address) -> list[_Target]:
    # Without a host: this machine's loopback addresses (getaddrinfo(3)).
    try:
        found = await getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise at_address(error, str(address)) from None
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def _interleave(targets: Sequence[_Target]) -> list[_Target]:
    """Order *targets* so that families alternate, beginning with the first target's."""
    by_family: dict[int, list[_Target]] = {}
    for target in targets:
        by_family.setdefault(target[0], []).append(target)
    rounds = itertools.zip_longest(*by_family.values())
    return [target for turn in rounds for target in turn if target is not None]


async def _attempt(
    loop: asyncio.AbstractEventLoop, target: _Target, local: list[_Target] | None, named: str
) -> socket.socket:
    family, sockaddr = target
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            _connecting.add(sock)
            sock.setblocking(False)
            if local is not None:
                sock.bind(next(local_addr for at, local_addr in local if at == family))
            await _connect(loop, sock, sockaddr)
            # The kernel picked the target port as local port, and the socket connected to
            # itself (RFC 9293, section 3.5, simultaneous open): there is no listener.
            if family != getattr(socket, "AF_UNIX", None) and (
                sock.getsockname()[:2] == sockaddr[:2]
            ):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "")
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else ""
        raise at_address(error, named, cause) from None
    return sock


async def _connect(loop: asyncio.AbstractEventLoop, sock: socket.socket, sockaddr: Any) -> None:
    if sock.family != socket.AF_INET6 or not sockaddr[3]:
        await loop.sock_connect(sock, sockaddr)
        return
    try:  # not loop.sock_connect: uvloop's drops the scope
        sock.connect(sockaddr)
    except BlockingIOError:
        writable = asyncio.Event()
        loop.add_writer(sock, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(sock)
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error)) from None


async def _race(
    loop: asyncio.AbstractEventLoop,
    targets: Sequence[_Target],
    local: list[_Target] | None,
    address: TCPAddress,
) -> socket.socket:
    waiting = list(targets)
    running: dict[asyncio.Task[socket.socket], _Target] = {}
    failed: list[tuple[_Target, OSError]] = []
    try:
        while waiting or running:
            if waiting:
                target = waiting.pop(0)
                attempt = _attempt(loop, target, local, str(address))
                running[loop.create_task(attempt, name=f"{INTERNAL_TASK}connecting")] = target
            done, _ = await asyncio.wait(
                running,
                timeout=STAGGER if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception()
                if error is None:
                    del running[task]
                    return task.result()
                target = running.pop(task)
                if not isinstance(error, OSError):
                    raise error
                failed.append((target, error))
    finally:
        await _stop(running)
    first = next(error for target, error in failed if target == targets[0])
    for (_, sockaddr), error in failed:
        first.add_note(f"tried {format_sockaddr(sockaddr)}: {error.strerror}")
    raise first


async def _stop(running: Iterable[asyncio.Task[socket.socket]]) -> None:
    """Cancel the attempts, and close any socket that was connected meanwhile."""
    for task in running:
        task.cancel()
        task.add_done_callback(_close_connected)
    if tasks := list(running):
        await asyncio.wait(tasks)


def _close_connected(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _forked() -> None:
    for sock in list(_connecting):
        disown_socket(sock)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
