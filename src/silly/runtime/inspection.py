"""What a running program is doing: its listeners, connections and tasks, and what they wait for.

The state is collected on request (SIGUSR1, the admin socket); nothing is recorded
before. The results are JSON values, in which text that a peer chose is escaped. To
not block the loop for long, only some connections are listed individually; some
thousands more are counted by the place where they wait, and the rest by number only.

The place where a task waits is found by following its chain of coroutines (``cr_await``
and the like). The place is the last coroutine that belongs neither to this package nor
to the standard library nor to an installed one; the last coroutine of all shows what
the task waits for.
"""

from __future__ import annotations

import asyncio
import os
import sysconfig
import time
import types
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, cast

from silly._engine import engine, stream_errors
from silly._engine.portable import stream as portable
from silly._logs.tracebacks import PACKAGE
from silly._loop.live import INTERNAL_TASK, Live
from silly._values.units import counted, text_of_count
from silly.text import printable

if TYPE_CHECKING:
    from silly.net.conn import StreamConn
    from silly.net.datagrams import Socket
    from silly.net.tcp import Listener

__all__ = [
    "LISTED",
    "connections",
    "conns",
    "id_of",
    "is_program",
    "listeners",
    "place_of",
    "report",
    "tasks",
]

LISTED: Final = 100  # connections of a listener, or tasks, to list individually
_COUNTED: Final = 2_000  # further connections to count by place
_SUMMED: Final = 10_000  # the most connections whose bytes are summed up
_MAX_DEPTH: Final = 500  # coroutines of a task

_LIBRARIES: Final = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")}
)


# ---------------------------------------------------------------- collecting state


def listeners(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """Return the listeners of *loop*: their addresses, state and counts.

    Bytes are None if there are too many connections to sum up.
    """
    found = []
    for listener in _listeners(loop):
        stats = listener.stats if listener.connections <= _SUMMED else None
        found.append(
            {
                "listener": printable(listener.local_addr),
                "addresses": [printable(addr) for addr in listener.local_addrs],
                "accepting": listener.is_accepting,
                "accepted": listener._course.accepted,
                "connections": listener.connections,
                "bytes_in": stats and stats.bytes_in,
                "bytes_out": stats and stats.bytes_out,
            }
        )
    return found


def connections(loop: asyncio.AbstractEventLoop, listed: int = LISTED) -> list[dict[str, Any]]:
    """Return the connections of *loop* by listener (None: made by `connect`).

    Each entry has the ``listener``, the ``total`` number, up to *listed* individual
    ``connections``, the ``others`` (how many more wait ``at`` the same place for the
    same thing) and how many remain ``uncounted``.
    """
    found = []
    for listener in _listeners(loop):
        course = listener._course
        running: dict[Any, StreamConn] = {**course.prefacing, **course.handling}
        with_task = ((conn, task) for task, conn in running.items())
        lingering = ((conn, None) for conn in course.lingering)
        total = len(course.prefacing) + len(course.handling) + len(course.lingering)
        pairs = chain(with_task, lingering)
        found.append(_group(printable(listener.local_addr), total, pairs, listed))
    own = Live.of(loop).conns
    if own:
        found.append(
            _group(None, len(own), ((cast("StreamConn", conn), None) for conn in own), listed)
        )
    return found


def conns(loop: asyncio.AbstractEventLoop) -> list[StreamConn]:
    """Return all connections of *loop*."""
    found = [conn for listener in _listeners(loop) for conn in listener._course.conns()]
    return [*found, *(cast("StreamConn", conn) for conn in Live.of(loop).conns)]


def id_of(conn: StreamConn) -> str:
    """Return what identifies *conn* in a listing: of another one, later, it is different."""
    return _id(conn, conn._times[0])


def has_id(conn: StreamConn, text: str) -> bool:
    """Return whether `id_of` was, or is, *text*: its clock may have ticked since."""
    opened_at, _ = conn._times
    return text in {_id(conn, opened_at - 0.01), _id(conn, opened_at + 0.01)}


def _id(conn: StreamConn, opened_at: float) -> str:
    return f"{zlib.crc32(f'{id(conn)} {round(opened_at)}'.encode()):08x}"


def tasks(loop: asyncio.AbstractEventLoop, listed: int = LISTED) -> dict[str, Any]:
    """Return up to *listed* of the program's tasks on *loop* that are not handlers."""
    handling = [listener._course.handling for listener in _listeners(loop)]
    auxiliary = [cast("Listener", each)._course.handling for each in Live.of(loop).auxiliaries]
    others = [
        task
        for task in asyncio.all_tasks(loop)
        if not task.get_name().startswith(INTERNAL_TASK)
        and not any(task in handlers for handlers in (*handling, *auxiliary))
    ]
    others.sort(key=lambda task: task.get_name())
    return {
        "total": len(others),
        "handlers": sum(map(len, handling)),
        "tasks": [_task(task) for task in others[:listed]],
        "uncounted": max(0, len(others) - listed),
    }


def _listeners(loop: asyncio.AbstractEventLoop) -> list[Listener]:
    found = cast("set[Listener]", Live.of(loop).listeners)
    return sorted(found, key=lambda listener: listener.local_addr)


def _sockets(loop: asyncio.AbstractEventLoop) -> list[Socket]:
    found = cast("set[Socket]", Live.of(loop).sockets)
    return [each for each in found if each.is_bound]


def _group(
    listener: str | None,
    total: int,
    pairs: Iterator[tuple[StreamConn, asyncio.Task[Any] | None]],
    listed: int,
) -> dict[str, Any]:
    now = time.time()
    found = [_connection(conn, task, now) for conn, task in islice(pairs, listed)]
    places = Counter(_waiting(conn, task) for conn, task in islice(pairs, _COUNTED))
    return {
        "listener": listener,
        "total": total,
        "connections": found,
        "others": [
            {"count": count, "at": at, "waits_for": waits_for}
            for (at, waits_for), count in places.most_common()
        ],
        "uncounted": max(0, total - listed - _COUNTED),
    }


def _connection(conn: StreamConn, task: asyncio.Task[Any] | None, now: float) -> dict[str, Any]:
    at, waits_for = _waiting(conn, task)
    opened_at, last_activity = conn._times
    bytes_in, bytes_out = conn._counts
    tls = conn.tls
    return {
        "id": id_of(conn),
        "peer": printable(conn.remote_addr),
        "local": printable(conn.local_addr),
        "tls": tls and tls.version,
        "server_name": tls and tls.server_name and printable(tls.server_name),
        "age": round(max(0.0, now - opened_at), 3),
        "idle": round(max(0.0, now - last_activity), 3),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "unread": conn.unread_bytes,
        "unsent": conn.unsent_bytes,
        "closing": conn._is_closing,
        "at": at,
        "waits_for": waits_for,
    }


def _waiting(conn: StreamConn, task: asyncio.Task[Any] | None) -> tuple[str | None, str | None]:
    if task is None:
        return None, "the close to finish" if conn._is_closing else conn._waits_for
    if not isinstance(task, asyncio.Task):
        return None, conn._waits_for or stream_errors.HANDSHAKE
    return _suspended(task, conn._waits_for)


def _task(task: asyncio.Task[Any]) -> dict[str, Any]:
    at, waits_for = _suspended(task)
    coroutine = task.get_coro()
    name = getattr(coroutine, "__qualname__", None) or repr(coroutine)
    return {
        "name": printable(task.get_name()),
        "coroutine": printable(name),
        "at": at,
        "waits_for": waits_for,
    }


# ------------------------------------------------------------ where a task waits


def _suspended(
    task: asyncio.Task[Any], waits_for: str | None = None
) -> tuple[str | None, str | None]:
    """Return where *task* waits ("app.py:12 in handler"), and for what (*waits_for* if given)."""
    place = last = None
    chain = list(islice(_chain(task.get_coro()), _MAX_DEPTH))
    for link in chain:
        frame = _frame(link)
        if frame is not None:
            last = frame
            if place is None or is_program(frame.f_code.co_filename):
                place = frame
    at = None if place is None else place_of(place)
    if getattr(chain[0], "cr_running", False):
        return at, None
    return at, waits_for or _awaited(chain[-1], last, place) or _future(task)


def _chain(coroutine: Any) -> Iterator[Any]:
    while coroutine is not None:
        yield coroutine
        for attribute in ("cr_await", "gi_yieldfrom", "ag_await"):
            if hasattr(coroutine, attribute):
                coroutine = getattr(coroutine, attribute)
                break
        else:
            return


def _frame(link: Any) -> types.FrameType | None:
    for attribute in ("cr_frame", "gi_frame", "ag_frame"):
        frame = getattr(link, attribute, None)
        if isinstance(frame, types.FrameType):
            return frame
    return None


def is_program(filename: str) -> bool:
    """Return whether *filename* belongs to no library, installed package or this package."""
    return not filename.startswith((PACKAGE, *_LIBRARIES))


def place_of(frame: types.FrameType) -> str:
    """Return where *frame* is: "app.py:12 in handler"."""
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"


def _awaited(link: Any, last: types.FrameType | None, place: types.FrameType | None) -> str | None:
    """Return what the end of a chain waits for; None if it is a bare future."""
    stream = getattr(link, "_stream", None)
    if stream is None and last is not None and last.f_code.co_filename.startswith(_ENGINE):
        stream = last.f_locals.get("self")
    if isinstance(stream, engine.Stream | portable.Stream):
        conn = cast("StreamConn", stream)
        return f"{conn._waits_for} ({printable(conn.remote_addr)})"
    if last is None or last is place:
        return None
    return f"{last.f_globals.get('__name__', '?')}.{last.f_code.co_qualname}"


def _future(task: asyncio.Task[Any]) -> str | None:
    future = getattr(task, "_fut_waiter", None)
    if isinstance(future, asyncio.Task):
        return f"task {printable(future.get_name())}"
    return None if future is None else f"a {type(future).__name__.strip('_')}"


_ENGINE: Final = portable.__file__


# ---------------------------------------------------------------------- as text


def report(loop: asyncio.AbstractEventLoop, running: types.FrameType | None = None) -> str:
    """Return the whole state as text; *running* is the frame that the loop's thread executes."""
    found, others = connections(loop), tasks(loop)
    total = sum(group["total"] for group in found)
    heading = f"silly: process {os.getpid()}, {engine.NAME} engine"
    counts = [
        counted(len(_listeners(loop)), "listener"),
        counted(total, "connection"),
        counted(others["total"], "other task"),
    ]
    lines = [f"{heading}: {', '.join(counts)}"]
    if running is not None:
        lines.append(f"running now: {place_of(running)}")
    groups = {group["listener"]: group for group in found}
    for each in listeners(loop):
        moved = ""
        if each["bytes_in"] is not None:
            bytes_in, bytes_out = (
                counted(each[name], "byte") for name in ("bytes_in", "bytes_out")
            )
            moved = f", {bytes_in} in, {bytes_out} out"
        lines.append(
            f"listener {' '.join(each['addresses'])}: "
            f"{'accepting' if each['accepting'] else 'closing'}, "
            f"{counted(each['connections'], 'connection')}, "
            f"{text_of_count(each['accepted'])} accepted{moved}"
        )
        lines += _group_lines(groups[each["listener"]], "from")
    if None in groups:
        lines.append("outgoing connections:")
        lines += _group_lines(groups[None], "to")
    lines += [
        f"UDP socket {each.local_addr}: {text_of_count(each.stats.received)} received, "
        f"{text_of_count(each.stats.unread)} unread, {text_of_count(each.stats.sent)} sent"
        for each in sorted(_sockets(loop), key=lambda sock: sock.local_addr)
    ]
    if others["total"]:
        lines.append("tasks other than handlers:")
        lines += [
            f"  {each['name']}: {each['coroutine']}, {_place(each)}" for each in others["tasks"]
        ]
    if others["uncounted"]:
        lines.append(f"  and {others['uncounted']} more")
    return "".join(f"{printable(line)}\n" for line in lines)


def _group_lines(group: dict[str, Any], direction: str) -> list[str]:
    lines = [
        f"  {direction} {each['peer']}: {each['age']:.1f} s old, idle {each['idle']:.1f} s, "
        f"{each['unread']} unread, {each['unsent']} unsent; {_place(each)}"
        for each in group["connections"]
    ]
    lines += [f"  and {each['count']} more: {_place(each)}" for each in group["others"]]
    if group["uncounted"]:
        lines.append(f"  and {group['uncounted']} more")
    return lines


def _place(each: dict[str, Any]) -> str:
    if each["at"] is None:
        return f"waits for {each['waits_for']}" if each["waits_for"] else "no task waits"
    return f"at {each['at']}, {'waits for ' + each['waits_for'] if each['waits_for'] else 'runs'}"
