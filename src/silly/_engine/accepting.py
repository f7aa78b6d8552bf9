"""Accepting connections on one listening socket, also when that fails for a while.

Out of descriptors (EMFILE, ENFILE), a server closes one that it holds in reserve, accepts
with it, and resets the accepted connection, so that clients are refused instead of left
waiting. If that fails too, and on any other error (ENOMEM, ENOBUFS, or a socket that someone
else shut down), it leaves connections in the backlog and retries later. Errors that concern
only one connection (accept(2)) are ignored.

As `lifecycle`, this file is compiled a second time for the native engine.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from silly._engine.interface import Gate

__all__ = ["ACCEPT_BATCH", "PER_CONNECTION_ERRORS", "Accepting"]

ACCEPT_BATCH: Final = 32  # connections accepted before other callbacks run
SOMAXCONN: Final = 4096  # the longest backlog (listen(2))
BACK_OFF: Final = 1.0  # seconds
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})

_NAMES_OF_PER_CONNECTION_ERRORS: Final = (
    "ECONNABORTED EINTR EPERM EPROTO ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH "
    "EOPNOTSUPP ENETUNREACH ETIMEDOUT"
)
PER_CONNECTION_ERRORS: Final = frozenset(
    getattr(errno, name) for name in _NAMES_OF_PER_CONNECTION_ERRORS.split() if hasattr(errno, name)
)
"""Errors of accept(2) that concern only one connection; accepting can go on."""


class Accepting:
    """The base of each engine's server."""

    __slots__ = ("_gate", "_reserve", "_timer", "_turned_away")

    _gate: Gate
    _reserve: int  # a descriptor to free when there are no others; -1: none
    _timer: Any  # set while accepting is paused
    _turned_away: bytes | None  # the client of `_turn_away_one`, to be reported to the gate

    def _begin(self, gate: Gate) -> None:
        """Set up everything but the socket."""
        self._gate = gate
        self._reserve = -1
        self._timer = None
        self._turned_away = None

    # ----------------------------------------------------- implemented by each engine

    def _accept_one(self) -> int:
        """Accept a connection and pass it on; return 0, or the error number of accept(2)."""
        raise NotImplementedError

    def _turn_away_one(self) -> int:
        """Accept a connection and reset it; return 0, or the error number of accept(2).

        Sets `_turned_away` to its client.
        """
        raise NotImplementedError

    def _is_listening(self) -> bool:
        raise NotImplementedError

    def _watch_backlog(self, on: bool) -> None:
        """Watch the socket, and call `_accept_some` when connections wait; or stop that."""
        raise NotImplementedError

    def _resume_later(self, delay: float) -> Any:
        """Call `_resume_accepting` after *delay* seconds; return the timer."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------

    def _accept_some(self, most: int) -> int:
        """Accept up to *most* connections; return how many left the backlog."""
        count = 0
        failed = 0  # consecutive failures
        while count < most:
            error = self._accept_one()
            if error == 0:
                count += 1
                failed = 0
            elif error == errno.EAGAIN or not self._is_listening():
                break
            elif error in _OUT_OF_DESCRIPTORS and self._reserve >= 0:
                if not self._shed(error):
                    break
                count += 1
            elif error in PER_CONNECTION_ERRORS and failed + 1 < ACCEPT_BATCH:
                count += 1
                failed += 1
            else:
                self._back_off(error)
                break
        return count

    def _shed(self, error: int) -> bool:
        """Refuse a connection, using the reserve descriptor; return whether there may be more."""
        self._drop_reserve()
        again = self._turn_away_one()
        self._hold_reserve()
        if self._reserve < 0:
            self._back_off(error)
        elif again and again != errno.EAGAIN and again not in PER_CONNECTION_ERRORS:
            self._back_off(again)
        client = self._turned_away
        self._turned_away = None
        if client is not None:
            self._gate.shed(client)
        return self._timer is None and again != errno.EAGAIN

    def _hold_reserve(self) -> None:
        if self._reserve < 0:
            try:
                self._reserve = os.open(os.devnull, os.O_RDONLY)
            except OSError:
                self._reserve = -1

    def _drop_reserve(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _back_off(self, error: int) -> None:
        if self._timer is None:
            self._timer = self._resume_later(BACK_OFF)
            self._watch_backlog(False)
            self._gate.stalled(error, BACK_OFF)

    def _resume_accepting(self) -> None:
        self._timer = None
        self._hold_reserve()
        try:
            self._watch_backlog(True)
        except OSError as error:
            self._back_off(error.errno or errno.EIO)

    def _stop(self) -> None:
        """Stop accepting; release everything but the listening socket."""
        timer = self._timer
        self._timer = None
        if timer is not None:
            timer.cancel()
        self._drop_reserve()

    def accept_queued(self) -> None:
        """Accept the connections that are in the backlog now."""
        self._accept_some(SOMAXCONN)
