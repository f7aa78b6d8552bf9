"""Listening sockets: from an address to what is bound and listens.

A listener's sockets come from the supervisor in a worker process
(`silly.workers`), else from the service manager if it opened that address
beforehand (`silly.systemd.activated`), else they are opened here. Only the last
are closed for good when the listener closes; the others stay open elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from silly import _control
from silly._control import Opened, Serve
from silly.errors import at_address
from silly.net.addr import Address, TCPAddress, UnixAddress
from silly.net.resolving import getaddrinfo, getaddrinfo_now
from silly.systemd import Activated, activated

__all__ = [
    "Resolved",
    "activated_sockets",
    "backlog_overflows",
    "obtain_sockets",
    "open_sockets",
    "resolve",
    "unlink_path",
]

_PORT_TRIES = 20  # for one free port on both families

Resolved = list[tuple[int, Any]]  # families and addresses, as the `socket` module takes them


def obtain_sockets(address: Address, backlog: int, *, reuse_port: bool, serve: Serve) -> Opened:
    """Return the sockets for a listener on *address*, wherever they come from.

    *serve* accepts on one socket, until closed: a worker is sometimes lent more
    sockets of the same address.

    Raises:
        OSError: as `open_sockets`.
    """
    if _control.worker is not None:
        picks = isinstance(address, TCPAddress) and address.port == 0
        kept = _control.worker.open(
            str(address), backlog, reuse_port=reuse_port, picks=picks, serve=serve
        )
        if kept is not None:
            return kept
    if passed := activated_sockets(address):
        return Opened([each.dup() for each in passed], lambda: None)
    sockets = open_sockets(address, backlog, reuse_port=reuse_port)
    if isinstance(address, UnixAddress):
        path = address.path
        return Opened(sockets, lambda: unlink_path(path))
    return Opened(sockets, lambda: None)


def activated_sockets(address: Address, where: Resolved | None = None) -> list[Activated]:
    """Return those sockets of socket activation that listen on *address*.

    *where* that is, if it was resolved already.

    A socket for every interface fits an address for every interface, also when
    it is an IPv6 socket that takes IPv4 too (systemd makes such ones).

    Raises:
        OSError: the host name cannot be resolved.
    """
    candidates = activated()
    if not candidates:
        return []
    if isinstance(address, UnixAddress):
        return [each for each in candidates if each.sockaddr == address.path]
    wanted = {sockaddr[:2] for _, sockaddr in where or _resolve(address)}
    everywhere = bool(wanted & {(host, address.port) for host in _EVERYWHERE})
    return [
        each
        for each in candidates
        if isinstance(each.sockaddr, tuple)
        and each.sockaddr[1] != 0
        and (each.sockaddr[:2] in wanted or (everywhere and _is_dual(each, address.port)))
    ]


_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - to recognize it


def _is_dual(each: Activated, port: int) -> bool:
    if each.family != socket.AF_INET6 or each.sockaddr[:2] != ("::", port):
        return False
    with each.dup() as sock:
        return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def open_sockets(
    address: Address, backlog: int, where: Resolved | None = None, *, reuse_port: bool
) -> list[socket.socket]:
    """Return sockets that listen on *address*, one for each interface address that it means.

    *where* that is, if it was resolved already.

    Raises:
        OSError: the operating system refused; of the fitting type, with the
            address in it. No socket stays open.
    """
    if isinstance(address, UnixAddress):
        return [_listen_unix(address, backlog)]
    tries = _PORT_TRIES if address.port == 0 else 1
    for left in reversed(range(tries)):
        try:
            return _listen_tcp(address, backlog, where or _resolve(address), reuse_port=reuse_port)
        except OSError as error:
            # Port 0: the port that one family gave may be taken in the other.
            if not (left and error.errno == errno.EADDRINUSE):
                raise
    raise AssertionError("unreachable")


async def resolve(address: TCPAddress) -> Resolved:
    """Return where *address* is, without holding up the event loop.

    Raises:
        OSError: the host name cannot be resolved.
    """
    try:
        found = await getaddrinfo(address.host or None, address.port, **_PASSIVE)
    except OSError as error:
        raise at_address(error, str(address)) from None
    return _distinct(found)


def _resolve(address: TCPAddress) -> Resolved:
    try:
        found = getaddrinfo_now(address.host or None, address.port, **_PASSIVE)
    except OSError as error:
        raise at_address(error, str(address)) from None
    return _distinct(found)


_PASSIVE: Final[dict[str, int]] = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}


def _distinct(found: Iterable[tuple[Any, ...]]) -> Resolved:
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def _listen_tcp(
    address: TCPAddress, backlog: int, wanted: Resolved, *, reuse_port: bool
) -> list[socket.socket]:
    port = address.port
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for family, sockaddr in wanted:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and len(wanted) > 1:
                    continue  # a kernel without IPv6
                raise at_address(error, str(address)) from None
            undo.callback(sock.close)
            try:
                sock.setblocking(False)
                if sys.platform != "win32":  # there it would let two programs share a port
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if reuse_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((sockaddr[0], port, *sockaddr[2:]))
                sock.listen(backlog)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and family == socket.AF_INET6 and sockets:
                    continue  # IPv6 is there, but has no such address
                raise _named(error, address) from None
            port = port or sock.getsockname()[1]
            sockets.append(sock)
        undo.pop_all()
    return sockets


def _listen_unix(address: UnixAddress, backlog: int) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "This system has no Unix sockets", str(address))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.bind(address.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(address.path):
                raise
            unlink_path(address.path)
            sock.bind(address.path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _named(error, address) from None
    return sock


def _is_stale(path: str) -> bool:
    """Tell whether *path* is a socket that a dead program left behind."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                return probe.connect_ex(path) == errno.ECONNREFUSED
    return False


def unlink_path(path: str) -> None:
    """Remove a Unix socket's path, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()


def backlog_overflows() -> int | None:
    """Return how many connections found a full backlog, in this network namespace; None: unknown.

    Linux counts them in ``/proc/net/netstat`` (proc_pid_net(5)).
    """
    try:
        lines = Path("/proc/net/netstat").read_text().splitlines()
    except OSError:
        return None
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names.startswith("TcpExt:"):
            counts = dict(zip(names.split(), values.split(), strict=True))
            return int(counts["ListenOverflows"]) if "ListenOverflows" in counts else None
    return None


def _named(error: OSError, address: Address) -> OSError:
    cause = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.EADDRINUSE:
        if isinstance(address, UnixAddress):
            cause += "; the path exists: stop the program that listens there, or remove the file"
        else:
            cause += (
                "; another program holds the port: stop it, or choose another port "
                "(0 picks a free one)"
            )
    elif error.errno == errno.EACCES and isinstance(address, TCPAddress) and address.port < 1024:
        cause += "; ports below 1024 need privileges: choose a higher one"
    elif error.errno == errno.EADDRNOTAVAIL:
        cause += "; no interface of this machine has it"
    return at_address(error, str(address), cause)
