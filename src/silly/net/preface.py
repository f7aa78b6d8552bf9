"""Prefaces: steps that a connection must pass before its handler starts.

A preface is a coroutine function that takes the connection. For example, it reads the header
of the PROXY protocol, or waits for a TLS handshake. The prefaces of a listener run in order,
under one deadline (`Limits.handshake_timeout`), before observers and the handler see the
connection. A preface may change the connection's addresses (`StreamConn._set_sockaddrs`);
the gate then charges it to the new client.

A connection whose preface fails is reset, unless the preface closed it (after writing a
reason, say). It is counted in `ListenerStats.refused`, by reason: that of the `PrefaceError`,
``"handshake_timeout"``, or ``"handshake"`` if the connection ended before the preface did. Any
other exception is a defect, counted as ``"preface_error"`` and logged with its traceback.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from silly._engine import stream_errors
from silly._values.units import in_seconds
from silly.net.conn import StreamConn
from silly.net.gate import CUT_OFF, TOO_LATE

__all__ = [
    "Ended",
    "Preface",
    "PrefaceError",
    "Stepped",
    "Steps",
    "refusal_of",
    "run_prefaces",
    "too_late",
]

Preface = Callable[[StreamConn], Awaitable[object]]


class Steps(Protocol):
    """A preface that is running: a task of `run_prefaces`, or what a `Stepped` one has started."""

    def cancel(self) -> object:
        """End it soon."""


# Called at the end of a preface: why it refused the connection (None: it did not, or `cancel` ended
# it), the defect that ended it, and whether `cancel` did.
Ended = Callable[[Steps, "PrefaceError | None", BaseException | None, bool], object]


@runtime_checkable
class Stepped(Protocol):
    """A preface that needs no task if it is the only one."""

    def start(self, conn: StreamConn, ended: Ended, context: contextvars.Context) -> Steps:
        """Start it for *conn*; *ended* is called, in *context*, at its end, but not yet."""


class PrefaceError(Exception):
    """Raised by a preface to refuse the connection.

    Args:
        reason: a word, under which it is counted and logged, such as ``"proxy_header"``.
        text: what was wrong, for the log.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text

    def __str__(self) -> str:
        return self.text


def too_late(timeout: float) -> PrefaceError:
    """Return the reason to refuse a connection whose prefaces took more than *timeout* seconds."""
    return PrefaceError(TOO_LATE, f"not complete within {in_seconds(timeout)}")


async def run_prefaces(conn: StreamConn, prefaces: Sequence[Preface]) -> PrefaceError | None:
    """Run *prefaces* on *conn*; return why one refused it."""
    try:
        for preface in prefaces:
            await preface(conn)
    except Exception as error:
        refused = refusal_of(conn, error)
        if refused is None:
            raise
        return refused
    return None


def refusal_of(conn: StreamConn, error: Exception) -> PrefaceError | None:
    """Return why the *error* of a preface refused *conn*; None if it is a defect."""
    if isinstance(error, PrefaceError):
        # A new one: the frames of this one, and of what led to it, hold the connection and the
        # task, whose result it is: a cycle.
        return PrefaceError(error.reason, error.text)
    if stream_errors.belongs_to(conn, error):
        return PrefaceError(CUT_OFF, str(error))
    return None
