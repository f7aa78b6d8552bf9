"""Listening sockets: from an address to sockets that are bound and listen.

A listener's sockets come from the process's `Source` if it has one (a worker's
supervisor), else from the service manager if it opened that address beforehand
(`silly.systemd.activated`); otherwise they are opened here. Only sockets opened here
are closed for good when the listener closes; the source or the service manager keeps
the others open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from silly.errors import at_address
from silly.net.addr import Address, TCPAddress, UnixAddress
from silly.net.resolving import getaddrinfo, getaddrinfo_now
from silly.systemd import Activated, activated

__all__ = [
    "Opened",
    "Resolved",
    "Serve",
    "Server",
    "Source",
    "activated_sockets",
    "backlog_overflows",
    "explained",
    "has_source",
    "obtain_sockets",
    "open_sockets",
    "resolve",
    "use_source",
]

_PORT_TRIES = 20  # to find a port that is free in both address families

Resolved = list[tuple[int, Any]]  # families and addresses, as the `socket` module takes them


class Server(Protocol):
    """Accepts on one socket until it is closed."""

    def close(self) -> None:
        """Stop accepting and close the socket."""


Serve = Callable[[socket.socket], Server]


@dataclass(frozen=True, slots=True)
class Opened:
    """The sockets of a listener."""

    sockets: list[socket.socket]
    release: Callable[[], None] = lambda: None
    """To be called after the listener has closed them."""


class Source(Protocol):
    """Another process that opens listening sockets for this one, and keeps them open."""

    def open(
        self, address: Address, backlog: int, *, reuse_port: bool, mode: int | None, serve: Serve
    ) -> Opened | None:
        """Return the sockets for a listener on *address*; None to open them elsewhere.

        The arguments are those of `obtain_sockets`.

        Raises:
            OSError: the operating system refused, or the source did not answer.
            ValueError: the path is too long for the source.
        """


_source: Source | None = None


def use_source(source: Source | None) -> None:
    """Ask *source* for the sockets of this process's listeners; None: no longer."""
    global _source  # noqa: PLW0603 - one per process
    _source = source


def has_source() -> bool:
    """Return whether this process is one of several that run the same program."""
    return _source is not None


def obtain_sockets(
    address: Address, backlog: int, *, reuse_port: bool, mode: int | None, serve: Serve
) -> Opened:
    """Return the sockets for a listener on *address*, from whichever source.

    *serve* accepts on one socket until closed: a source may lend this process more sockets
    of the same address later.

    Raises:
        OSError: see `open_sockets`.
        ValueError: see `Source.open`.
    """
    if _source is not None:
        kept = _source.open(address, backlog, reuse_port=reuse_port, mode=mode, serve=serve)
        if kept is not None:
            return kept
    if passed := activated_sockets(address):
        return Opened([each.dup() for each in passed])
    return open_sockets(address, backlog, reuse_port=reuse_port, mode=mode)


def activated_sockets(
    address: Address, resolved: Resolved | None = None, kind: int = socket.SOCK_STREAM
) -> list[Activated]:
    """Return the sockets of socket activation that listen on *address*.

    *resolved* is what *address* resolves to, if that is known already. *kind* is the type of
    the sockets, as in the `socket` module.

    A socket for all interfaces matches an address for all interfaces, even if it is
    an IPv6 socket that accepts IPv4 too (systemd makes those). A Unix socket matches
    any path that leads to its file.

    Raises:
        OSError: the host name cannot be resolved.
    """
    candidates = [each for each in activated() if each.type == kind]
    if not candidates:
        return []
    if isinstance(address, UnixAddress):
        return [each for each in candidates if _is_at(each, address.path)]
    wanted = {_without_flow(sockaddr) for _, sockaddr in resolved or _resolve(address)}
    everywhere = any(sockaddr[0] in _EVERYWHERE for sockaddr in wanted)
    return [
        each
        for each in candidates
        if isinstance(each.sockaddr, tuple)
        and each.sockaddr[1] != 0
        and (
            _without_flow(each.sockaddr) in wanted or (everywhere and _is_dual(each, address.port))
        )
    ]


_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def _is_at(each: Activated, path: str) -> bool:
    if each.family != socket.AF_UNIX:
        return False
    passed = os.fsdecode(each.sockaddr)
    with contextlib.suppress(OSError, ValueError):  # there is no file, or it is an abstract name
        return passed == path or Path(passed).samefile(path)
    return False


def _without_flow(sockaddr: Any) -> Any:
    """Return host, port and (IPv6) scope, which is part of the address."""
    return sockaddr[:2] + sockaddr[3:]


def _is_dual(each: Activated, port: int) -> bool:
    if each.family != socket.AF_INET6 or each.sockaddr[:2] != ("::", port):
        return False
    with each.dup() as sock:
        return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def open_sockets(
    address: Address,
    backlog: int,
    resolved: Resolved | None = None,
    *,
    reuse_port: bool,
    mode: int | None = None,
) -> Opened:
    """Return sockets that listen on *address*, one for each address that it resolves to.

    *resolved* is what *address* resolves to, if that is known already. The file of a
    Unix socket gets the permissions *mode*, or those that the umask leaves; releasing
    the result removes that file.

    Raises:
        OSError: the operating system refused; the error is of the matching subclass
            and names the address. No socket stays open.
    """
    if isinstance(address, UnixAddress):
        return _listen_unix(address, backlog, mode)
    tries = _PORT_TRIES if address.port == 0 else 1
    while True:
        tries -= 1
        try:
            found = resolved or _resolve(address)
            return Opened(_listen_tcp(address, backlog, found, reuse_port=reuse_port))
        except OSError as error:
            # Port 0: the port picked in one family may be taken in the other.
            if not (tries and error.errno == errno.EADDRINUSE):
                raise


async def resolve(address: TCPAddress) -> Resolved:
    """Resolve *address* without blocking the event loop.

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
                if sys.platform != "win32":  # where it would let two programs share a port
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if reuse_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((sockaddr[0], port, *sockaddr[2:]))
                sock.listen(backlog)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and family == socket.AF_INET6 and sockets:
                    sock.close()
                    continue  # IPv6 is available, but this address is not
                raise explained(error, address) from None
            port = port or sock.getsockname()[1]
            sockets.append(sock)
        undo.pop_all()
    return sockets


# ------------------------------------------------------------------ Unix sockets


def _listen_unix(address: UnixAddress, backlog: int, mode: int | None) -> Opened:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "This system has no Unix sockets", str(address))
    with contextlib.ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.setblocking(False)
            _bind_unix(sock, address.path)
            opened = Opened([sock])
            if not address.is_abstract:
                opened = Opened([sock], _SocketFile(address.path).remove)
            undo.callback(opened.release)
            if mode is not None:
                Path(address.path).chmod(mode)  # clients cannot connect before listen()
            sock.listen(backlog)
        except OSError as error:
            raise explained(error, address) from None
        undo.pop_all()
    return opened


def _bind_unix(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_stale(path):
            raise
        with _locked(f"{path}.lock") as has_lock:
            if not (has_lock and _is_stale(path)):
                raise
            Path(path).unlink()
            sock.bind(path)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[bool]:
    """Hold a temporary lock file; yield False if another program holds it.

    If several programs find the same stale socket, only one may remove it: the next
    would remove the socket that the first has just bound.
    """
    import fcntl  # noqa: PLC0415 - Windows has none

    has_lock = False
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # another program holds it, or has just removed it
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            held.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            has_lock = os.path.samestat(os.fstat(lock), os.stat(path))  # noqa: PTH116
        if has_lock:
            held.callback(Path(path).unlink, missing_ok=True)
        yield has_lock


def _is_stale(path: str) -> bool:
    """Return whether *path* is a socket that no process has open.

    A datagram socket can tell without making a connection: connecting it fails with
    ECONNREFUSED if no process has the socket open, with EPROTOTYPE if one does.
    """
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                probe.setblocking(False)
                return probe.connect_ex(path) == errno.ECONNREFUSED
    return False


_O_PATH: Final = getattr(os, "O_PATH", 0)  # Linux


class _SocketFile:
    """The file of a Unix socket that this process has bound, identified by inode, not by name.

    Its directory is kept open because the directory may be renamed. So is the file,
    where the system allows it, because its inode number could be reused.
    """

    def __init__(self, path: str) -> None:
        self._held: list[int] = []
        directory, self._name = os.path.split(path)
        self._directory = self._open(directory or ".", _O_PATH | os.O_DIRECTORY)
        self._status = self._stat()
        if _O_PATH:
            self._open(self._name, _O_PATH | os.O_NOFOLLOW, dir_fd=self._directory)
        self._process = os.getpid()

    def _open(self, path: str, flags: int, dir_fd: int | None = None) -> int:
        self._held.append(os.open(path, flags, dir_fd=dir_fd))
        return self._held[-1]

    def _stat(self) -> os.stat_result:
        return os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)

    def remove(self) -> None:
        """Remove the file, if it is still there and can be removed; otherwise it is left, stale."""
        with contextlib.suppress(OSError):
            if os.getpid() == self._process and os.path.samestat(self._stat(), self._status):
                os.unlink(self._name, dir_fd=self._directory)
        self._close()

    def _close(self) -> None:
        while self._held:
            os.close(self._held.pop())

    __del__ = _close


# ---------------------------------------------------------- statistics and errors


def backlog_overflows() -> int | None:
    """Return how many connections overflowed a backlog in this network namespace; None: unknown.

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


def explained(error: OSError, address: Address) -> OSError:
    """Return *error*, of binding *address*, with what can be done about it."""
    cause = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.EADDRINUSE:
        if isinstance(address, UnixAddress):
            cause += "; the path exists: stop the program that listens there, or remove the file"
        else:
            cause += (
                "; another program uses the port: stop it, or choose another port "
                "(0 picks a free one)"
            )
    elif error.errno == errno.EACCES and isinstance(address, TCPAddress) and address.port < 1024:
        cause += "; ports below 1024 need privileges: choose a higher one"
    elif error.errno == errno.EADDRNOTAVAIL:
        cause += "; no interface of this machine has it"
    return at_address(error, str(address), cause)
