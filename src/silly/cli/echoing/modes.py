r"""How each mode answers a connection.

A mode is a coroutine function of the connection, the path for answers
(impairment.py) and the meter. It returns, or raises `EndOfStream`, when the
conversation is over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from silly._engine import stream_errors
from silly.cli.echoing import chargen
from silly.cli.echoing.impairment import Dropped, Impairment, Pace, Path, path
from silly.cli.echoing.log import Log
from silly.cli.echoing.meter import Meter
from silly.errors import EndOfStream, LimitExceeded
from silly.net.tcp import Conn, Limits

__all__ = ["MODES", "Mode", "handler"]

_LEAST_READ: Final = 64  # bytes

Converse = Callable[[Conn, Path, Meter], Awaitable[None]]

_USUAL: Final = Limits()  # for reading frames, which the listener's limits know nothing of


async def lines(conn: Conn, to: Path, meter: Meter) -> None:
    """Send each line back, even an unfinished last one."""
    async for line in conn:
        await to.send(line)
        meter.answers += 1


async def raw(conn: Conn, to: Path, meter: Meter) -> None:
    """Send bytes back as they arrive (RFC 862)."""
    while True:
        await to.send(await conn.read())
        meter.answers += 1


async def frames(conn: Conn, to: Path, meter: Meter) -> None:
    """Send each frame back: a 4-byte big-endian length, then that many bytes."""
    while True:
        start = await conn.read(1)
        with conn.deadline(_USUAL.read_deadline, rate=_USUAL.min_receive_rate):
            head = start + await conn.read(3)
            size = int.from_bytes(head, "big")
            if size > conn.read_limit:
                what = f"a frame of {size} bytes is longer than read_limit, {conn.read_limit}"
                raise stream_errors.mark(conn, LimitExceeded(what, address=conn.remote_addr))
            frame = head + await conn.read(size)
        await to.send(frame)
        meter.answers += 1


async def discard(conn: Conn, _to: Path, _meter: Meter) -> None:
    """Read and discard everything (RFC 863)."""
    while True:
        await conn.read()


async def generate(conn: Conn, to: Path, meter: Meter) -> None:
    """Send the pattern until the client is gone; discard what it sends (RFC 864)."""

    async def drain() -> None:
        # A client that has only finished sending goes on receiving.
        with contextlib.suppress(EndOfStream, OSError):
            await discard(conn, to, meter)

    reading = asyncio.get_running_loop().create_task(drain())
    try:
        while True:
            await to.send(chargen.BLOCK)
            await asyncio.sleep(0)  # one fast client must not keep the loop to itself
    finally:
        reading.cancel()
        await asyncio.wait((reading,))


_HELP: Final = b"""\
Command list:
  help  - Show this help
  time  - Show server time
  quit  - Disconnect
"""


async def commands(conn: Conn, to: Path, meter: Meter) -> None:
    """Answer the commands of the tutorial, until the client quits."""
    await to.put(b"Welcome to Silly Echo Server!\nType 'help' for commands\n> ")
    async for line in conn:
        meter.answers += 1
        match line.strip():
            case b"help":
                await to.send(_HELP + b"> ")
            case b"time":
                await to.send(f"{datetime.now().astimezone():%c}\n> ".encode())
            case b"quit":
                await to.send(b"Goodbye!\n")
                return
            case _:
                await to.send(b"Echo: " + line + b"> ")


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode: how it talks to a client, and what it counts."""

    converse: Converse
    unit: str
    """What `Meter.answers` counts, in the singular."""
    has_datagrams: bool
    """Whether it works over UDP, too."""
    answers: bool = True
    """Whether it sends anything."""


MODES: Final = {
    "lines": Mode(lines, "line", has_datagrams=True),
    "raw": Mode(raw, "piece", has_datagrams=True),
    "frames": Mode(frames, "frame", has_datagrams=False),
    "discard": Mode(discard, "answer", has_datagrams=True, answers=False),
    "chargen": Mode(generate, "answer", has_datagrams=True),
    "commands": Mode(commands, "command", has_datagrams=False),
    "websocket": Mode(discard, "message", has_datagrams=False),  # `messages.service` converses
    "http": Mode(discard, "request", has_datagrams=False),  # `web.service` converses
}


def handler(
    mode: Mode, impairment: Impairment, meter: Meter, log: Log
) -> Callable[[Conn], Awaitable[None]]:
    """Return a handler that serves *mode*, and reports to *meter* and *log*."""

    async def handle(conn: Conn) -> None:
        meter.opened(conn)
        log.opened(conn)
        end: BaseException | None = None
        try:
            if mode.answers:
                await _answer(mode, conn, path(conn, impairment), meter)
            else:
                await _take(conn, impairment)
            conn.close()
            await conn.wait_closed()  # until then, not all bytes are counted
        except BaseException as error:
            end = error
            raise
        finally:
            meter.closed(conn)
            log.closed(conn, end)

    return handle


async def _answer(mode: Mode, conn: Conn, to: Path, meter: Meter) -> None:
    try:
        try:
            await mode.converse(conn, to, meter)
        except EndOfStream:
            pass
        except Dropped:
            meter.dropped += 1
        await to.finish()
    finally:
        await to.stop()


async def _take(conn: Conn, impairment: Impairment) -> None:
    loop = asyncio.get_running_loop()
    pace = Pace(impairment.max_rate, loop.time()) if impairment.max_rate else None
    if pace is not None:
        conn.read_limit = min(conn.read_limit, max(_LEAST_READ, pace.piece))  # in small pieces
    while True:
        try:
            taken = await conn.read()
        except EndOfStream:
            return
        if pace is not None and (wait := pace.wait(len(taken), loop.time())):
            await asyncio.sleep(wait)
