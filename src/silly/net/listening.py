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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from silly import _control
from silly._control import Opened, Serve
from silly.errors import at_address
from silly.net.addr import Address, TCPAddress, UnixAddress, parse
from silly.net.resolving import getaddrinfo, getaddrinfo_now
from silly.systemd import Activated, activated

__all__ = [
    "Resolved",
    "activated_sockets",
    "backlog_overflows",
    "obtain_sockets",
    "open_sockets",
    "resolve",
]

_PORT_TRIES = 20  # for one free port on both families

Resolved = list[tuple[int, Any]]  # families and addresses, as the `socket` module takes them


def obtain_sockets(
    address: Address, backlog: int, *, reuse_port: bool, mode: int | None, serve: Serve
) -> Opened:
    """Return the sockets for a listener on *address*, wherever they come from.

    *serve* accepts on one socket, until closed: a worker is sometimes lent more
    sockets of the same address.

    Raises:
        OSError: as `open_sockets`.
        ValueError: the path is too long for the supervisor.
    """
    if _control.worker is not None:
        picks = isinstance(address, TCPAddress) and address.port == 0
        kept = _control.worker.open(
            str(_from_where_we_started(address)),
            backlog,
            reuse_port=reuse_port,
            mode=mode,
            picks=picks,
            serve=serve,
        )
        if kept is not None:
            return kept
    if passed := activated_sockets(address):
        return Opened([each.dup() for each in passed])
    return open_sockets(address, backlog, reuse_port=reuse_port, mode=mode)


def _working_directory() -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return os.stat(".")  # noqa: PTH116
    return None


_started_in = _working_directory()


def _from_where_we_started(address: Address) -> Address:
    """Return *address* as the supervisor must be told it: relative paths are those from there."""
    if not isinstance(address, UnixAddress) or address.is_abstract:
        return address
    now = _working_directory()
    if now is None or _started_in is None or os.path.samestat(now, _started_in):
        return address
    return parse(str(UnixAddress(os.path.abspath(address.path))))  # noqa: PTH100


def activated_sockets(address: Address, where: Resolved | None = None) -> list[Activated]:
    """Return those sockets of socket activation that listen on *address*.

    *where* that is, if it was resolved already.

    A socket for every interface fits an address for every interface, also when
    it is an IPv6 socket that takes IPv4 too (systemd makes such ones). A Unix
    socket fits by whatever path its file is reached.

    Raises:
        OSError: the host name cannot be resolved.
    """
    candidates = activated()
    if not candidates:
        return []
    if isinstance(address, UnixAddress):
        return [each for each in candidates if _is_at(each, address.path)]
    wanted = {_without_flow(sockaddr) for _, sockaddr in where or _resolve(address)}
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


_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - to recognize it


def _is_at(each: Activated, path: str) -> bool:
    if each.family != socket.AF_UNIX:
        return False
    passed = os.fsdecode(each.sockaddr)
    with contextlib.suppress(OSError, ValueError):  # there is no file, or it is an abstract name
        return passed == path or Path(passed).samefile(path)
    return False


def _without_flow(sockaddr: Any) -> Any:
    """Return host, port and (IPv6) scope: with another scope it is another address."""
    return sockaddr[:2] + sockaddr[3:]


def _is_dual(each: Activated, port: int) -> bool:
    if each.family != socket.AF_INET6 or each.sockaddr[:2] != ("::", port):
        return False
    with each.dup() as sock:
        return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def open_sockets(
    address: Address,
    backlog: int,
    where: Resolved | None = None,
    *,
    reuse_port: bool,
    mode: int | None = None,
) -> Opened:
    """Return sockets that listen on *address*, one for each interface address that it means.

    *where* that is, if it was resolved already. The file of a Unix socket has the
    permissions *mode*, or those that the umask leaves; releasing what was opened
    removes it, and only it.

    Raises:
        OSError: the operating system refused; of the fitting type, with the
            address in it. No socket stays open.
    """
    if isinstance(address, UnixAddress):
        return _listen_unix(address, backlog, mode)
    tries = _PORT_TRIES if address.port == 0 else 1
    for left in reversed(range(tries)):
        try:
            found = where or _resolve(address)
            return Opened(_listen_tcp(address, backlog, found, reuse_port=reuse_port))
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
                    sock.close()
                    continue  # IPv6 is there, but has no such address
                raise _named(error, address) from None
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
                Path(address.path).chmod(mode)  # nobody can connect before it listens
            sock.listen(backlog)
        except OSError as error:
            raise _named(error, address) from None
        undo.pop_all()
    return opened


def _bind_unix(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_stale(path):
            raise
        with _locked(f"{path}.lock") as is_ours:
            if not (is_ours and _is_stale(path)):
                raise
            Path(path).unlink()
            sock.bind(path)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[bool]:
    """Hold a lock file that is there only meanwhile; give False if another program has it.

    Of several programs that find the same stale socket, only one may remove it: the
    next one would remove what the first has bound.
    """
    import fcntl  # noqa: PLC0415 - Windows has none

    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.path.samestat(os.fstat(lock), os.stat(path))  # noqa: PTH116
    except OSError:  # it is taken, or has been taken and removed since
        is_ours = False
    try:
        yield is_ours
    finally:
        if is_ours:
            Path(path).unlink(missing_ok=True)
        os.close(lock)


def _is_stale(path: str) -> bool:
    """Tell whether *path* is a socket that no process has open.

    Connecting with another type of socket tells: it is refused where nobody has
    the file's socket open, and is a wrong type where somebody has, listening or not.
    """
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                probe.setblocking(False)
                return probe.connect_ex(path) == errno.ECONNREFUSED
    return False


_O_PATH: Final = getattr(os, "O_PATH", 0)  # Linux


class _SocketFile:
    """The file of a Unix socket that this process has bound, by what it is, not by its name.

    Its directory is held open: its name may come to mean another one. So is the
    file, where the system can: its inode's number may be given to another one.
    """

    def __init__(self, path: str) -> None:
        self._held: list[int] = []
        directory, self._name = os.path.split(path)
        self._directory = self._hold(directory or ".", _O_PATH | os.O_DIRECTORY)
        self._status = self._look()
        if _O_PATH:
            self._hold(self._name, _O_PATH | os.O_NOFOLLOW, dir_fd=self._directory)
        self._process = os.getpid()

    def _hold(self, path: str, flags: int, dir_fd: int | None = None) -> int:
        self._held.append(os.open(path, flags, dir_fd=dir_fd))
        return self._held[-1]

    def _look(self) -> os.stat_result:
        return os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)

    def remove(self) -> None:
        """Remove the file, if it is still there and may be removed: one that is left is stale."""
        with contextlib.suppress(OSError):
            if os.getpid() == self._process and os.path.samestat(self._look(), self._status):
                os.unlink(self._name, dir_fd=self._directory)
        self._let_go()

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.pop())

    __del__ = _let_go


# ------------------------------------------------------------------ what is told


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
