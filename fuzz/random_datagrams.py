"""Random programs with UDP on the engine under test: ``make stress PROGRAMS=random_datagrams``.

The invariant: whatever a program and its peers do, the interpreter does not crash, and each
datagram that is received is one that was sent, whole. Afterwards, no descriptor is open, and
a new socket works.

As in random_programs.py, all depends only on the seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import socket
import sys
import time
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
    Failure,
    Op,
    main,
    new_loop,
    pick,
    run_world,
    set_faults,
    with_leaks,
)

import silly
from silly.errors import SillyError
from silly.net import udp
from silly.net.conn import Conn

SIZES: Final = (8, 9, 100, 100, 1000, 1472, 8192, 30_000, 65_507)
COUNTS: Final = (1, 2, 10, 100, 300)
MOST: Final = 5000  # datagrams, in a program

PLAIN: Final[dict[str, tuple[float, tuple[Any, ...]]]] = {
    "send": (10, SIZES),
    "send_many": (3, COUNTS),
    "send_strictly": (2, SIZES),
    "send_nowhere": (0.5, ("127.0.0.1:1", "[::1]:9", "nonsense", None)),
    "burst": (4, COUNTS),
    "close": (1, (0,)),
    "bind": (1, (ANY, ":0", "[::1]:0")),
    "connect": (2, (1, 2)),
    "listen": (0.5, (1, 3, 100)),
    "cancel": (1.5, (0,)),
    "collect": (0.3, (0, 1, 2)),
    "look": (1, (0,)),
    "later": (1, (0, 0, 0.001)),
}
AWAITED: Final[dict[str, tuple[float, tuple[Any, ...]]]] = {
    "recv": (10, (None, 0, 0.001, 0.02)),
    "iterate": (6, COUNTS),
    "send_and_wait": (4, SIZES),
    "answer": (6, COUNTS),
    "shared_recv": (1, SHORT),
    "wait_closed": (0.5, SHORT),
    "sleep": (2, SHORT),
    "resolve": (0.3, ("127.0.0.1:9", "[::1]:9")),
}


@dataclass
class Program:
    seed: int
    loop: str = "plain"  # or nested, debug
    inside: bool = False  # a loop that serves sockets while it waits
    faults: int = 0  # of 1000 system calls, how many fail
    forks: bool = False
    raises: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    scripts: list[list[Op]] = field(default_factory=list)
    steps: list[tuple[list[Op], float]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"program {self.seed} on {silly.engine()}: {dataclasses.asdict(self)}"


def make_program(seed: int, _kind: str | None = None) -> Program:
    """Return the program of *seed*, which is always the same."""
    rng = random.Random(seed)
    program = Program(seed)
    program.loop = rng.choice(("plain", "plain", "nested", "debug"))
    program.inside = rng.random() < 0.6
    program.faults = rng.choice((0, 0, 10, 100))
    program.forks = rng.random() < 0.1 and NATIVE
    program.raises = tuple(rng.sample(list(RAISED), rng.choice((0, 0, 1, 3))))
    program.options = {
        "max_datagram": rng.choice((10, 1500, 65_507)),
        "max_queued": rng.choice((1, 10, 1000)),
        "read_limit": rng.choice((1, 10_000, 1 << 20)),
        "max_unsent": rng.choice((1, 10_000, 1 << 20)),
        "receive_buffer": rng.choice((None, 1, 1 << 20)),
        "strict": rng.random() < 0.3,
    }
    plain, awaited = dict(PLAIN), dict(AWAITED)
    for table in (plain, awaited):
        for name in rng.sample(sorted(table), 4):  # each program has its own preferences
            table[name] = table[name][0] * rng.choice((0, 0, 3, 10)), table[name][1]
    if program.raises:
        plain["raise"] = rng.choice((0.5, 2)), program.raises
    if program.loop == "nested":
        plain["nest"] = rng.choice((1, 5)), (1, 2, 5)
    if program.forks:
        plain["fork"] = 0.3, (0,)
    for _ in range(rng.randrange(1, 6)):
        plainly = rng.choice((0.1, 0.5))
        program.scripts.append(
            [
                pick(rng, plain if rng.random() < plainly else awaited)
                for _ in range(rng.choice((3, 10, 40)))
            ]
        )
    others = ("raise", "nest")  # the director, which runs the steps, must not end the program
    director = {name: plain[name] for name in plain if name not in others}
    for name in ("connect", "bind", "burst"):
        director[name] = director[name][0] + 3, director[name][1]
    for _ in range(rng.choice((5, 20, 40))):
        ops = [pick(rng, director) for _ in range(rng.choice((1, 3, 12)))]
        program.steps.append((ops, rng.choice(SHORT)))
    return program


class World(runner.World):
    """A running program, and the objects that it created."""

    def __init__(self, program: Program, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(program, loop)
        self.socks: list[udp.Socket] = []
        self.listeners: list[udp.PeerListener] = []
        self.peers: list[socket.socket] = []  # bare ones
        self.sizes: list[int] = []  # of the datagrams that were sent, by number

    # ---------------------------------------------------------------- datagrams

    def datagram(self, size: int) -> bytes:
        number = len(self.sizes)
        self.sizes.append(size)
        return number.to_bytes(8) + bytes([number % 251]) * (size - 8)

    def received(self, data: bytes) -> None:
        """Check that *data* was sent so."""
        number = int.from_bytes(data[:8])
        sent = number < len(self.sizes) and (self.sizes[number], number % 251)
        if sent is False or len(data) != sent[0] or data[8:].strip(bytes([sent[1]])):
            self.problems.append(f"received {len(data)} bytes that nobody sent: {data[:40]!r}")

    def address(self) -> str | None:
        """Return the address of a socket that receives from anyone."""
        bound = [sock.local_addr for sock in self.socks if sock.is_open and sock.is_bound]
        addr: str | None = self.next([*bound, *(each.local_addr for each in self.listeners)])
        return addr

    def all(self) -> list[udp.Socket | udp.PeerListener]:
        return [*self.socks, *self.listeners]

    def on_loop_error(self, _loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        known = (*ON_PURPOSE, *STOPS, OSError, SillyError, asyncio.CancelledError)
        if error is not None and not isinstance(error, known):
            if self.program.loop == "nested" and "enter" in str(error):
                return  # asyncio itself loses callbacks if their context is in use
            self.problems.append(f"to the loop's exception handler: {context!r}")

    # --------------------------------------------------------------- operations

    async def follow(self, sock: Any, script: list[Op]) -> None:
        for op in script:
            if self.over:
                break
            with contextlib.suppress(*EXPECTED):
                name, which, value = op
                chosen = self.next(self.socks) or sock if which % 3 else sock
                if name in PLAIN_OPS:
                    getattr(self, f"do_{name}")(chosen, value)
                elif isinstance(chosen, udp.Socket):
                    await getattr(self, name)(chosen, value)

    def do(self, op: Op) -> None:
        name, _, value = op
        with contextlib.suppress(*EXPECTED, ValueError):
            getattr(self, f"do_{name}")(self.next(self.socks), value)

    def send(self, sock: Any, size: int, *, strict: bool | None = None) -> Any:
        data = self.datagram(size)
        if isinstance(sock, Conn):
            return sock.write(data)
        if sock is not None and (addr := self.address() if sock.is_bound else "") is not None:
            with contextlib.suppress(ValueError):  # it cannot be reached from there
                return sock.send(data, addr or None, strict=strict)
        return None

    def do_send(self, sock: Any, size: int) -> None:
        self.send(sock, size)

    def do_send_many(self, sock: Any, count: int) -> None:
        for _ in range(count if len(self.sizes) < MOST else 0):
            self.send(sock, 100)

    def do_send_strictly(self, sock: Any, size: int) -> None:
        self.send(sock, size, strict=True)

    def do_send_nowhere(self, sock: Any, addr: str | None) -> None:
        if isinstance(sock, udp.Socket):
            with contextlib.suppress(ValueError, TypeError):
                sock.send(self.datagram(8), addr)

    def do_burst(self, _sock: Any, count: int) -> None:
        """Send from bare sockets, so that many datagrams arrive at once."""
        if len(self.peers) < 5:
            peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            peer.setblocking(False)
            self.peers.append(peer)
        peer, addr = self.next(self.peers), self.address()
        if addr is None or not addr.startswith("127.") or len(self.sizes) > MOST:
            return
        host, _, port = addr.rpartition(":")
        for number in range(count):
            with contextlib.suppress(OSError):
                peer.sendto(self.datagram((8, 100, 1472)[number % 3]), (host, int(port)))

    def do_close(self, sock: Any, _: int) -> None:
        if sock is not None:
            sock.close()

    def do_bind(self, _sock: Any, addr: str) -> None:
        if len(self.socks) < 40 and not self.over:
            sock = udp.bind(addr, **self.program.options)
            self.socks.append(sock)
            self.spawn(self.follow(sock, self.next(self.program.scripts)))

    def do_connect(self, _sock: Any, count: int) -> None:
        for _ in range(count):
            if len(self.socks) < 80 and (addr := self.address()) is not None and not self.over:
                self.spawn(self.connected(addr))

    async def connected(self, addr: str) -> None:
        with contextlib.suppress(*EXPECTED):
            async with udp.connect(addr, **self.program.options) as sock:
                self.socks.append(sock)
                await self.follow(sock, self.next(self.program.scripts))

    def do_listen(self, _sock: Any, most: int) -> None:
        if len(self.listeners) < 5 and not self.over:
            self.listeners.append(udp.listen(ANY, self.handle, max_peers=most, idle_timeout=0.02))

    async def handle(self, conn: Conn) -> None:
        with contextlib.suppress(*EXPECTED):
            while await conn.read():  # of datagrams that may have been joined
                await self.follow(conn, [("send", 0, 100), ("later", 0, 0)])

    def do_look(self, _sock: Any, _: int) -> None:
        for each in self.all():
            assert repr(each)
            assert each.stats
        for sock in self.socks:
            assert cast(Any, sock)._waits_for is not self

    def do_later(self, _sock: Any, seconds: float) -> None:
        ops = self.next(self.program.scripts)
        if (op := self.next(ops))[0] in PLAIN_OPS and op[0] not in ("later", "nest"):
            self.loop.call_later(seconds, self.do, op)

    def do_fork(self, _sock: Any, _: int) -> None:
        self.fork(self.touch)

    def touch(self) -> None:
        for sock in self.socks:
            with contextlib.suppress(Exception):
                assert repr(sock)
                assert sock.stats
                sock.send(b"x")
                sock.close()

    async def recv(self, sock: udp.Socket, timeout: float | None) -> None:
        async with asyncio.timeout(0.05):
            data, _ = await sock.recv(timeout=timeout)
        self.received(data)

    async def iterate(self, sock: udp.Socket, count: int) -> None:
        async with asyncio.timeout(0.05):
            async for data, _ in sock:
                self.received(data)
                count -= 1
                if count == 0 or self.over:
                    break

    async def answer(self, sock: udp.Socket, count: int) -> None:
        async with asyncio.timeout(0.05):
            async for data, peer in sock:
                self.received(data)
                sock.send(data, peer)
                count -= 1
                if count == 0 or self.over:
                    break

    async def send_and_wait(self, sock: udp.Socket, size: int) -> None:
        if (sending := self.send(sock, size)) is not None:
            async with asyncio.timeout(0.05):
                await sending

    async def shared_recv(self, sock: udp.Socket, seconds: float) -> None:
        """Two tasks receive at a time."""
        self.spawn(self.recv(sock, None))
        self.spawn(self.recv(sock, None))
        await asyncio.sleep(seconds)

    async def wait_closed(self, sock: udp.Socket, seconds: float) -> None:
        await asyncio.wait_for(sock.wait_closed(), seconds)

    async def sleep(self, _sock: udp.Socket, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def resolve(self, sock: udp.Socket, addr: str) -> None:
        assert await sock.resolve(addr)

    # ------------------------------------------------------------ start and end

    async def run(self) -> None:
        set_faults(self.program.seed, self.program.faults)
        until = time.monotonic() + 1
        for ops, pause in self.program.steps:
            for op in ops:
                with contextlib.suppress(*ON_PURPOSE, *STOPS):
                    self.do(op)
            await asyncio.sleep(pause)
            if time.monotonic() > until:
                break

    async def end_all(self) -> None:
        self.over = True
        set_faults(0, 0)
        for task in self.tasks:
            task.cancel()
        for each in self.all():
            each.close()
        async with asyncio.timeout(PATIENCE):
            for each in self.all():
                await each.wait_closed()
        if self.tasks:
            _, pending = await asyncio.wait(self.tasks, timeout=PATIENCE)
            if pending:
                self.problems.append(f"tasks do not end: {pending}")
        for sock in self.socks:
            stats = sock.stats
            if stats.received < 0 or stats.sent < 0:
                self.problems.append(f"wrong counts: {stats}")

    async def check_new(self) -> None:
        await check_new_socket(random.Random(self.program.seed))

    def close(self) -> None:
        for peer in self.peers:
            peer.close()


PLAIN_OPS: Final = frozenset(name[3:] for name in dir(World) if name.startswith("do_"))


async def check_new_socket(rng: random.Random) -> None:
    """Check that a new socket works."""
    size = rng.choice(SIZES)
    async with (
        asyncio.timeout(PATIENCE),
        udp.bind(ANY) as server,
        udp.connect(server.local_addr) as client,
    ):
        data = rng.randbytes(size)
        await client.send(data)
        received, peer = await server.recv()
        await server.send(received, peer)
        if (await client.recv())[0] != data:
            raise Failure("a new socket gets wrong bytes")


def check(program: Program) -> list[str]:
    """Run *program*; return the problems found, including leaks."""
    return with_leaks(lambda: run_world(World(program, new_loop(program))))


if __name__ == "__main__":
    sys.exit(main(make_program, check, __doc__))
