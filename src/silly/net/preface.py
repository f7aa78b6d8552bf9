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

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from silly._engine import stream_errors
from silly.net.conn import StreamConn

__all__ = ["Preface", "PrefaceError", "run_prefaces", "too_late"]

Preface = Callable[[StreamConn], Awaitable[object]]

CUT_OFF: Final = "handshake"


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
    return PrefaceError("handshake_timeout", f"not complete within {timeout:g} seconds")


async def run_prefaces(conn: StreamConn, prefaces: Sequence[Preface]) -> PrefaceError | None:
    """Run *prefaces* on *conn*; return why one refused it."""
    try:
        for preface in prefaces:
            await preface(conn)
    except PrefaceError as error:
        # A new one: the frames of this one, and of what led to it, hold the connection and this
        # task, whose result it is: a cycle.
        return PrefaceError(error.reason, error.text)
    except Exception as error:
        if not stream_errors.belongs_to(conn, error):
            raise
        return PrefaceError(CUT_OFF, str(error))
    return None
