"""From the input to the connection, and from the connection to the output."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from silly._values.extras import install_command
from silly.cli.command import INTERRUPTED, Failure
from silly.cli.connecting.notes import say
from silly.cli.connecting.pieces import Pieces
from silly.cli.connecting.pipe import Sink, Source
from silly.cli.connecting.shaping import CRLF, Shape
from silly.cli.connecting.speaking_http import Hint
from silly.errors import ConnectionClosed, EndOfStream
from silly.net.tcp import Conn

__all__ = ["FAILED", "Session", "on_terminal", "pipe"]

FAILED: Final = 1  # exit code


class Session:
    """How bytes are converted before they are sent or shown, and how the input ends."""

    def __init__(self, shape: Shape, crlf: CRLF | None, *, half_close: bool, hint: Hint) -> None:
        self.shape = shape
        self.hint = hint
        self._crlf = crlf
        self._half_close = half_close

    def send(self, conn: Conn | Pieces, data: bytes) -> Awaitable[None]:
        """Send *data*; awaiting the result waits for room."""
        return conn.write(data if self._crlf is None else self._crlf.feed(data))

    def end_input(self, conn: Conn | Pieces) -> None:
        """Half-close the connection, unless ``--no-half-close`` was given."""
        if self._half_close:
            conn.close_write()


# ------------------------------------------------------------------------- as a pipe


async def pipe(conn: Conn | Pieces, session: Session, *, until_peer_ends: bool) -> int:
    """Send the standard input, write what is received; return the exit code."""
    source, sink = Source(sys.stdin.fileno()), Sink(sys.stdout.fileno())
    lost: OSError | None = None  # why writing the output failed

    async def send() -> None:
        while data := await source.read():
            await session.send(conn, data)
        session.end_input(conn)

    async def show(data: bytes) -> None:
        nonlocal lost
        try:
            await sink.write(data)
        except OSError as error:
            lost = error
            raise

    async def receive() -> None:
        await _receive(conn, session.shape, show)
        sink.close()

    sending, receiving = asyncio.create_task(send()), asyncio.create_task(receive())
    tasks = {sending, receiving}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done() and (until_peer_ends or receiving.exception() is not None):
            sending.cancel()
        await asyncio.wait(tasks)
    finally:
        await _stopped(tasks)
    if lost is not None:
        conn.abort()
        if isinstance(lost, BrokenPipeError):  # the reader has seen enough
            return FAILED
        raise Failure(f"cannot write standard output: {lost.strerror}", FAILED)
    for task in (receiving, sending):
        if not task.cancelled():
            task.result()
    return 0


async def _stopped(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _receive(
    conn: Conn | Pieces,
    shape: Shape,
    show: Callable[[bytes], Awaitable[None]],
    notice: Callable[[bytes], Awaitable[None]] | None = None,
) -> None:
    """Show what is received until the end of the stream; *notice* gets the first of it before.

    Raises OSError or ConnectionClosed if the connection is lost.
    """
    end: Exception | None = None
    while end is None:
        try:
            data = await conn.read()
            if notice is not None:
                await notice(data)
                notice = None
            shaped = shape.feed(data)
        except (EndOfStream, ConnectionClosed, OSError) as error:
            shaped, end = shape.finish(), error
        await show(shaped)
    if not isinstance(end, EndOfStream):
        raise end


# --------------------------------------------------------------------- on a terminal


async def on_terminal(conn: Conn | Pieces, session: Session, *, until_peer_ends: bool) -> int:  # noqa: ARG001
    """Send lines as they are typed, show what is received; return the exit code."""
    try:
        from silly.cli.connecting.prompt import Prompt  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise Failure(
            f"the line mode needs prompt_toolkit: {install_command('cli')} (in a pipe, "
            "such as `cat | silly connect ADDR`, it is not needed)"
        ) from None
    prompt = Prompt()
    left = False

    async def ask() -> None:
        nonlocal left
        while True:
            try:
                line = await prompt.ask()
            except EOFError:
                session.end_input(conn)
                return
            except KeyboardInterrupt:
                left = True
                return
            await session.send(conn, line.encode("utf-8", "surrogateescape") + b"\n")

    async def show(data: bytes) -> None:
        await prompt.show(data.decode())

    async def notice(first: bytes) -> None:
        await prompt.above(lambda: session.hint.notice(first, say))

    asking = asyncio.create_task(ask())
    receiving = asyncio.create_task(_receive(conn, session.shape, show, notice))
    try:
        await asyncio.wait((asking, receiving), return_when=asyncio.FIRST_COMPLETED)
        if left:
            conn.abort()
            return INTERRUPTED
        if asking.done():
            await asyncio.wait((receiving,))
    finally:
        await _stopped({asking, receiving})
        prompt.finish()
    receiving.result()
    if not asking.cancelled():
        asking.result()
    if isinstance(conn, Conn):
        say("Connection closed by the peer")
    return 0
