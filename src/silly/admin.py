"""The admin socket: ask a running program what it is doing, and act on it.

Open it with ``silly --admin unix:/run/app.sock app.py`` or `serve`. A command is one
line and its answer is one line of JSON, so ``nc -U /run/app.sock`` can be the client
(`COMMANDS` lists them), and ``silly top unix:/run/app.sock`` shows the numbers live.

The answer to a command that is unknown or cannot be done is ``{"error": …}``. The admin
socket must be a Unix socket. Only the user that runs the program can connect to it (mode
0600): its answers are private, and some commands act.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from silly import health, metrics
from silly._logs.logger import Logger
from silly._loop.live import Live
from silly._values import units
from silly.log import levels, set_level
from silly.net import addr as addresses
from silly.net import tcp
from silly.runtime import inspection, intervention
from silly.text import printable

__all__ = ["ACTIONS", "COMMANDS", "act", "answer", "check", "grace_of", "process_entry", "serve"]

logger = Logger("silly.admin")

COMMANDS: Final = {
    "stats": "counts of each listener, event loop lag, resources of the process",
    "processes": "each process: state, connections, bytes, processor time, memory",
    "connections": "connections by listener, and where their handlers wait; connections N lists N",
    "tasks": "tasks other than handlers, and where they wait; tasks N lists N",
    "health": "whether the program is starting, ready or draining",
    "drain": "stop as after SIGTERM; drain 10s gives handlers at most 10 seconds; drain 0 ends now",
    "close": "close ID, or close PEER: send what is queued, then close; PEER without its port "
    "means all connections of that client",
    "abort": "the same, but reset: what is queued is lost",
    "log-level": "the levels of all loggers; log-level debug sets that of silly, "
    "log-level LOGGER LEVEL that of another",
    "help": "this list",
}
ACTIONS: Final = frozenset({"drain", "close", "abort", "log-level"})
_LISTS: Final = frozenset({"connections", "tasks"})
_MAX_COMMAND: Final = 1000  # bytes
_STARTED: Final = time.monotonic()

Answer = Callable[[str], "Any | Awaitable[Any]"]


def check(command: str) -> tuple[str, str]:
    """Return the word of *command* and its argument.

    Raises:
        ValueError: the command is unknown or has a wrong argument.
    """
    word, _, rest = command.strip().partition(" ")
    rest = rest.strip()
    if word not in COMMANDS:
        raise ValueError(f"{word!r} is not a command; the commands are: {', '.join(COMMANDS)}")
    if rest and word not in ACTIONS | _LISTS:
        raise ValueError(f"{word} takes no argument, not {rest!r}")
    if rest and word in _LISTS and (not (rest.isascii() and rest.isdigit()) or len(rest) > 6):
        raise ValueError(f"{word} takes a number of entries below 1000000, not {rest!r}")
    if word == "drain":
        grace_of(rest)
    elif word == "log-level":
        _level(rest)
    elif word in {"close", "abort"} and not rest:
        raise ValueError(f"{word} takes the id of a connection, or a peer: see connections")
    return word, rest


def answer(command: str) -> Any:
    """Return the answer to *command* about the running event loop, as JSON values.

    The commands that act (`ACTIONS`) are not answered here, but by `act`.

    Raises:
        ValueError: the command is unknown, acts, or has a wrong argument.
        RuntimeError: no event loop is running.
    """
    word, rest = check(command)
    loop = asyncio.get_running_loop()
    listed = int(rest) if word in _LISTS and rest else inspection.LISTED
    if word == "stats":
        return {"pid": os.getpid(), **metrics.snapshot()}
    if word == "processes":
        return [_process(metrics.snapshot())]
    if word == "connections":
        return {"pid": os.getpid(), "listeners": inspection.connections(loop, listed)}
    if word == "tasks":
        return {"pid": os.getpid(), **inspection.tasks(loop, listed)}
    if word == "health":
        return health.current()._asdict()
    if word == "help":
        return COMMANDS
    raise ValueError(f"{word} acts on the program: ask silly.admin.act")


async def act(command: str) -> Any:
    """Do and answer any command; counting many connections does not block the event loop.

    Raises:
        ValueError: the command is unknown, has a wrong argument, or cannot be done.
    """
    word, rest = check(command)
    if word == "stats":
        return {"pid": os.getpid(), **await metrics.snapshot_in_turns()}
    if word == "processes":
        return [_process(await metrics.snapshot_in_turns())]
    if word not in ACTIONS:
        return answer(command)
    if rest or word == "drain":
        logger.warning("on the admin socket: %s", command)
    if word == "drain":
        intervention.drain(asyncio.get_running_loop(), grace_of(rest))
        return {"draining": True}
    if word == "log-level":
        if rest:
            set_level(*_level(rest))
        return levels()
    closed = await intervention.close(rest, abort=word == "abort")
    if not closed:
        raise ValueError(f"no connection has the id or the peer {rest!r}")
    return {"closed": closed}


def grace_of(text: str) -> float | None:
    """Return the argument of ``drain`` in seconds; None without one."""
    return units.duration(text) if text else None


def _level(text: str) -> tuple[str, int]:
    name, _, level = text.rpartition(" ")
    number = logging.getLevelNamesMapping().get(level.upper(), 0)
    if text and not number:
        raise ValueError(f"log-level takes debug, info, warning or error, not {level!r}")
    return name.strip() or "silly", number


def _process(taken: metrics.Snapshot) -> dict[str, Any]:
    age = time.monotonic() - _STARTED
    return process_entry(taken, worker=None, pid=os.getpid(), state=health.current().state, age=age)


def process_entry(
    taken: metrics.Snapshot, *, worker: int | None, pid: int, state: str, age: float
) -> dict[str, Any]:
    """Return an entry of the answer to ``processes``, with numbers from the snapshot *taken*."""
    entry: dict[str, Any] = {"worker": worker, "pid": pid, "state": state, "age": round(age, 3)}
    listeners = taken.get("listeners", {}).values()
    for key in ("connections", "accepted", "bytes_in", "bytes_out"):
        entry[key] = sum(each.get(key) or 0 for each in listeners)
    entry["errors"] = sum(sum(each.get("handler_errors", {}).values()) for each in listeners)
    process = taken.get("process", {})
    for key in ("cpu_seconds", "resident_bytes", "descriptors"):
        entry[key] = process.get(key)
    lag = taken.get("loop", {}).get("lag_seconds", {"buckets": [], "sum": 0.0})
    entry["lag_seconds"] = {"count": sum(lag["buckets"]), "sum": lag["sum"]}
    return entry


def serve(addr: str, source: Answer | None = None) -> tcp.Listener:
    """Open the admin socket at *addr*.

    This listener does not keep the program running. It closes last, so that a
    drain can be watched.

    Args:
        addr: the path of a Unix socket, such as ``"unix:/run/app.sock"``.
        source: a function or coroutine function to use instead of `act`: it
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
    ask: Answer = act if source is None else source

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
            return {"error": printable(str(error))}
        except Exception as error:
            text = f"cannot answer ({type(error).__name__}): see the log"
            conn.write(json.dumps({"error": text}).encode() + b"\n")
            raise

    listener = tcp.listen(
        addr, converse, mode=0o600, read_limit=_MAX_COMMAND, proxy_protocol=(), tls=False
    )
    Live.of(asyncio.get_running_loop()).add_auxiliary(listener, metrics.measure())
    return listener
