"""Random programs on the engine under test: ``make stress [SECONDS=60] [SEED=n]``.

The invariant: whatever a program and its peers do, the interpreter does not crash, and
each peer receives a prefix of what was written to it. Afterwards, no connection is
counted, no descriptor is open, and a new connection works.

A program consists of one or two listeners, handlers, clients and bare sockets in one
process. Its connections are plain ones, or encrypted ones, or are encrypted at some moment
(`start_tls`; then, an end may receive what is not plaintext, and bytes are not checked). All of
them follow scripts that depend only on the seed. runner.py runs them.

``make stress`` builds the native engine with AddressSanitizer. The tests run a few
programs without it, on each engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import dataclasses
import functools
import os
import pickle
import random
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, cast

import runner
from runner import (
    ANY,
    EXPECTED,
    NATIVE,
    ON_PURPOSE,
    PATIENCE,
    RAISED,
    SHORT,
    STOPS,
    BaseBoom,
    Boom,
    Failure,
    Op,
    main,
    new_loop,
    pick,
    print_nothing,
    run_world,
    set_faults,
    with_leaks,
)

import silly
from silly.errors import SillyError
from silly.net import tcp, tls
from silly.net.tcp import Conn, Limits, Listener

KINDS: Final = ("plain", "tls", "start_tls")
EAGER: Final = getattr(asyncio, "eager_task_factory", None)


# --------------------------------------------------------------------- the data

LENGTH: Final = 4 << 20  # bytes that one end writes, at most


def _make_data(lines: int) -> bytes:
    """Return random bytes with about *lines* lines per MiB; any few of them are unique."""
    rng = random.Random(lines)
    often = lines >> 12  # of 256 byte values, how many become newlines
    table = bytes(10 if byte < often else 13 if byte == 10 else byte for byte in range(256))
    data = bytearray(rng.randbytes(LENGTH).translate(table))
    if not often:
        for _ in range(lines * (LENGTH >> 20)):
            data[rng.randrange(LENGTH)] = 10
    return bytes(data) * 2


_data: dict[int, bytes] = {}


def data_with_lines(lines: int) -> bytes:
    if lines not in _data:
        _data[lines] = _make_data(lines)
    return _data[lines]


@dataclass(eq=False)
class End:
    """One end of a connection: the bytes that it wrote and received."""

    name: str
    stream: bytes
    offset: int
    sent: int = 0
    got: bytearray = field(default_factory=bytearray)

    def next(self, size: int) -> bytes:
        start = self.offset + self.sent
        return self.stream[start : start + min(size, LENGTH - self.sent)]

    def wrote(self, data: bytes) -> bool:
        """Return whether *data* is a prefix of what this end wrote."""
        return self.stream.startswith(data, self.offset, self.offset + self.sent)


# --------------------------------------------------------------------- programs

RECEIVE: Final = 131_072  # bytes per receive (65,536 in the portable engine)
HEADROOM: Final = 16_384  # at most this many unread bytes are moved in front of the next receive
SIZES: Final = (
    *(0, 1, 2, 10, 100, 1000, 4096),
    *(HEADROOM - 1, HEADROOM, HEADROOM + 1),
    *(65_535, 65_536, 65_537, RECEIVE - 1, RECEIVE, RECEIVE + 1),
    *(200_000, 1_000_000, 3_000_000),
)
FEW: Final = (0, 1, 2, 5, 100, 4096, 20_000)
COUNTS: Final = (0, 1, 2, 3, 100, 4096, 16_383, 20_000, 131_072, 300_000)
MOMENTS: Final = (0, 0, 0.0, 0.001, 0.003)  # seconds
READS: Final = (
    *((None, None, t) for t in (None, 0, 0.001, 0.02)),
    *((count, None, t) for count in COUNTS for t in (None, 0.01)),
    *((b"\n", limit, t) for limit in (None, 1, 1000, 1 << 24, 1 << 24) for t in (None, 0.01)),
    *((delimiter, 1 << 24, None) for delimiter in (b"\n", b"\n", b"\r\n", b"\0\n\0")),
)

# Each operation: its weight, and the values to choose from.
PLAIN: Final[dict[str, tuple[float, tuple[Any, ...]]]] = {
    "write": (8, (*FEW, *FEW, *SIZES)),
    "write_pieces": (2, (0, 1, 3, 50)),
    "close": (1.5, (0,)),
    "abort": (1, (0,)),
    "close_write": (1, (0,)),
    "read_limit": (1, (1, 100, 4096, 65_536, 1 << 20, 2**63, 2**64)),
    "max_unsent": (0.5, (1, 1000, 100_000, 1 << 24)),
    "linger": (0.5, (0, 0.001, 0.05, 5)),
    "idle_timeout": (0.5, (None, 0.001, 0.02, 5.0)),
    "cancel": (1.5, (0,)),
    "collect": (0.3, (0, 1, 2)),
    "look": (1, (0,)),
    "burst": (3, tuple((size, every) for size in SIZES[1:] for every in (1, 2, 3, 7))),
    "reset": (0.7, (0,)),
    "finish": (0.7, (0,)),
    "receive": (2, (1, 100_000, 1 << 20)),
    "connect": (1, (1, 2, 5)),
    "client": (1, (1, 2)),
    "read_other": (0.7, READS),
    "relisten": (0.3, (0, 0.01)),
    "accept_queued": (0.2, (0,)),
    "when_done": (0.5, (0,)),
    "later": (0.7, MOMENTS),
}
AWAITED: Final[dict[str, tuple[float, tuple[Any, ...]]]] = {
    "read": (20, READS),
    "lines": (4, (1, 2, 10)),
    "batches": (4, tuple((until, most) for until in (b"\n", 1, 1000) for most in (1, 2, 1024))),
    "write_and_wait": (6, (*FEW, *SIZES)),
    "wait_for_read": (2, SHORT),
    "timeout_read": (2, SHORT),
    "write_in_task": (1, FEW),
    "sleep": (3, MOMENTS),
    "group": (0.7, READS),
    "shared_lines": (0.7, SHORT),
    "shared_read": (0.7, SHORT),
    "many_reads": (0.7, (1, 2, 10, 1500)),
    "thread": (0.2, (0, 0.001)),
    "wait_closed": (0.5, SHORT),
    "read_after_cancel": (1, READS),
}


@dataclass
class Script:
    """The operations of a handler or a client."""

    ops: list[Op]
    tolerant: bool  # ignores the connection's errors
    stubborn: bool  # ignores its first cancellation


@dataclass
class Program:
    seed: int
    loop: str = "plain"  # or nested, debug
    tasks: str = "plain"  # or eager, python, raising
    handler: str = "coroutine"  # or function, future, nonsense
    raises: tuple[str, ...] = ()
    lines: int = 1000  # per MiB
    addresses: tuple[str, ...] = ("tcp",)
    busy_poll: float = 0.0
    limits: dict[str, Any] = field(default_factory=dict)
    observer: list[Op] | None = None  # one operation for each call
    peers: int = 3  # bare sockets at the start
    handlers: list[Script] = field(default_factory=list)
    clients: list[Script] = field(default_factory=list)
    steps: list[tuple[list[Op], float]] = field(default_factory=list)
    faults: int = 0  # of 1000 system calls, how many fail
    threads: bool = False
    forks: bool = False
    misuse: bool = False
    abandoned: bool = False  # the loop is closed without cleaning up
    in_thread: bool = False
    inside: bool = False  # a loop that serves connections while it waits
    kind: str = "plain"  # of its connections

    def __str__(self) -> str:
        lines = [f"program {self.seed} on {silly.engine()}, Python {sys.version.split()[0]}"]
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value != each.default and each.name != "seed":
                if isinstance(value, list):
                    lines += [f"  {each.name}:", *(f"    {item}" for item in value)]
                else:
                    lines.append(f"  {each.name}: {value}")
        return "\n".join(lines)


def make_program(seed: int, kind: str | None = None) -> Program:
    """Return the program of *seed*, which is always the same; of this *kind* or of any."""
    rng = random.Random(seed)
    often = rng.random
    program = Program(seed)
    program.loop = rng.choice(("plain", "plain", "nested", "debug"))
    program.tasks = rng.choice(("plain", "plain", "plain", "eager", "eager", "python", "raising"))
    program.handler = rng.choice(
        ("coroutine",) * 5 + ("function", "function", "future", "nonsense")
    )
    program.raises = tuple(rng.sample(list(RAISED), rng.choice((0, 0, 1, 2, 4))))
    program.lines = rng.choice((8, 100, 1000, 10_000, 200_000))
    program.addresses = rng.choice((("tcp",), ("unix",), ("tcp", "unix")))
    program.busy_poll = rng.choice((0.0, 0.0, 0.001, 1.0))
    program.limits = {
        "read_limit": rng.choice((1, 1000, 4096, 65_536, 1 << 20, 1 << 24)),
        "max_unsent": rng.choice((1, 1000, 1 << 20, 1 << 24)),
        "linger": rng.choice((0, 0.01, 1.0)),
        "idle_timeout": rng.choice((None, 0.02, 5.0)),
        "first_byte_timeout": rng.choice((None, 0.02)),
        "read_deadline": rng.choice((None, None, 0.03)),
        "min_send_rate": rng.choice((None, 1e6)),
        "send_window": 0.03,
        "max_connections": rng.choice((None, None, 8)),
    }
    program.faults = rng.choice((0, 0, 0, 10, 100))
    program.threads = often() < 0.25
    program.misuse = often() < 0.15 and NATIVE
    program.abandoned = often() < 0.1
    program.in_thread = often() < 0.1
    program.forks = often() < 0.1 and not program.threads and not program.in_thread and NATIVE
    program.peers = rng.choice((0, 2, 6, 20, 40))
    plain, awaited = dict(PLAIN), dict(AWAITED)
    for name in rng.sample(sorted(plain), 8):  # each program has its own preferences
        plain[name] = plain[name][0] * rng.choice((0, 0, 3, 10)), plain[name][1]
    for name in rng.sample(sorted(awaited), 4):
        awaited[name] = awaited[name][0] * rng.choice((0, 0, 3, 10)), awaited[name][1]
    if program.raises:
        plain["raise"] = rng.choice((0.5, 2, 5)), program.raises
    if program.loop == "nested":
        plain["nest"] = rng.choice((1, 5)), (1, 2, 5)
    if program.threads:
        plain["thread_in_context"] = rng.choice((1, 5)), (0.001, 0.01)
    if program.forks:
        plain["fork"] = 0.3, (0,)
    if program.misuse:
        plain["misuse"] = 10, tuple(range(200))

    def script(most: int) -> Script:
        plainly = rng.choice((0.1, 0.3, 0.6))
        ops = [
            pick(rng, plain if often() < plainly else awaited)
            for _ in range(rng.randrange(1, most))
        ]
        return Script(ops, tolerant=often() < 0.8, stubborn=often() < 0.2)

    program.handlers = [script(rng.choice((4, 10, 40))) for _ in range(rng.randrange(1, 6))]
    program.clients = [script(10) for _ in range(rng.randrange(1, 4))]
    if often() < 0.3:
        program.observer = [pick(rng, plain) for _ in range(rng.randrange(1, 6))]
    # The director, which runs the steps, must not end the program.
    others = ("raise", "nest", "misuse", "thread_in_context")
    director = {name: plain[name] for name in plain if name not in others}
    for name in ("connect", "client", "burst", "receive"):
        director[name] = director[name][0] + 4, director[name][1]
    for _ in range(rng.choice((5, 20, 40))):
        ops = [pick(rng, director) for _ in range(rng.choice((1, 3, 12)))]
        program.steps.append((ops, rng.choice(MOMENTS)))
    if often() < 0.2:
        fill_buffers(program, rng)
    program.inside = often() < 0.6
    program.kind = kind or rng.choice((*KINDS, "plain"))
    if shutil.which("openssl") is None:
        program.kind = "plain"
    if program.kind != "plain":
        encrypt(program, rng)
    return program


def encrypt(program: Program, rng: random.Random) -> None:
    """Change *program* for its kind: less is done by bare sockets, and more by clients."""
    program.limits["handshake_timeout"] = rng.choice((0.005, 0.05, 1.0))
    program.limits["max_handshakes_per_client"] = rng.choice((None, 1, 3))
    for ops, _ in program.steps:
        if rng.random() < 0.5:
            ops.append(("client", 0, rng.choice((1, 5))))
    if program.kind == "start_tls":
        first = rng.random() < 0.7
        for script in (*program.handlers, *program.clients):
            moments = [0] if first else [rng.randrange(len(script.ops) + 1)]
            if rng.random() < 0.2:
                moments.append(rng.randrange(len(script.ops) + 1))
            for moment in moments:
                script.ops.insert(moment, ("start_tls", 0, rng.choice((*SHORT, 1.0))))


def fill_buffers(program: Program, rng: random.Random) -> None:
    """Make *program* fill all buffers while handlers stop the loop, or run it."""
    stop = rng.choice(("SystemExit", "KeyboardInterrupt", "BaseBoom", "Boom"))
    leave: tuple[Op, ...] = (("raise", 0, stop),)
    if program.loop == "nested":
        leave = (*leave, ("nest", 0, 1), ("nest", 0, 2))
    reads = ((b"\n", 1 << 24, None), (HEADROOM + 1, None, None), (HEADROOM + 2, None, None))
    program.addresses = ("unix",)
    program.peers, program.lines, program.raises = rng.randrange(10, 50), 8, (stop,)
    program.busy_poll = rng.choice((0.0, 1.0, 1.0))
    program.limits = {"read_limit": 1 << 24}
    program.handlers = []
    for _ in range(4):
        ops: list[Op] = [("read", 0, rng.choice(reads)) for _ in range(12)]
        ops.insert(rng.randrange(1, 6), rng.choice(leave))
        program.handlers.append(Script(ops, tolerant=True, stubborn=rng.random() < 0.5))
    program.steps = []
    for _ in range(8):
        few, many = rng.choice((1, 1, 2)), rng.choice((RECEIVE - 1, RECEIVE, 2 * RECEIVE))
        first: list[Op] = [("burst", 0, (HEADROOM, 1))]
        then: list[Op] = [
            ("burst", 0, (few, rng.choice((1, 2, 3, 7)))),
            ("burst", 0, (many, rng.choice((2, 3, 7)))),
        ]
        pause = rng.choice((0, 0.003, 0.003))
        program.steps += [(first, 0.003), (then, pause)]


# ---------------------------------------------------------------------------- TLS


@functools.cache
def certificate() -> tls.Server:
    """A server's certificate, made by the command openssl."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = f"{folder}/cert", f"{folder}/key"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"),
                *("-keyout", key, "-out", cert),
            ],
            env={**os.environ, "LD_PRELOAD": ""},
            check=True,
            capture_output=True,
        )
        return tls.Server(cert, key)


CLIENT: Final = tls.Client(verify=False)


@functools.cache
def client_hello() -> bytes:
    """The first message of a client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


# ----------------------------------------------------------------- running programs


class World(runner.World):
    """A running program, and the objects that it created."""

    def __init__(self, program: Program, loop: asyncio.AbstractEventLoop, folder: str) -> None:
        super().__init__(program, loop)
        self.rng = random.Random(program.seed)
        self.folder = folder
        self.stream = data_with_lines(program.lines)
        self.ends: list[End] = []
        self.conns: list[Conn] = []
        self.end_of: dict[Conn, End] = {}
        self.peers: list[tuple[socket.socket, End]] = []
        self.threads: list[threading.Thread] = []
        self.listeners: list[Listener] = []
        self.old: list[Listener] = []
        self.served = self.callbacks = self.opened = 0

    # ---------------------------------------------------------------- objects

    def end(self, name: str) -> End:
        offset = (self.program.seed + len(self.ends)) * 20_011 % LENGTH  # different for each end
        end = End(f"{name} {len(self.ends)}", self.stream, offset)
        self.ends.append(end)
        return end

    def adopt(self, conn: Conn, name: str) -> End:
        end = self.end_of[conn] = self.end(name)
        self.conns.append(conn)
        return end

    def pick(self, conn: Conn | None, which: int) -> Conn | None:
        if which == 0 and conn is not None:
            return conn
        return self.conns[which % len(self.conns)] if self.conns else conn

    def listen(self, kind: str) -> Listener:
        self.opened += 1
        addr = ANY if kind == "tcp" else f"unix:{self.folder}/{self.opened}"
        return tcp.listen(
            addr,
            self.handle,
            limits=Limits(**self.program.limits),
            busy_poll=self.program.busy_poll,
            tls=certificate() if self.program.kind == "tls" else None,
            observer=_Observer(self) if self.program.observer else None,
        )

    def on_loop_error(self, _loop: object, context: dict[str, Any]) -> None:
        """Check what is reported to the loop's exception handler."""
        error = context.get("exception")
        if error is None or isinstance(error, (*ON_PURPOSE, *STOPS, OSError, SillyError)):
            return
        if isinstance(error, asyncio.CancelledError) and "CancelledError" in self.program.raises:
            return
        if (self.program.threads or self.program.loop == "nested") and "enter" in str(error):
            return  # asyncio itself loses callbacks if their context is in use
        if "never retrieved" in context["message"]:
            return
        self.problems.append(f"to the loop's exception handler: {context!r}")

    # ----------------------------------------------------------------- handlers

    def handle(self, conn: Conn) -> Awaitable[object]:
        kind = self.program.handler
        self.served += 1
        script = self.program.handlers[self.served % len(self.program.handlers)]
        self.adopt(conn, "handler")
        if kind == "function" and script.ops[0][0] in _PLAIN_OPS:
            self.do(conn, script.ops[0])
        if kind == "nonsense" and self.served % 3 == 0:
            return 42  # type: ignore[return-value]
        running = self.follow(conn, script)
        if kind == "future":
            return self.loop.create_task(running)
        return running

    async def follow(self, conn: Conn, script: Script) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.keep(task)
        stubborn = script.stubborn
        for op in script.ops:
            if self.over:
                break
            try:
                if op[0] in _PLAIN_OPS:
                    self.do(conn, op)
                else:
                    await self.perform(conn, op)
            except EXPECTED:
                if not script.tolerant:
                    raise
            except asyncio.CancelledError:
                if not stubborn or self.over:
                    raise
                stubborn = False

    async def client(self, script: Script, addr: str) -> None:
        try:
            encryption = CLIENT if self.program.kind == "tls" else False
            conn = await tcp.connect(addr, timeout=1, tls=encryption)
        except OSError:
            return
        self.adopt(conn, "client")
        try:
            await self.follow(conn, script)
        finally:
            if script.tolerant:
                conn.close()
            else:
                conn.abort()

    # --------------------------------------------------- immediate operations

    def do(self, conn: Conn | None, op: Op) -> None:
        name, which, value = op
        method = getattr(self, f"do_{name}")
        with contextlib.suppress(*EXPECTED):
            method(self.pick(conn, which), value)

    def do_write(self, conn: Conn | None, size: int) -> None:
        if conn is not None:
            self.write(conn, size)

    def write(self, conn: Conn, size: int) -> Awaitable[None]:
        end = self.end_of[conn]
        data = end.next(size)
        written = conn.write(data)
        end.sent += len(data)
        return written

    def do_write_pieces(self, conn: Conn | None, count: int) -> None:
        if conn is not None:
            end = self.end_of[conn]
            data = end.next(count * 100)
            pieces = [data[at : at + 100] for at in range(0, len(data), 100)]
            conn.write([bytearray(pieces[0]), *pieces[1:]] if pieces else [])
            end.sent += len(data)

    def do_close(self, conn: Conn | None, _: int) -> None:
        if conn is not None:
            conn.close()

    def do_abort(self, conn: Conn | None, _: int) -> None:
        if conn is not None:
            conn.abort()

    def do_close_write(self, conn: Conn | None, _: int) -> None:
        if conn is not None:
            conn.close_write()

    def do_read_limit(self, conn: Conn | None, value: int) -> None:
        if conn is not None:
            conn.read_limit = value

    def do_max_unsent(self, conn: Conn | None, value: int) -> None:
        if conn is not None:
            conn.max_unsent = value

    def do_linger(self, conn: Conn | None, value: float) -> None:
        if conn is not None:
            conn.linger = value

    def do_idle_timeout(self, conn: Conn | None, value: float | None) -> None:
        if conn is not None:
            conn.idle_timeout = value

    def do_look(self, conn: Conn | None, _: int) -> None:
        if conn is not None:
            repr(conn)
            seen = (
                conn.stats,
                conn.unsent_bytes,
                conn.unread_bytes,
                conn.is_alive,
                cast(Any, conn)._waits_for,
            )
            assert seen
        for listener in self.listeners:
            repr(listener)
            assert listener.stats

    def do_read_other(self, conn: Conn | None, wanted: tuple[Any, Any, Any]) -> None:
        if conn is not None and len(self.tasks) < 500:
            self.spawn(self.read(conn, *wanted))

    def do_relisten(self, _conn: Conn | None, grace: float) -> None:
        if len(self.old) < 5 and not self.over and self.listeners:
            old = self.listeners[len(self.old) % len(self.listeners)]
            kind = "unix" if old.local_addr.startswith("unix") else "tcp"
            try:
                old.close(grace)
            finally:
                self.old.append(old)
                if old in self.listeners:  # what accepts its backlog may have replaced it
                    self.listeners.remove(old)
                self.listeners.append(self.listen(kind))

    def do_accept_queued(self, _conn: Conn | None, _: int) -> None:
        for listener in self.listeners:
            for server in listener._servers:
                server.accept_queued()

    def do_when_done(self, conn: Conn | None, _: int) -> None:
        """Register an operation to be done when a task is done."""
        if self.tasks:
            task = self.tasks[self.counter % len(self.tasks)]
            task.add_done_callback(lambda _task: self.do_one(conn))

    def do_later(self, conn: Conn | None, seconds: float) -> None:
        if seconds:
            self.loop.call_later(seconds, self.do_one, conn)
        else:
            self.loop.call_soon(self.do_one, conn)

    def do_one(self, conn: Conn | None) -> None:
        """Do the next operation of the observer, or of the first handler; for callbacks."""
        if self.over:
            return
        self.callbacks += 1
        ops = self.program.observer or self.program.handlers[0].ops
        op = ops[self.callbacks % len(ops)]
        if op[0] in _PLAIN_OPS and op[0] not in ("nest", "later", "when_done"):
            self.do(conn, op)

    def do_thread_in_context(self, _conn: Conn | None, seconds: float) -> None:
        """Enter the current task's context in a thread, as soon as the task has left it."""
        task = asyncio.current_task(self.loop)
        if task is None or task not in self.tasks or len(self.threads) > 20:
            return  # (`self.tasks` does not include the director)
        get_context = getattr(task, "get_context", contextvars.copy_context)
        context = get_context()

        def run() -> None:
            for _ in range(10):
                try:
                    context.run(time.sleep, seconds)
                except RuntimeError:  # it is in use
                    time.sleep(0.0005)
                else:
                    break

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def do_fork(self, _conn: Conn | None, _: int) -> None:
        self.fork(self.touch)

    def touch(self) -> None:
        for number, conn in enumerate(self.conns):
            with contextlib.suppress(Exception):
                repr(conn)
                assert conn.stats
                if number % 3 == 0:
                    conn.write(b"x")
                if number % 3 == 1:
                    conn.close()
                if number % 5 == 2:
                    conn.abort()

    def do_misuse(self, conn: Conn | None, number: int) -> None:
        self.counter += 1
        misuse(self, conn, random.Random(number * 1000 + self.counter))

    # ---------------------------------------------------------------- bare sockets

    def do_connect(self, _conn: Conn | None, count: int) -> None:
        for _ in range(count):
            # Handlers connect, too: without an end, some programs would breed connections.
            if len(self.peers) >= 60 or len(self.ends) > 2000 or not self.listeners or self.over:
                return
            addr = self.listeners[len(self.peers) % len(self.listeners)].local_addr
            kind, _, path = addr.partition(":")
            sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            with contextlib.suppress(BlockingIOError):
                try:
                    sock.connect(path if kind == "unix" else (kind, int(path)))
                except BlockingIOError:
                    pass
                except OSError:
                    sock.close()
                    return
            self.peers.append((sock, self.end("peer")))

    def do_burst(self, _conn: Conn | None, value: tuple[int, int]) -> None:
        """Send from many peers at once, so that the bytes arrive in one batch."""
        size, every = value
        self.counter += 1
        for sock, end in self.peers[self.counter % every :: every]:
            data = end.next(size)
            if self.program.kind != "plain" and end.sent == 0 and self.counter % 2:
                data = client_hello()
            with contextlib.suppress(OSError):
                end.sent += sock.send(data)

    def one_peer(self) -> tuple[socket.socket, End] | None:
        self.counter += 1
        return self.peers[self.counter * 5 % len(self.peers)] if self.peers else None

    def do_reset(self, _conn: Conn | None, _: int) -> None:
        if (peer := self.one_peer()) is not None:
            peer[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.peers.remove(peer)
            peer[0].close()

    def do_finish(self, _conn: Conn | None, _: int) -> None:
        if (peer := self.one_peer()) is not None:
            peer[0].shutdown(socket.SHUT_WR)

    def do_receive(self, _conn: Conn | None, size: int) -> None:
        self.counter += 1
        for sock, end in self.peers[self.counter % 2 :: 2]:
            with contextlib.suppress(OSError):
                end.got += sock.recv(size)

    def do_client(self, _conn: Conn | None, count: int) -> None:
        for _ in range(count):
            if len(self.ends) < 200 and self.listeners and not self.over:
                self.counter += 1
                script = self.program.clients[self.counter % len(self.program.clients)]
                listener = self.listeners[self.counter % len(self.listeners)]
                self.spawn(self.client(script, listener.local_addr))

    # ------------------------------------------------------ waiting operations

    async def perform(self, own: Conn, op: Op) -> None:
        name, which, value = op
        conn = self.pick(own, which if which % 3 == 0 else 0) or own
        if name == "read":
            await self.read(conn, *value)
        else:
            await getattr(self, name)(conn, value)

    async def read(
        self, conn: Conn, until: Any, limit: int | None = None, timeout: float | None = None
    ) -> None:
        limited = {"limit": limit} if isinstance(until, bytes) else {}
        self.end_of[conn].got += await conn.read(until, timeout=timeout, **limited)

    async def lines(self, conn: Conn, count: int) -> None:
        async for line in conn:
            self.end_of[conn].got += line
            count -= 1
            if count == 0 or self.over:
                break

    async def batches(self, conn: Conn, wanted: tuple[Any, int]) -> None:
        until, most = wanted
        left = 5
        async for batch in conn.batches(until, most=most):
            self.end_of[conn].got += b"".join(batch)
            left -= 1
            if left == 0 or self.over:
                break

    async def start_tls(self, conn: Conn, seconds: float) -> None:
        is_client = self.end_of[conn].name.startswith("client")
        await conn.start_tls(CLIENT if is_client else certificate(), timeout=seconds)

    async def write_and_wait(self, conn: Conn, size: int) -> None:
        async with asyncio.timeout(0.05):
            await self.write(conn, size)

    async def wait_for_read(self, conn: Conn, seconds: float) -> None:
        await asyncio.wait_for(self.read(conn, None), seconds)

    async def timeout_read(self, conn: Conn, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await self.read(conn, b"\n", 1 << 24)

    async def write_in_task(self, conn: Conn, size: int) -> None:
        async def write() -> None:
            await self.write(conn, size)

        self.spawn(write())

    async def sleep(self, _conn: Conn, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def group(self, conn: Conn, wanted: tuple[Any, Any, Any]) -> None:
        async with asyncio.timeout(0.05), asyncio.TaskGroup() as group:
            group.create_task(self.read(conn, *wanted))
            group.create_task(self.write_and_wait(conn, 10))

    async def shared_lines(self, conn: Conn, seconds: float) -> None:
        """Two tasks read from one iterator."""
        lines = aiter(conn)

        async def one() -> None:
            self.end_of[conn].got += await anext(lines)

        await self.two(one(), one(), seconds)

    async def shared_read(self, conn: Conn, seconds: float) -> None:
        """Two tasks await one read."""
        read = conn.read()

        async def one() -> None:
            self.end_of[conn].got += await read

        await self.two(one(), one(), seconds)

    async def two(
        self, first: Coroutine[Any, Any, None], second: Coroutine[Any, Any, None], seconds: float
    ) -> None:
        before = len(self.tasks)
        self.spawn(first)
        await asyncio.sleep(0)
        self.spawn(second)
        await asyncio.sleep(seconds)
        pair = self.tasks[before : before + 2]
        for task in pair:
            task.cancel()
        _, left = await asyncio.wait(pair, timeout=PATIENCE)
        if left and not self.program.threads:
            self.problems.append(f"two tasks shared one read, and these did not end: {left}")

    async def many_reads(self, conn: Conn, count: int) -> None:
        for _ in range(count):
            await self.read(conn, 1, None, 0.01)

    async def thread(self, _conn: Conn, seconds: float) -> None:
        await asyncio.to_thread(time.sleep, seconds)

    async def wait_closed(self, conn: Conn, seconds: float) -> None:
        await asyncio.wait_for(conn.wait_closed(), seconds)

    async def read_after_cancel(self, conn: Conn, wanted: tuple[Any, Any, Any]) -> None:
        try:
            await self.read(conn, *wanted)
        except asyncio.CancelledError:
            if not self.over:
                await self.read(conn, *wanted)
            raise

    # ------------------------------------------------------- start and end

    async def run(self) -> None:
        """Run the program's steps."""
        for kind in self.program.addresses:
            self.listeners.append(self.listen(kind))
        set_factory(self)
        set_faults(self.program.seed, self.program.faults)
        self.do_connect(None, self.program.peers)
        until = time.monotonic() + 1
        for ops, pause in self.program.steps:
            for op in ops:
                with contextlib.suppress(*ON_PURPOSE, *STOPS):  # from a task that started eagerly
                    self.do(None, op)
            await asyncio.sleep(pause)
            if time.monotonic() > until:
                break

    async def end_all(self) -> None:
        self.over = True
        set_faults(0, 0)
        if self.program.abandoned:
            return
        await asyncio.sleep(0)
        for task in list(self.tasks):
            task.cancel()
        await asyncio.sleep(0.001)
        listeners = [*self.listeners, *self.old]
        for listener in listeners:
            self.keep(listener.close(0))
        for listener in listeners:
            try:
                async with asyncio.timeout(PATIENCE):
                    await listener.wait_closed()
            except TimeoutError:
                self.problems.append(
                    f"listener does not close: {listener!r}, {listener._course.handling}"
                )
            try:  # a handler that closed its own listener may linger
                async with asyncio.timeout(PATIENCE):
                    while listener.connections:  # noqa: ASYNC110 - it has no event to wait for
                        await asyncio.sleep(0.01)
            except TimeoutError:
                # asyncio never starts a task if a thread is in its context at the first step.
                if not self.program.threads:
                    self.problems.append(f"still counted: {listener!r}")
        for conn in self.conns:
            conn.abort()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.sleep(0.001)
        left = [task for task in self.tasks if not task.done()]
        if left:
            _, pending = await asyncio.wait(left, timeout=1)
            if pending and not self.program.threads:
                self.problems.append(f"tasks do not end: {pending}")

    async def check_new(self) -> None:
        if not self.program.abandoned and not self.program.misuse:
            await check_new_connection(self.rng)

    def close(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE)
        for sock, end in self.peers:
            with contextlib.suppress(OSError):
                while piece := sock.recv(1 << 20):
                    end.got += piece
            with contextlib.suppress(OSError):
                sock.close()
        self.peers.clear()

    def check(self) -> None:
        """Check that each end received a prefix of what a different end wrote."""
        if self.program.kind == "start_tls":
            return
        received: set[str] = set()
        senders = {end.stream[end.offset : end.offset + 24]: end for end in self.ends}
        for end in self.ends:
            got = bytes(end.got)
            if self.program.kind == "tls" and end.name.startswith("peer"):
                continue  # it got records
            sender = senders.get(got[:24])
            if sender is None:
                if got and not any(each.wrote(got) for each in self.ends):
                    self.problems.append(f"{end.name} got bytes that no end wrote: {got[:40]!r}")
            elif not sender.wrote(got):
                self.problems.append(
                    f"{end.name} got wrong bytes from {sender.name}: {len(got)} of {sender.sent}, "
                    f"the first {self.correct(sender, got)} are correct"
                )
            elif len(got) >= 24 and sender.name in received:
                self.problems.append(f"two ends got what {sender.name} wrote; one is {end.name}")
            else:
                received.add(sender.name)

    def correct(self, sender: End, got: bytes) -> int:
        """Return how many of the first bytes of *got* are what *sender* wrote."""
        low, high = 0, len(got)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if sender.wrote(got[:middle]) else (low, middle - 1)
        return low


class _Observer:
    def __init__(self, world: World) -> None:
        self.world = world

    def opened(self, conn: Conn, _listener: Listener) -> None:
        world = self.world
        if conn in world.end_of:
            return
        self.act(None)

    def closed(self, conn: Conn, _listener: Listener, _ending: object) -> None:
        self.act(conn if conn in self.world.end_of else None)

    def act(self, conn: Conn | None) -> None:
        self.world.do_one(conn)


_PLAIN_OPS: Final = frozenset(name[3:] for name in dir(World) if name.startswith("do_"))


def set_factory(world: World) -> None:
    """Set the program's task factory on the loop."""
    kind, loop = world.program.tasks, world.loop
    if kind == "eager" and EAGER is not None:
        loop.set_task_factory(EAGER)
    elif kind == "python":
        loop.set_task_factory(
            lambda loop, coroutine, **options: asyncio.tasks._PyTask(  # type: ignore[attr-defined]
                coroutine, loop=loop, **options
            )
        )
    elif kind == "raising":
        count = 0

        def factory(
            loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
        ) -> asyncio.Task[Any]:
            nonlocal count
            count += 1
            if count % 5 == 4 and not world.over:
                if isinstance(coroutine, Coroutine):
                    coroutine.close()
                raise Boom if count % 10 == 4 else BaseBoom
            return asyncio.Task(coroutine, loop=loop, **options)

        loop.set_task_factory(factory)


# ----------------------------------------------------------------------- misuse


def misuse(world: World, conn: Conn | None, rng: random.Random) -> None:
    """Misuse objects that the API returns."""
    if conn is None:
        return
    loop: Any = world.loop
    read = conn.read(rng.choice((None, 3, b"\n")))
    objects: list[Any] = [conn, conn, read, read, aiter(conn)]
    with contextlib.suppress(BaseException):
        objects.append(read.send(None))
    with contextlib.suppress(BaseException):
        objects.append(conn.write(b"x" * rng.choice((1, 1 << 20))))
    for listener in world.listeners:
        objects += [*listener._servers, *(task.get_coro() for task in listener._course.handling)]
    if getattr(loop, "_silly_reactor", None) is not None:
        objects += [loop._silly_reactor] * 2
    for _ in range(5):
        thing = rng.choice(objects)
        for _ in range(rng.randrange(1, 5)):
            with contextlib.suppress(BaseException):
                made = misuse_once(thing, objects, rng)
                if type(made).__module__.startswith("silly."):  # not the loop, or a socket
                    thing = made
    for each in objects:
        if isinstance(each, type(read)):
            with contextlib.suppress(BaseException):
                each.close()


def misuse_once(thing: Any, objects: list[Any], rng: random.Random) -> Any:
    kind = type(thing)
    arguments = [_argument(objects, rng) for _ in range(rng.randrange(4))]
    numbers = [-1, 1 << 20, 2**31 - 1, 2**70]
    if not isinstance(thing, Conn) and not hasattr(thing, "backlog"):
        # Those take a number as a descriptor, and would take it over.
        numbers += [0, 1, 2, 3]
    for_init = [rng.choice(numbers) if isinstance(a, int | float) else a for a in arguments]
    match rng.randrange(9):
        case 0:
            return kind.__new__(kind)  # type: ignore[call-overload]
        case 1:
            return kind.__new__(kind, *for_init)
        case 2:
            return kind(*for_init)
        case 3:
            thing.__init__(*for_init)
        case 4:
            return rng.choice((copy.copy, copy.deepcopy, pickle.dumps, repr, iter, hash))(thing)
        case 5:
            return type("Sub", (kind,), {})(*for_init)
        case 6:
            setattr(thing, rng.choice(dir(thing)), rng.choice((None, "x", -1, 2**70, thing)))
        case _:
            # Reactor.wait waits, by any means, as select() does.
            excluded = ("__class__", "__init__", "wait")
            names = [name for name in dir(thing) if name not in excluded]
            value = getattr(thing, rng.choice(names))
            return value(*arguments) if callable(value) else value
    return None


def _argument(objects: list[Any], rng: random.Random) -> Any:
    return rng.choice(
        (
            *(None, None, 0, -1, 1, 2**70, 0.5, float("nan"), b"", b"\n", "x", (), object()),
            *(ValueError, ValueError("thrown"), GeneratorExit, asyncio.CancelledError()),
            *(print_nothing, asyncio.get_event_loop_policy(), (1.0,) * 5, contextvars.Context()),
            *objects,
        )
    )


async def check_new_connection(rng: random.Random) -> None:
    """Check that a new connection works: a line, then possibly more bytes than the read limit."""
    read_limit = rng.choice((64, 4096, 70_000))
    size = rng.choice((1, 100, 5000, 200_000))

    async def echo(conn: Conn) -> None:
        await conn.read(b"\n")
        await conn.write(await conn.read(size))

    data = rng.randbytes(size)
    listener = tcp.listen(ANY, echo, limits=Limits(read_limit=read_limit))
    async with asyncio.timeout(PATIENCE):
        conn = await tcp.connect(listener.local_addr)
        await conn.write(b"line\n" + data)
        if await conn.read(size) != data:
            raise Failure("a new connection gets wrong bytes")
        conn.close()
        await conn.wait_closed()
        await listener.close()
    if listener.connections:
        raise Failure(f"still counted: {listener!r}")


def run_program(program: Program) -> list[str]:
    """Run *program*; return the problems found."""
    with tempfile.TemporaryDirectory() as folder:
        problems = run_world(World(program, new_loop(program), folder))
    return [] if program.misuse else problems  # misused objects need not work, but must not crash


def run_somewhere(program: Program) -> list[str]:
    """Run *program*, possibly in a thread; return the problems found."""
    if not program.in_thread:
        return run_program(program)
    problems: list[str] = []
    thread = threading.Thread(target=lambda: problems.extend(run_program(program)))
    thread.start()
    thread.join()
    return problems


def check(program: Program) -> list[str]:
    """Run *program*; return the problems found, including leaks."""
    problems = with_leaks(lambda: run_somewhere(program), counts=not program.misuse)
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        try:
            runner.run(check_new_connection(random.Random(program.seed + 1)))
        except Exception as error:
            problems.append(f"on a new loop: {error!r}")
    return problems


if __name__ == "__main__":
    sys.exit(main(make_program, check, __doc__, KINDS))
