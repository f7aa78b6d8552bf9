"""The native engine and the portable one behave the same when they run the same script.

A script lists what the peer does (send, finish, reset, receive) and what the program does
(read, cancel the read, write, close in each way), with limits and the passing of virtual
time. Unread data stays below `read_limit`, because the exact moment when receiving pauses
is not promised. After each step, the test waits until nothing moves and notes everything
that can be observed. The notes must be equal. The same is done over TLS.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import struct
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silly._engine import portable
from silly.net.conn import StreamConn
from silly.net.tls import kinds
from silly.net.tls.session import Session
from silly.testing import run_virtual
from tests.net.tls import certificates

pytestmark = pytest.mark.no_engine

native = pytest.importorskip("silly._engine.native", reason="the native engine was not built")

Step = tuple[Any, ...]


class PortableConn(portable.Stream, StreamConn):
    __slots__ = ()


class NativeConn(native.Stream, StreamConn):  # type: ignore[misc, name-defined]
    __slots__ = ()


ENGINES: dict[str, tuple[Any, Any]] = {
    "portable": (portable, PortableConn),
    "native": (native, NativeConn),
}

SETTINGS: list[tuple[str, Any]] = [
    ("idle_timeout", 4.0),
    ("idle_timeout", None),
    ("linger", 0.0),
    ("linger", 3.0),
    ("max_unsent", 5),
    ("read_limit", 2000),
]
PROPERTIES = [
    "is_alive",
    "unread_bytes",
    "unsent_bytes",
    "idle_timeout",
    "linger",
    "max_unsent",
    "read_limit",
    "_is_closing",
    "_is_closed",
    "_is_ended",
    "_ended_by",
    "_waits_for",
    "_counts",
    "_client",
]
DEADLINES = (2.0, 3.0, 1e9, 500.0, 3.0)

steps = st.one_of(
    st.tuples(st.just("send"), st.text("ab\n", min_size=1, max_size=12).map(str.encode)),
    st.tuples(st.just("send"), st.text("ab\n", min_size=1, max_size=12).map(str.encode)),
    st.tuples(
        st.just("read"),
        st.sampled_from([b"\n", b"a\n", b"aba", 0, 1, 3, 9, None]),
        st.sampled_from([None, 3, 6]),
    ),
    st.tuples(st.just("read"), st.sampled_from([b"\n", b"aba", 9, None]), st.none()),
    st.tuples(st.just("timed_read"), st.sampled_from([b"\n", 9, None]), st.sampled_from([0, 2])),
    st.tuples(st.just("next")),
    st.tuples(
        st.just("next_batch"),
        st.sampled_from([b"\n", b"aba", 2]),
        st.sampled_from([1, 2, 1024]),
        st.sampled_from([None, 2]),
    ),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 5.0])),
    st.tuples(st.just("set"), st.sampled_from(SETTINGS)),
    st.tuples(st.just("check_deadlines")),
    st.tuples(st.just("limit"), st.sampled_from(["deadline", "memory_budget"])),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("write"), st.sampled_from([b"", b"x", b"yz" * 5, b"w" * 300_000])),
    st.tuples(st.just("take")),
    st.tuples(st.just("finish")),
    st.tuples(st.just("cut")),
    st.tuples(st.just("reset")),
    st.tuples(st.just("close_write")),
    st.tuples(st.just("close")),
    st.tuples(st.just("abort")),
)


def describe(outcome: Any) -> str:
    """Describe the outcome of a call, without the address, which differs."""
    if isinstance(outcome, BaseException):
        text = f"{type(outcome).__name__}: {outcome} {getattr(outcome, 'partial', '')!r}"
        return re.sub(r"127\.0\.0\.1:\d+", "PEER", text)
    return repr(outcome)


def properties(conn: Any, before: tuple[int, int]) -> str:
    """All that can be asked of *conn*, without the addresses, which differ.

    *before* is how many bytes a handshake took on the wire; the length of signatures differs.
    """
    opened_at, last_activity = conn._times
    asked = {name: getattr(conn, name) for name in PROPERTIES}
    asked["_wire_counts"] = [
        now - then for now, then in zip(conn._wire_counts, before, strict=True)
    ]
    text = f"{asked} {describe(conn._loss)} {last_activity - opened_at:.3f} {conn!r}"
    return re.sub(r"127\.0\.0\.1:\d+", "ADDR", text)


patience: ContextVar[bool] = ContextVar("patience")


async def settle() -> None:
    for _ in range(8):
        if patience.get():
            os.sched_yield()  # on a busy machine, another process delivers what was sent
        await asyncio.sleep(0)


class Peer:
    """The other end, over a bare socket; perhaps encrypted."""

    def __init__(self, sock: socket.socket, session: Session | None) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.session = session
        self.received = 0

    def send(self, data: bytes) -> None:
        self.sock.send(data if self.session is None else self.session.seal(data))

    def finish(self) -> None:
        if self.session is not None:
            self.sock.send(self.session.finish())
        self.cut()

    def cut(self) -> None:
        """Finish without saying so in TLS."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def take(self) -> str | None:
        """Receive what has arrived; return how the stream ended, if it has."""
        try:
            while data := self.sock.recv(1 << 20):
                self.received += len(data if self.session is None else self.session.open(data))
        except BlockingIOError:
            return None
        except OSError as error:
            return f"peer: {type(error).__name__}"
        return f"peer: end {None if self.session is None else self.session.is_ended}"

    async def shake(self, conn: Any, session: Any) -> None:
        """Encrypt *conn* with *session*, and this end."""
        assert self.session is not None
        conn._put_filter(session)
        while not (session.is_ready and self.session.is_ready):
            if wire := self.session.pending():
                self.sock.send(wire)
            await settle()
            self.take()
        await settle()


def sessions(engine: str) -> tuple[Any, Session]:
    """The two ends of a connection; the first is of the kind that *engine* has by itself."""
    available = kinds.available()
    kind = available.get("openssl", Session) if engine == "native" else available["ssl"]
    return kind(certificates.server().context, is_server=True), Session(
        certificates.client().context, is_server=False, server_name=certificates.NAME
    )


async def observe(name: str, script: list[Step], *, encrypted: bool) -> list[str]:
    engine, kind = ENGINES[name]
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        sock, _ = server.accept()
    ours.setblocking(False)
    session, peers_session = sessions(name) if encrypted else (None, None)
    peer = Peer(sock, peers_session)
    closed: list[object] = []
    owner = SimpleNamespace(conn_closed=closed.append)
    made: list[Any] = []

    def accept(carrier: Any) -> Any:
        made.append(kind(carrier, loop, owner, read_limit=1000, max_unsent=1_000_000, linger=5.0))
        return made[0]

    await engine.attach(loop, ours, accept)
    conn = made[0]
    if encrypted:
        await peer.shake(conn, session)
    before = conn._wire_counts
    notes: list[str] = []
    readers: list[asyncio.Task[Any]] = []
    batches: dict[Any, Any] = {}

    for what, *values in script:
        try:
            if what == "send":
                peer.send(values[0])
            elif what in ("finish", "cut", "reset"):
                getattr(peer, what)()
        except OSError:  # which one depends on when the kernel delivers a reset
            notes.append("peer: failed")
        try:
            if what == "read":
                limited = {"limit": values[1]} if isinstance(values[0], bytes) else {}
                readers.append(asyncio.ensure_future(conn.read(values[0], **limited)))
            elif what == "timed_read":
                readers.append(asyncio.ensure_future(conn.read(values[0], timeout=values[1])))
            elif what == "wait":
                await asyncio.sleep(values[0])
            elif what == "set":
                setattr(conn, *values[0])
            elif what == "check_deadlines":
                conn._check_deadlines(loop.time(), DEADLINES)
            elif what == "limit":
                conn._end_for_limit(values[0], OSError(errno.EIO, values[0]))
            elif what == "next":
                readers.append(asyncio.ensure_future(_next(conn)))
            elif what == "next_batch":
                until, most, timeout = values
                if (until, most, timeout) not in batches:
                    batches[until, most, timeout] = conn.batches(until, most=most, timeout=timeout)
                readers.append(asyncio.ensure_future(_next(batches[until, most, timeout])))
            elif what == "cancel":
                for reader in readers:
                    reader.cancel()
            elif what == "write":
                conn.write(values[0])
            elif what in ("close_write", "close", "abort"):
                getattr(conn, what)()
        except Exception as error:
            notes.append(describe(error))
        await settle()
        if what == "take" and peer.sock.fileno() >= 0:
            for _ in range(4):
                if ended := peer.take():
                    notes.append(ended)
                await settle()
            notes.append(f"peer has {peer.received}")
        for reader in [reader for reader in readers if reader.done()]:
            readers.remove(reader)
            if reader.cancelled():
                notes.append("cancelled")
            else:
                notes.append(describe(reader.exception() or reader.result()))
        notes.append(
            f"{what}: {len(closed)} closed, {len(readers)} wait; {properties(conn, before)}"
        )
    conn.abort()
    await settle()
    for reader in readers:
        reader.cancel()
        notes.append(describe((await asyncio.gather(reader, return_exceptions=True))[0]))
    peer.sock.close()
    assert closed == [conn]
    return notes


async def _next(items: Any) -> Any:
    try:
        return await items.__anext__()
    except StopAsyncIteration:
        return b"(no more)"


@settings(max_examples=500, deadline=None)
@given(st.lists(steps, max_size=12))
def test_engines_agree_on_every_script(script: list[Step]) -> None:
    check(script, encrypted=False)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=12))
def test_engines_agree_over_tls(script: list[Step]) -> None:
    check(script, encrypted=True)


def check(script: list[Step], *, encrypted: bool) -> None:
    agree(lambda name: observe(name, script, encrypted=encrypted))


def agree(observed: Callable[[str], Coroutine[Any, Any, list[str]]]) -> None:
    """Compare what is *observed* on each engine; again, and patiently, if they differ."""
    for patient in (False, False, True, True, True, True):
        patience.set(patient)
        outcomes = {name: run_virtual(observed(name)) for name in ENGINES}
        if outcomes["native"] == outcomes["portable"]:
            return
    raise AssertionError(outcomes)
