"""Run by test_failing_calls.py, with failing.c preloaded: what a listener does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable
from contextvars import Context
from errno import EAGAIN, ECONNABORTED, EINTR, EMFILE, ENOBUFS, ENOMEM, ENOSPC, EPIPE
from typing import Any, TypeVarTuple

import silly
from silly.net import tcp, udp
from silly.net.tcp import Conn, Listener
from tests.engine.filters import Xor
from tests.net.tls import certificates
from tests.pairs import tcp_pair

ANY = "127.0.0.1:0"
AT_ONCE = 32  # connections that an engine accepts before others have their turn

Plan = list[tuple[str, int, int]]
Arguments = TypeVarTuple("Arguments")

# Which calls fail, and how often, when one client has connected.
ACCEPTING: dict[str, Plan] = {
    "a connection is gone": [("accept4", ECONNABORTED, 1)],
    "many are gone": [("accept4", ECONNABORTED, AT_ONCE)],
    "no memory": [("accept4", ENOMEM, 1)],
    "no descriptor": [("accept4", EMFILE, 1)],
    "no descriptor, and nobody there": [("accept4", EMFILE, 1), ("accept4", EAGAIN, 1)],
    "no descriptor, and a connection is gone": [
        ("accept4", EMFILE, 1),
        ("accept4", ECONNABORTED, 1),
    ],
    "no descriptor, and no memory": [("accept4", EMFILE, 1), ("accept4", ENOMEM, 1)],
    "no descriptor for the reserve": [("accept4", EMFILE, 1), ("open", EMFILE, 1)],
    "no watch afterwards": [("accept4", ENOMEM, 1), ("watch listener", ENOSPC, 1)],
}

library = ctypes.CDLL(None)


def fail(call: str, error: int, times: int) -> None:
    library.fail(call.encode(), error, times)


class Impatient(asyncio.SelectorEventLoop):
    """A loop that does not put things off for a second."""

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_later(min(delay, 0.01), callback, *args, context=context)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def client_of(listener: Listener) -> socket.socket:
    host, port = listener.local_addr.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


def outcome_of(client: socket.socket) -> str:
    """What becomes of a client; in a thread: a loop could not watch it either."""
    try:
        client.sendall(b"x\n")
        return "served" if client.recv(10) == b"x\n" else "closed"
    except ConnectionResetError:
        return "reset"


async def accepting() -> None:
    """One client for each plan, and another one that is served after it."""
    for name, plan in ACCEPTING.items():
        async with tcp.listen(ANY, echo) as listener:
            with client_of(listener) as client:
                for each in plan:
                    fail(*each)
                outcome = await asyncio.to_thread(outcome_of, client)
            with client_of(listener) as client:
                assert await asyncio.to_thread(outcome_of, client) == "served"
            assert library.stop_failing() == 0, name
            stats = listener.stats
            print(f"{name}: {outcome}, {stats.accept_stalls} stalls, {dict(stats.refused)}")


async def many() -> None:
    """More than are accepted at once; then the listener cannot be watched again."""
    async with tcp.listen(ANY, echo) as listener:
        clients = [client_of(listener) for _ in range(AT_ONCE + 1)]
        fail("watch listener", ENOSPC, 1)
        for client in clients:
            with client:
                assert await asyncio.to_thread(outcome_of, client) == "served"
        assert library.stop_failing() == 0
        print(f"{listener.stats.accept_stalls} stalls")


def attempt(call: str, error: int, make: Callable[[], Any]) -> None:
    """Print whether a listener or socket can be made when *call* fails; nothing may be left."""
    before = descriptors()
    fail(call, error, 1)
    try:
        made = make()
    except OSError as failure:
        print(call, errno.errorcode[failure.errno or 0])
    except MemoryError:
        print(call, "MemoryError")
    else:
        print(call, "is made")
        made.close()
    library.stop_failing()
    assert descriptors() == before


async def beginning() -> None:
    """The listener cannot be made, and later can."""

    async def preface(conn: Conn) -> None:
        await conn.read(1)

    def listen() -> Listener:
        return tcp.listen(ANY, echo)

    def listen_with_preface() -> Listener:
        return tcp.listen(ANY, echo, preface=preface)

    if silly.engine() == "native":
        attempt("malloc", ENOMEM, listen)
    attempt("watch listener", ENOSPC, listen)
    attempt("epoll_create1", EMFILE, listen)
    attempt("watch set", ENOSPC, listen)
    async with tcp.listen(ANY, echo) as listener:
        attempt("epoll_create1", EMFILE, listen_with_preface)
        attempt("watch set", ENOSPC, listen_with_preface)
        with client_of(listener) as client:
            print(await asyncio.to_thread(outcome_of, client))


async def datagrams() -> None:
    """A socket cannot be made, and later can; then sending is interrupted, and counts fail."""

    def bind() -> udp.Socket:
        return udp.bind(ANY)

    if silly.engine() == "native":  # in the other, each datagram has memory of its own
        attempt("malloc", ENOMEM, bind)
    attempt("watch connection", ENOSPC, bind)
    async with (
        udp.bind(ANY) as sock,
        await udp.connect(sock.local_addr) as client,
        asyncio.timeout(10),
    ):
        fail("sendmmsg", EINTR, 1)
        fail("sendmmsg", ENOBUFS, 1)
        client.send(b"x")
        print((await sock.recv())[0], library.stop_failing(), "left")
        fail("counters", errno.ENOPROTOOPT, -1)
        print(sock.stats.dropped_by_kernel)
        library.stop_failing()


async def watching() -> None:
    """Connections cannot be watched, and later can."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with tcp.listen(ANY, echo) as listener:
        other = await tcp.connect(listener.local_addr)
        await other.write(b"x\n")
        await other.read(b"\n")
        before = descriptors()
        clients = [client_of(listener) for _ in range(10)]
        fail("watch connection", ENOSPC, -1)
        for client in clients:
            with client:
                assert await asyncio.to_thread(outcome_of, client) in {"closed", "reset"}
        async with asyncio.timeout(10):
            while descriptors() > before:
                await asyncio.sleep(0)
        print("refused", descriptors() - before, listener.connections - 1)
        for _ in range(3):
            with contextlib.suppress(OSError):
                await tcp.connect(listener.local_addr, timeout=10)
        await other.write(b"y\n")
        assert await other.read(b"\n") == b"y\n"
        library.stop_failing()
        async with await tcp.connect(listener.local_addr) as conn:
            await conn.write(b"z\n")
            print("served", await conn.read(b"\n"))
        other.close()


async def memory() -> None:
    """There is none for what one connection holds: that one is lost, and says so."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    piece, answer = b"x" * 120_000, bytearray(10_000_000)
    ended: asyncio.Queue[BaseException] = asyncio.Queue()

    async def handler(conn: Conn) -> None:
        try:
            line = await conn.read(b"\n")
            if line == b"count\n":
                await conn.read(5 * len(piece))
            if line == b"answer\n":
                fail("malloc", ENOMEM, 1)
                for _ in range(3):
                    await conn.write(answer)
            await echo(conn)
        except BaseException as error:
            ended.put_nowait(error)
            raise

    limits = tcp.Limits(read_limit=10 * len(piece), max_unsent=10 * len(answer))
    async with tcp.listen(ANY, handler, limits=limits) as listener:
        for held in ("unread", "more unread", "long read", "unsent"):
            with client_of(listener) as client:
                if held == "unsent":
                    client.sendall(b"answer\n")
                else:
                    if held == "long read":
                        client.sendall(b"count\n")
                    if held != "unread":
                        client.sendall(piece)
                        while listener.stats.unread_bytes < len(piece):
                            await asyncio.sleep(0)
                    fail("malloc", ENOMEM, 1)
                    client.sendall(piece)
                async with asyncio.timeout(10):
                    error = await ended.get()
                    while listener.connections or listener.stats.held_bytes:
                        await asyncio.sleep(0)
            assert library.stop_failing() == 0
            print(f"{held}: {type(error).__name__}({getattr(error, 'strerror', '')})")
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"\nx\n")
            print(await conn.read(b"\n", timeout=10))


async def pair(*filters: Any) -> tuple[Any, Any]:
    """A connection that writes, in a batch of its own or with many queued bytes, and its peer."""
    reading, writing = await tcp_pair({"limits": tcp.Limits(max_unsent=20_000_000)})
    for conn, each in zip((reading, writing), filters, strict=False):
        conn._put_filter(each)
    return writing, reading


def refused(conn: Conn, data: bytes) -> str:
    """What a write says if there is no memory for it."""
    fail("malloc", ENOMEM, 1)
    try:
        conn.write(data)
    except MemoryError:
        return f"refused, {library.stop_failing()} left"
    return f"written, {library.stop_failing()} left"


async def ended(conn: Conn) -> str:
    """Why a connection ends, and how many plans were not carried out."""
    try:
        await conn.read()
    except OSError as error:
        why = error.strerror if error.errno == ENOMEM else type(error).__name__
        return f"{why}, {library.stop_failing()} left"
    return "alive"


async def writing() -> None:
    """There is no memory for what is written: the call says so, or the connection is lost."""
    piece, many = bytes(16_000), bytes(10_000_000)
    batching, reading = await pair()
    other, _ = await pair()
    batching.write(piece)
    batching.write(piece)
    other.write(b"x")  # now what the first one writes has to be moved
    print("batch:", refused(batching, piece))
    batching.write(b"y\n")
    print(len(await reading.read(32_002)))

    queueing, reading = await pair()
    queueing.write(many)
    print("queue:", refused(queueing, many))
    queueing.write(b"y\n")
    print(len(await reading.read(10_000_002)))

    unsent, reading = await pair()
    for _ in range(4):
        unsent.write(piece)
    fail("send", EAGAIN, 1)
    fail("malloc", ENOMEM, 1)
    print("the rest of a batch:", await ended(unsent))


async def losing() -> None:
    """The peer is gone when something is written; what comes then, in the same turn, is dropped."""
    writing, _ = await pair()
    fail("send", EPIPE, 1)
    writing.write(bytes(20_000))
    writing.write(b"x")
    print(await ended(writing))


async def filtering() -> None:
    """The same where a filter is in between: what is received, sealed, or left unsent."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    many = bytes(10_000_000)

    writing, reading = await pair(Xor(1), Xor(1))
    fail("malloc", ENOMEM, 1)
    writing.write(b"x\n")
    print(await reading.read(b"\n"), library.stop_failing(), "left")

    for call in ("malloc", "realloc"):
        name = certificates.NAME
        server = certificates.server().new_session(name)
        writing, _ = await pair(certificates.client().new_session(name, name), server)
        await writing._wait_ready()
        fail(call, ENOMEM, 1)
        writing.write(many)
        print("unsent:" if call == "malloc" else "unsealed:", await ended(writing))


async def names() -> None:
    """The system does not tell a connection's own address: it is served without."""
    named: list[str] = []
    over = asyncio.Event()

    async def handler(conn: Conn) -> None:
        named.append(conn.local_addr)
        await echo(conn)
        conn.close()
        await conn.wait_closed()
        named.append(conn.local_addr)
        library.stop_failing()
        over.set()

    async with tcp.listen("0.0.0.0:0", handler) as listener:  # of any other it is known
        fail("getsockname", ENOBUFS, -1)
        with client_of(listener) as client:
            print(await asyncio.to_thread(outcome_of, client))
        await asyncio.wait_for(over.wait(), 10)
        print(named)


async def blocking() -> None:
    """The system takes nothing, although it said that it would: nothing is lost."""
    many = bytes(10_000_000)
    writing, reading = await pair()
    writing.write(many)
    fail("send", EAGAIN, 1)
    fail("sendmsg", EAGAIN, 1)
    print(len(await reading.read(len(many))))
    library.stop_failing()


async def timers() -> None:
    """The reactor, in which the loop waits, cannot have a timer: it does without."""
    loop = asyncio.get_running_loop()
    fired = asyncio.Event()
    async with (
        tcp.listen(ANY, echo) as listener,
        tcp.connect(listener.local_addr) as conn,
        asyncio.timeout(10),
    ):
        fail("timerfd_create", EMFILE, 1)
        fail("watch set", ENOSPC, 1)
        fail("timerfd_settime", errno.EINVAL, 1)
        loop.call_later(0.05, fired.set)
        while not fired.is_set():
            conn.write(b"x\n")
            await conn.read(b"\n")
        print(library.stop_failing(), "left")


PARTS = {
    part.__name__: part
    for part in (
        accepting,
        many,
        beginning,
        datagrams,
        watching,
        memory,
        writing,
        losing,
        filtering,
        names,
        blocking,
        timers,
    )
}

with asyncio.Runner(
    loop_factory=silly.loop_factory if sys.argv[2:] == ["inside"] else Impatient
) as runner:
    runner.run(PARTS[sys.argv[1]]())
