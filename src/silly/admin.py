"""The admin socket: ask a running program what it is doing.

``silly --admin unix:/run/app.sock app.py``, or `serve`. One line is a command,
one line of JSON the answer, so that ``nc -U /run/app.sock`` is all it takes:

===================  =============================================================
``stats``            the numbers of `silly.metrics.snapshot`
``connections [N]``  the connections by listener, N of each (100) one by one: the
                     peer, how old, how long idle, what waits where
``tasks [N]``        the tasks that are no handlers, and where they wait
``help``             the commands
===================  =============================================================

An answer to anything else is ``{"error": …}``. Only a Unix socket can be one,
which only the user that the program runs as can connect to (mode 0600): what it
tells is nobody else's business.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from silly import _inspection, metrics
from silly._live import Live
from silly.net import addr as addresses
from silly.net import tcp

__all__ = ["COMMANDS", "answer", "serve"]

COMMANDS: Final = {
    "stats": "counts of each listener, the loop's lag, what the process uses",
    "connections": "connections by listener, and where their handlers wait; connections N lists N",
    "tasks": "tasks that are no handlers, and where they wait; tasks N lists N",
    "help": "this",
}
_LINE: Final = 1000  # bytes of a command

Answer = Callable[[str], "Any | Awaitable[Any]"]


def answer(command: str) -> Any:
    """Return what a *command* is answered with, as JSON values, of the running loop.

    Raises:
        ValueError: it is no command; the message says what there is.
        RuntimeError: no event loop is running.
    """
    word, _, rest = command.strip().partition(" ")
    listed = _inspection.LISTED
    if word not in COMMANDS:
        raise ValueError(f"{word!r} is not a command; there are: {', '.join(COMMANDS)}")
    if rest:
        if word not in {"connections", "tasks"}:
            raise ValueError(f"{word} takes no argument, not {rest!r}")
        if not (rest.isascii() and rest.isdigit()) or len(rest) > 6:
            raise ValueError(f"{word} takes a number of entries below 1000000, not {rest!r}")
        listed = int(rest)
    loop = asyncio.get_running_loop()
    if word == "stats":
        return {"pid": os.getpid(), **metrics.snapshot()}
    if word == "connections":
        return {"pid": os.getpid(), "listeners": _inspection.connections(loop, listed)}
    if word == "tasks":
        return {"pid": os.getpid(), **_inspection.tasks(loop, listed)}
    return COMMANDS


async def _answer_in_turns(command: str) -> Any:
    if command == "stats":
        return {"pid": os.getpid(), **await metrics.snapshot_in_turns()}
    return answer(command)


def serve(addr: str, source: Answer | None = None) -> tcp.Listener:
    """Open the admin socket at *addr*.

    The program does not stay up for it: it closes last, so that a drain can be
    watched, too.

    Args:
        addr: a Unix socket, as ``"unix:/run/app.sock"``.
        source: a function, or a coroutine function, that is given a command and
            returns what to answer instead of `answer`, such as what the workers
            of a supervisor answer; its `ValueError` becomes an error for the user.

    Returns:
        The listener; close it to stop.

    Raises:
        ValueError: *addr* is not a Unix socket's.
        OSError, TypeError, RuntimeError: as `silly.net.tcp.listen`.
    """
    address = addresses.parse(addr)
    if not isinstance(address, addresses.UnixAddress) or address.is_abstract:
        raise ValueError(
            f"addr {addr!r} is not the path of a Unix socket: the admin socket has no password, "
            f"so only its file's permissions protect it; expected such as 'unix:/run/app.sock'"
        )
    ask: Answer = _answer_in_turns if source is None else source

    async def converse(conn: tcp.Conn) -> None:
        async for line in conn:
            command = line.decode("utf-8", "replace").strip()
            if command:
                await conn.write(json.dumps(await found(conn, command)).encode() + b"\n")

    async def found(conn: tcp.Conn, command: str) -> Any:
        try:
            answered = ask(command)
            return await answered if inspect.isawaitable(answered) else answered
        except ValueError as error:
            return {"error": str(error)}
        except Exception as error:
            what = f"cannot answer ({type(error).__name__}): see the log"
            conn.write(json.dumps({"error": what}).encode() + b"\n")
            raise

    listener = tcp.listen(addr, converse, mode=0o600, read_limit=_LINE)
    Live.of(asyncio.get_running_loop()).add_auxiliary(listener, metrics.measure())
    return listener
