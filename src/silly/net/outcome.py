"""Why a handler ended: with its connection, for a limit, or by a defect of its own."""

from __future__ import annotations

import asyncio

from silly._engine import stream_errors
from silly.errors import LimitExceeded, WriteQueueFull
from silly.net.conn import Conn

__all__ = ["HANDLER_ERROR", "crash_of", "outcome_of"]

HANDLER_ERROR = "handler_error"


def crash_of(error: BaseException, task: asyncio.Task[object] | None = None) -> Exception | None:
    """Return the exception of a handler that has raised *error*, in *task* or in the current one.

    None if it is to go on: the task is cancelled, or the program ends. A cancellation that
    nobody has asked for is an error: of something that the handler awaited.
    """
    if isinstance(error, Exception):
        return error
    if isinstance(error, asyncio.CancelledError):
        task = task or asyncio.current_task()
        if task is None or not task.cancelling():
            crash = RuntimeError("what the handler awaited was cancelled, not the handler")
            crash.__cause__ = error
            return crash
    return None


def outcome_of(conn: Conn, error: BaseException) -> str | None:
    """Return why a handler that raised *error* ended.

    That is None if its own connection ended (as for most handlers), the limit of its
    connection that it exceeded, or ``"handler_error"``. Wrapping is looked through: an
    exception group counts as an end if every member does, any other exception if it or
    its explicit cause does. An error that merely followed the loss, or that is about
    another connection, is a handler error.
    """
    ends: list[BaseException] = []
    try:
        if not _consists_of_ends(conn, error, ends, {}):
            return HANDLER_ERROR
    except Exception:  # noqa: BLE001 - exceptions may have code of their own, or endless chains
        return HANDLER_ERROR
    outcome = None
    for end in ends:
        if isinstance(end, LimitExceeded):
            return "read_limit"
        if isinstance(end, WriteQueueFull):
            outcome = "max_unsent"
    return outcome


def _consists_of_ends(
    conn: Conn, error: BaseException | None, ends: list[BaseException], known: dict[int, bool]
) -> bool:
    """Return whether *error* comes only from the end of *conn*; collect its errors in *ends*."""
    if error is None:
        return False
    if stream_errors.belongs_to(conn, error):
        ends.append(error)
        return True
    if id(error) not in known:
        known[id(error)] = False  # for now: chains may be circular
        known[id(error)] = (
            isinstance(error, BaseExceptionGroup)
            and all(_consists_of_ends(conn, each, ends, known) for each in error.exceptions)
        ) or _consists_of_ends(conn, error.__cause__, ends, known)
    return known[id(error)]
