"""systemd: state notifications, the watchdog, and socket activation.

No library is needed: sd_notify(3) is one datagram, sd_listen_fds(3) three
environment variables. Without systemd, everything here does nothing.

``silly FILE.py`` and `silly.run` use this automatically, with and without
workers. A program can call `notify` to set its own ``STATUS=``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from silly._logs.logger import Logger

__all__ = ["Activated", "Service", "activated", "notify", "watchdog_period"]

logger = Logger("silly.systemd")

_LISTEN_FDS_START: Final = 3
_NOTIFY_TIMEOUT: Final = 1.0  # seconds

VARIABLES: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
)
"""The variables for this process only; child processes must not inherit them."""


# ---------------------------------------------------------------- notifications


def notify(*assignments: str) -> bool:
    """Notify the service manager, as in ``notify("STATUS=warming up")`` (sd_notify(3)).

    Args:
        *assignments: ``"READY=1"``, ``"STATUS=..."`` and so on; all are sent in
            one datagram.

    Returns:
        True if the notification was sent; False if there is no service manager
        (``NOTIFY_SOCKET`` is not set).

    Raises:
        ValueError: an assignment is not of the form ``NAME=value`` on one line.
        TimeoutError: the service manager did not read for a second.
        OSError: the datagram could not be sent.
    """
    for assignment in assignments:
        name, equals, _ = assignment.partition("=")
        if not (name and equals) or "\n" in assignment:
            raise ValueError(f"assignment must be 'NAME=value' on one line, not {assignment!r}")
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    if path.startswith("@"):
        path = "\0" + path[1:]  # unix(7): an abstract name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_NOTIFY_TIMEOUT)
        sock.connect(path)
        sock.sendall("\n".join(assignments).encode())
    return True


def watchdog_period() -> float | None:
    """Return the seconds within which systemd expects a ``WATCHDOG=1``, or None.

    They are read from ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` (sd_watchdog_enabled(3)).
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() and int(text) else None


class Service:
    """Sends the state of a service in the order that systemd expects."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._state = ""
        self._pid = os.getpid()
        self._timer: asyncio.TimerHandle | None = None
        period = watchdog_period()
        if period is not None:
            self._send_heartbeat(period / 2)

    def ready(self) -> None:
        """Report that the service is ready: once, and again after `reloading`."""
        if self._state in {"", "RELOADING=1"}:
            self._notify("READY=1")

    def running(
        self,
        *,
        started: bool,
        listening: bool,
        encrypted: Sequence[str] = (),  # noqa: ARG002 - not for systemd
        datagrams: Sequence[str] = (),  # noqa: ARG002
    ) -> None:
        """Report that a program without workers is ready, if it has *started* or is *listening*."""
        if started or listening:
            self.ready()

    def reloading(self) -> None:
        """Report that the service reloads; `ready` ends the reload."""
        if self._state == "READY=1":
            self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, *, requested: bool = True) -> None:  # noqa: ARG002 - not for systemd
        """Report that the service is stopping."""
        if self._state != "STOPPING=1":
            self._notify("STOPPING=1")

    def status(self, text: str) -> None:
        """Report *text*, which ``systemctl status`` shows."""
        self._notify(f"STATUS={text}")

    def ended(self) -> None:
        """Stop the watchdog heartbeat."""
        if self._timer is not None:
            self._timer.cancel()

    def _send_heartbeat(self, period: float) -> None:
        self._timer = self._loop.call_later(period, self._send_heartbeat, period)
        self._notify("WATCHDOG=1")

    def _notify(self, *assignments: str) -> None:
        if assignments[0].startswith(("READY", "RELOADING", "STOPPING")):
            self._state = assignments[0]
        if os.getpid() != self._pid:  # a forked child does not report for its parent
            return
        try:
            notify(*assignments)
        except OSError as error:
            logger.warning("cannot notify systemd of %s: %s", assignments[0], error)


# ---------------------------------------------------------------------- sockets


@dataclass(frozen=True, slots=True)
class Activated:
    """A socket that systemd passed to this process: a listening one, or one for datagrams."""

    name: str
    """Its name from ``FileDescriptorName=``, or ``"unknown"``."""
    fd: int
    """Its descriptor, which stays open."""
    family: int
    """Its address family, as in the `socket` module."""
    sockaddr: Any
    """The address it is bound to, as in the `socket` module."""
    type: int = socket.SOCK_STREAM
    """`socket.SOCK_STREAM` (``ListenStream=``) or `socket.SOCK_DGRAM` (``ListenDatagram=``)."""

    def dup(self) -> socket.socket:
        """Return a new socket for a duplicate of the descriptor; the caller closes it."""
        sock = socket.socket(fileno=os.dup(self.fd))
        sock.setblocking(False)
        return sock


_found: list[Activated] | None = None


def activated() -> list[Activated]:
    """Return the sockets that were passed to this process (sd_listen_fds(3)).

    They are found with ``LISTEN_FDS``, ``LISTEN_PID`` and ``LISTEN_FDNAMES``, which
    are then removed from the environment, so that child processes do not use them.
    """
    global _found  # noqa: PLW0603 - read once per process
    if _found is None:
        pid, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
        _found = []
        if pid == str(os.getpid()) and count.isdigit():
            names = os.environ.get("LISTEN_FDNAMES", "").split(":")
            names += ["unknown"] * (int(count) - len(names))
            fds = range(_LISTEN_FDS_START, _LISTEN_FDS_START + int(count))
            for fd, name in zip(fds, names, strict=False):
                with contextlib.suppress(OSError):  # not a descriptor, or not a socket
                    os.set_inheritable(fd, False)
                    _found += _usable_socket(fd, name or "unknown")
            for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
                os.environ.pop(variable, None)
    return _found


def _usable_socket(fd: int, name: str) -> list[Activated]:
    sock = socket.socket(fileno=fd)
    try:
        if sock.type == socket.SOCK_DGRAM or (
            sock.type == socket.SOCK_STREAM
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        ):
            return [Activated(name, fd, sock.family, sock.getsockname(), sock.type)]
    finally:
        sock.detach()
    return []


def _forked() -> None:
    global _found  # noqa: PLW0603 - the sockets belong to the parent
    for each in _found or ():
        os.close(each.fd)
    _found = [] if _found else _found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
