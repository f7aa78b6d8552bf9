"""Fuzzes reading, on every engine that was built: ``make fuzz [SECONDS=1200]``.

The invariant: however the bytes are split into pieces, and whichever reads are made,
cancelled or refused, each read returns the result that its arguments demand as soon as
the unread bytes determine it; together, the reads return all bytes, once and in order.

Both engines run each script; the portable engine's coverage guides the fuzzer. Readers
run both as handlers do (in a trampoline) and as plain tasks.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Coroutine
from contextvars import Context
from types import SimpleNamespace
from typing import Any, cast

import atheris

with atheris.instrument_imports(include=["silly"]):
    from silly._engine import portable
    from silly._engine.interface import Engine
    from silly.errors import ConcurrentRead, EndOfStream, LimitExceeded
    from silly.net.conn import Conn

engines: list[Engine] = [cast(Engine, portable)]
try:
    from silly._engine import native

    engines.append(cast(Engine, native))
except ImportError:
    print("the native engine was not built: fuzzing the portable one only", file=sys.stderr)

READ_LIMIT = 64
DELIMITERS = (b"\n", b"\r\n", b"ab", b"aab", b"a" * 5, b"abab\n")
LINE = DELIMITERS[0]
PENDING, REFUSED = object(), object()


def conn_class(engine: Engine) -> type[Conn]:
    class FuzzedConn(engine.Stream, Conn):  # type: ignore[misc, name-defined]
        __slots__ = ()

    return FuzzedConn


engines_and_classes = [(engine, conn_class(engine)) for engine in engines]
loop = asyncio.new_event_loop()


class Script:
    """Derives decisions from the fuzzer's bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        if not self:
            return 0
        self._at += 1
        return self._data[self._at - 1] % below

    def piece(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += size
        return bytes(b"ab\r\n"[byte & 3] for byte in piece)


class Wanted:
    """One read, and its expected result."""

    def __init__(self, script: Script) -> None:
        self.until: bytes | int | None = None
        self.limit = READ_LIMIT
        self.is_line = False
        match script.number(8):
            case 0 | 1 | 2:
                self.until = DELIMITERS[script.number(len(DELIMITERS))]
                self.limit = 1 + script.number(24)
            case 3 | 4:
                self.until = script.number(200)
            case 5:
                self.until = LINE
                self.is_line = True
            case _:
                pass

    def start(self, conn: Conn) -> Coroutine[Any, Any, bytes]:
        if self.is_line:
            return next_line(conn)
        if isinstance(self.until, bytes):
            return conn.read(self.until, limit=self.limit)
        return conn.read(self.until)

    def outcome(self, unread: bytes) -> object:
        """Return the expected bytes, or `PENDING`, or `REFUSED`."""
        if self.until is None:
            return unread or PENDING
        if isinstance(self.until, int):
            return unread[: self.until] if len(unread) >= self.until else PENDING
        # The first place where the delimiter is, or may start.
        for start in range(len(unread) + 1):
            end = start + len(self.until)
            if self.until.startswith(unread[start:end]):
                if end > self.limit:
                    return REFUSED
                return unread[:end] if end <= len(unread) else PENDING
        raise AssertionError("not reached: the delimiter may start after the last byte")


async def next_line(conn: Conn) -> bytes:
    return await conn.__anext__()


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def run(engine: Engine, kind: type[Conn], script: Script) -> None:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    made: list[Conn] = []
    closed: list[object] = []

    owner = SimpleNamespace(conn_closed=closed.append)

    def accept(link: Any) -> Any:
        made.append(kind(link, loop, owner, read_limit=READ_LIMIT))  # type: ignore[call-arg]
        return made[0]

    await engine.attach(loop, ours, accept)
    conn = made[0]
    sent = bytearray()
    read = 0
    reader: asyncio.Task[Any] | None = None
    wanted: Wanted | None = None
    try:
        while script:
            what = script.number(4)
            if what < 2:
                piece = script.piece(1 + script.number(40))
                sent += piece
                peer.sendall(piece)
            elif what == 2 and reader is not None:
                reader.cancel()
            elif reader is not None:
                try:
                    await conn.read()
                except ConcurrentRead:
                    pass
                else:
                    raise AssertionError("two tasks read at once")
            else:
                wanted = Wanted(script)
                coroutine: Coroutine[Any, Any, object] = wanted.start(conn)
                if script.number(2):
                    reader = engine.start_task(
                        loop, coroutine, ended, name=None, context=None, ended_context=Context()
                    )
                else:
                    reader = loop.create_task(coroutine)
            await settle()
            if reader is None:
                continue
            assert wanted is not None
            unread = bytes(sent[read:])
            expected = wanted.outcome(unread)
            if not reader.done():
                assert expected is PENDING, (wanted.__dict__, unread, expected)
                continue
            if reader.cancelled():
                assert conn.unread_bytes <= len(unread)
            elif isinstance(reader.exception(), LimitExceeded):
                assert expected is REFUSED, (wanted.__dict__, unread, expected)
            else:
                result = reader.result()
                if wanted.until is None:  # any bytes; more may wait in the kernel
                    assert result and unread.startswith(result), (unread, result)
                else:
                    assert result == expected, (wanted.__dict__, unread, expected)
                read += len(result)
            reader = None
        if reader is not None:
            reader.cancel()
            await settle()
        peer.close()
        while True:
            try:
                piece = await conn.read()
            except EndOfStream:
                break
            assert sent.startswith(piece, read)
            read += len(piece)
        assert read == len(sent)
    finally:
        peer.close()
        conn.abort()
        await settle()
    assert closed == [conn]


def ended(_: asyncio.Task[Any]) -> None:
    pass


def test_one(data: bytes) -> None:
    for engine, kind in engines_and_classes:
        loop.run_until_complete(run(engine, kind, Script(data)))


atheris.Setup(sys.argv, test_one)
atheris.Fuzz()
