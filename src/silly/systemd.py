"""What systemd asks of a service: news of its state, and sockets that it opened beforehand.

Small, without a library: sd_notify(3) is one datagram, sd_listen_fds(3) three
environment variables. Without systemd everything here does nothing.

Both run modes use this by themselves (``silly FILE.py`` and `silly.run`, alone
or as several workers); a program calls `notify` for a ``STATUS=`` of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Final

from silly._logger import Logger

__all__ = ["Activated", "Service", "activated", "notify", "watchdog_period"]

logger = Logger("silly.systemd")

_FIRST: Final = 3  # SD_LISTEN_FDS_START
_PATIENCE: Final = 1.0  # seconds, for a service manager that does not read

VARIABLES: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
)
"""The variables that are meant for one process, and not for those that it starts."""


# ------------------------------------------------------------------------- news


def notify(*assignments: str) -> bool:
    """Tell the service manager, as in ``notify("STATUS=warming up")`` (sd_notify(3)).

    Args:
        *assignments: ``"READY=1"``, ``"STATUS=..."``, and so on; they leave in
            one datagram.

    Returns:
        False if nobody wants to know: ``NOTIFY_SOCKET`` is not set.

    Raises:
        ValueError: an assignment is not of the form ``NAME=value`` on one line.
        OSError: the datagram could not be sent (for a second: `TimeoutError`).
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
        sock.settimeout(_PATIENCE)
        sock.connect(path)
        sock.sendall("\n".join(assignments).encode())
    return True


def watchdog_period() -> float | None:
    """Return the seconds within which systemd wants a ``WATCHDOG=1``, or None.

    From ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` (sd_watchdog_enabled(3)).
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() and int(text) else None


class Service:
    """One service's news, in the order that systemd expects; quiet where nobody listens."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._state = ""
        self._pid = os.getpid()
        self._timer: asyncio.TimerHandle | None = None
        period = watchdog_period()
        if period is not None:
            self._beat(period / 2)

    def ready(self) -> None:
        """Say that it serves; said once, and again after `reloading`."""
        if self._state in {"", "RELOADING=1"}:
            self._tell("READY=1")

    def running(self, *, started: bool, listening: bool) -> None:
        """Of a program alone: it is ready if it has *started*, or is *listening*."""
        if started or listening:
            self.ready()

    def reloading(self) -> None:
        """Say that it starts again without stopping; `ready` ends that."""
        if self._state == "READY=1":
            self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, *, requested: bool = True) -> None:  # noqa: ARG002 - all the same to systemd
        """Say that it drains."""
        if self._state != "STOPPING=1":
            self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """Say, in words, how it does (``systemctl status`` shows it)."""
        self._tell(f"STATUS={text}")

    def ended(self) -> None:
        """Say nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self, period: float) -> None:
        self._timer = self._loop.call_later(period, self._beat, period)
        self._tell("WATCHDOG=1")

    def _tell(self, *assignments: str) -> None:
        if assignments[0].startswith(("READY", "RELOADING", "STOPPING")):
            self._state = assignments[0]
        if os.getpid() != self._pid:  # a forked child is another's business
            return
        try:
            notify(*assignments)
        except OSError as error:
            logger.warning("cannot tell systemd %s: %s", assignments[0], error)


# ---------------------------------------------------------------------- sockets


@dataclass(frozen=True, slots=True)
class Activated:
    """A listening stream socket that was open before this program began."""

    name: str
    """What ``FileDescriptorName=`` calls it, or ``"unknown"``."""
    fd: int
    """Its descriptor; it stays open."""
    family: int
    """Its address family, as in the `socket` module."""
    sockaddr: Any
    """Where it listens, as the `socket` module gives it."""

    def dup(self) -> socket.socket:
        """Return a socket of one's own for it; closing that one closes nothing else."""
        sock = socket.socket(fileno=os.dup(self.fd))
        sock.setblocking(False)
        return sock


_found: list[Activated] | None = None


def activated() -> list[Activated]:
    """Return the listening stream sockets that were passed to this process (sd_listen_fds(3)).

    From ``LISTEN_FDS``, ``LISTEN_PID`` and ``LISTEN_FDNAMES``, which are then
    removed, so that programs started from here do not take them for theirs.
    """
    global _found  # noqa: PLW0603 - a process has them once
    if _found is None:
        pid, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
        _found = []
        if pid == str(os.getpid()) and count.isdigit():
            names = os.environ.get("LISTEN_FDNAMES", "").split(":")
            names += ["unknown"] * (int(count) - len(names))
            for fd, name in zip(range(_FIRST, _FIRST + int(count)), names, strict=False):
                with contextlib.suppress(OSError):  # no descriptor, or no socket
                    os.set_inheritable(fd, False)
                    _found += _listening(fd, name or "unknown")
            for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
                os.environ.pop(variable, None)
    return _found


def _listening(fd: int, name: str) -> list[Activated]:
    sock = socket.socket(fileno=fd)
    try:
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            return [Activated(name, fd, sock.family, sock.getsockname())]
    finally:
        sock.detach()
    return []


def _forked() -> None:
    global _found  # noqa: PLW0603 - they are the parent's
    for each in _found or ():
        os.close(each.fd)
    _found = [] if _found else _found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
