"""The admin socket: ask a running program what it is doing.

Open it with ``silly --admin unix:/run/app.sock app.py`` or `serve`. A command is one
line and its answer is one line of JSON, so ``nc -U /run/app.sock`` can be the client:

===================  =============================================================
``stats``            the numbers of `silly.metrics.snapshot`
``connections [N]``  the connections by listener; up to N of each listener (default:
                     100) are listed with peer, age, idle time and where they wait
``tasks [N]``        the tasks other than handlers, and where they wait
``help``             the commands
===================  =============================================================

The answer to anything else is ``{"error": …}``. The admin socket must be a Unix
socket. Only the user that runs the program can connect to it (mode 0600), because
its answers are private.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from silly import metrics
from silly._loop.live import Live
from silly.net import addr as addresses
from silly.net import tcp
from silly.runtime import inspection

__all__ = ["COMMANDS", "answer", "serve"]

COMMANDS: Final = {
    "stats": "counts of each listener, event loop lag, resources of the process",
    "connections": "connections by listener, and where their handlers wait; connections N lists N",
    "tasks": "tasks other than handlers, and where they wait; tasks N lists N",
    "help": "this list",
}
_MAX_COMMAND: Final = 1000  # bytes

Answer = Callable[[str], "Any | Awaitable[Any]"]


def answer(command: str) -> Any:
    """Return the answer to *command* about the running event loop, as JSON values.

    Raises:
        ValueError: the command is unknown or has a wrong argument.
        RuntimeError: no event loop is running.
    """
    word, _, rest = command.strip().partition(" ")
    listed = inspection.LISTED
    if word not in COMMANDS:
        raise ValueError(f"{word!r} is not a command; the commands are: {', '.join(COMMANDS)}")
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
        return {"pid": os.getpid(), "listeners": inspection.connections(loop, listed)}
    if word == "tasks":
        return {"pid": os.getpid(), **inspection.tasks(loop, listed)}
    return COMMANDS


async def _answer_in_turns(command: str) -> Any:
    if command == "stats":
        return {"pid": os.getpid(), **await metrics.snapshot_in_turns()}
    return answer(command)


def serve(addr: str, source: Answer | None = None) -> tcp.Listener:
    """Open the admin socket at *addr*.

    This listener does not keep the program running. It closes last, so that a
    drain can be watched.

    Args:
        addr: the path of a Unix socket, such as ``"unix:/run/app.sock"``.
        source: a function or coroutine function to use instead of `answer`: it
            takes a command and returns the answer. Its `ValueError` is reported to
            the client. A supervisor uses this to answer for its workers.

    Returns:
        The listener; close it to stop.

    Raises:
        ValueError: *addr* is not the path of a Unix socket.
        OSError, TypeError, RuntimeError: as for `silly.net.tcp.listen`.
    """
    address = addresses.parse(addr)
    if not isinstance(address, addresses.UnixAddress) or address.is_abstract:
        raise ValueError(
            f"addr {addr!r} is not the path of a Unix socket: the admin socket has no password, "
            f"so only its file's permissions protect it; use a path such as 'unix:/run/app.sock'"
        )
    ask: Answer = _answer_in_turns if source is None else source

    async def converse(conn: tcp.Conn) -> None:
        async for line in conn:
            command = line.decode("utf-8", "replace").strip()
            if command:
                await conn.write(json.dumps(await ask_source(conn, command)).encode() + b"\n")

    async def ask_source(conn: tcp.Conn, command: str) -> Any:
        try:
            reply = ask(command)
            return await reply if inspect.isawaitable(reply) else reply
        except ValueError as error:
            return {"error": str(error)}
        except Exception as error:
            text = f"cannot answer ({type(error).__name__}): see the log"
            conn.write(json.dumps({"error": text}).encode() + b"\n")
            raise

    listener = tcp.listen(
        addr, converse, mode=0o600, read_limit=_MAX_COMMAND, proxy_protocol=(), tls=False
    )
    Live.of(asyncio.get_running_loop()).add_auxiliary(listener, metrics.measure())
    return listener
