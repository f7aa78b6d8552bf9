"""Risks of native code: lifetimes, batches, re-entrancy, forks, system calls."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
import pytest
import redis.asyncio as redis
from aiohttp import ClientSession, web

import silly
from silly._engine import engine
from silly.errors import ConnectionClosed, EndOfStream
from silly.net import tcp, udp
from silly.net.conn import EngineConn
from silly.net.tcp import Conn
from tests.net.tls import certificates
from tests.programs import assert_prints

ANY = "127.0.0.1:0"

native_only = pytest.mark.skipif(silly.engine() != "native", reason="native engine only")


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def connected(listener: tcp.Listener, count: int) -> list[Conn]:
    conns = [await tcp.connect(listener.local_addr) for _ in range(count)]
    for conn in conns:
        conn.write(b"ready\n")
    for conn in conns:
        assert await conn.read(b"\n") == b"ready\n"
    return conns


@pytest.mark.parametrize("fails", [False, True])
async def test_busy_polling_serves_connections(fails: bool) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(conn: Conn) -> None:
        async for line in conn:
            heard.put_nowait(line)

    async with tcp.listen(ANY, echo) as listener, await tcp.connect(listener.local_addr) as conn:
        reader = asyncio.create_task(hear(conn))
        await conn.write(b"one\n")
        assert await heard.get() == b"one\n"  # its reader waits for the next line

        def step() -> None:
            if not over.done():
                conn.write(b"two\n")
                over.set_result(None)
                if fails:
                    raise ZeroDivisionError

        def poll() -> None:
            deadline = loop.time() + 20
            try:
                engine.spin(loop, step)
                # The portable engine cannot serve by itself: the loop does.
                while silly.engine() == "native" and heard.empty():
                    assert loop.time() < deadline
                    engine.spin(loop, step)
            except BaseException as error:
                failures.append(error)

        failures: list[BaseException] = []
        loop.call_soon(poll)
        await over
        assert await heard.get() == b"two\n"
        assert [type(error) for error in failures] == [ZeroDivisionError] * fails
        reader.cancel()


async def test_busy_polling_serves_datagrams() -> None:
    async with (
        tcp.listen(ANY, echo, busy_poll=10) as listener,
        tcp.connect(listener.local_addr),
        udp.bind(ANY) as sock,
        await udp.connect(sock.local_addr) as client,
    ):
        for number in range(50):
            client.send(b"%d" % number)
            data, peer = await sock.recv(timeout=10)
            sock.send(data, peer)
            assert (await client.recv(timeout=10))[0] == b"%d" % number
            await asyncio.sleep(0.0001)  # it polls in vain


# ------------------------------------------------- in the middle of a batch


@pytest.mark.parametrize("ending", ["close", "abort", "close and replace"])
async def test_a_handler_closes_other_connections_of_its_batch(ending: str) -> None:
    handled: list[Conn] = []
    replaced: list[Conn] = []

    async def handler(conn: Conn) -> None:
        handled.append(conn)
        async for line in conn:
            if line == b"end\n":
                for other in handled:
                    if other is not conn:
                        other.abort() if ending == "abort" else other.close()
                if ending == "close and replace":  # new connections reuse the descriptors
                    pairs = [socket.socketpair() for _ in range(10)]
                    for pair in pairs:
                        pair[0].close()
                        pair[1].close()
                    replaced.extend([await tcp.connect(listener.local_addr) for _ in range(5)])
            await conn.write(line)

    async with tcp.listen(ANY, handler) as listener:
        conns = await connected(listener, 40)
        for conn in conns:
            conn.write(b"end\n")
        answers = await asyncio.gather(
            *(conn.read(b"\n") for conn in conns), return_exceptions=True
        )
        good = [answer for answer in answers if answer == b"end\n"]
        assert good
        for answer in answers:
            assert answer == b"end\n" or isinstance(answer, EndOfStream | ConnectionResetError)
        for conn in (*conns, *replaced):
            conn.close()


async def test_a_closed_connection_is_freed() -> None:
    refs: list[weakref.ref[Conn]] = []

    async def handler(conn: Conn) -> None:
        refs.append(weakref.ref(conn))
        await echo(conn)

    async with tcp.listen(ANY, handler) as listener:
        for conn in await connected(listener, 10):
            conn.close()
            await conn.wait_closed()
        del conn
    gc.collect()
    assert [ref() for ref in refs] == [None] * 10


async def test_garbage_is_collected_in_the_middle_of_a_batch() -> None:
    class Owner:  # in a reference cycle: only the garbage collector frees it
        def __init__(self, conn: Conn) -> None:
            self.conn = conn
            self.itself = self

    refs: list[weakref.ref[Conn]] = []

    async def handler(conn: Conn) -> None:
        async for line in conn:
            if line == b"collect\n":
                gc.collect()
            await conn.write(line)

    async with tcp.listen(ANY, handler) as listener:
        conns = await connected(listener, 6)
        for conn in await connected(listener, 6):
            refs.append(weakref.ref(conn))
            conn.write(b"collect\n")
            conn.abort()  # its handler sees this in the batch that collects
            Owner(conn)
        del conn
        for conn in conns:
            conn.write(b"collect\n")
        for conn in conns:
            assert await conn.read(b"\n") == b"collect\n"
            conn.close()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 6


async def test_bytes_outlive_their_connection() -> None:
    async with tcp.listen(ANY, echo) as listener:
        conn = (await connected(listener, 1))[0]
        conn.write(b"".join(b"%d\n" % number for number in range(1000)))
        lines = [await conn.read(b"\n") for _ in range(1000)]
        conn.abort()
        del conn
        gc.collect()
    assert lines == [b"%d\n" % number for number in range(1000)]


# ----------------------------------------------------------------- re-entrancy


async def test_a_handler_that_is_its_own_client() -> None:
    async def handler(conn: Conn) -> None:
        async for line in conn:
            depth = int(line)
            if depth:
                async with await tcp.connect(listener.local_addr) as inner:
                    inner.write(b"%d\n" % (depth - 1))
                    line = await inner.read(b"\n") + b""  # noqa: PLW2901
            await conn.write(line)

    async with tcp.listen(ANY, handler) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"10\n")
            assert await conn.read(b"\n") == b"0\n"


async def test_a_handler_runs_another_loop_in_a_thread() -> None:
    async def inner() -> bytes:
        async with tcp.listen(ANY, echo) as listener:
            async with await tcp.connect(listener.local_addr) as conn:
                for _ in range(100):
                    conn.write(b"inner\n")
                    line = await conn.read(b"\n")
                return line

    async def handler(conn: Conn) -> None:
        async for _ in conn:
            await conn.write(await asyncio.to_thread(asyncio.run, inner()))

    async with tcp.listen(ANY, handler) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"a\nb\n")
            assert await conn.read(12) == b"inner\ninner\n"


def test_two_loops_in_two_threads() -> None:
    failures: list[BaseException] = []

    async def main() -> None:
        async with tcp.listen(ANY, echo) as listener:
            for conn in await connected(listener, 50):
                conn.close()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@native_only
def test_a_forked_child_leaves_its_parents_connections_alone() -> None:
    script = """
import asyncio, os, sys
from silly.net import tcp

async def handler(conn):
    async for line in conn:
        child = os.fork()
        if child == 0:
            alive = conn.is_alive
            conn.close()
            os._exit(3 if alive else 4)
        _, status = os.waitpid(child, 0)
        await conn.write(b"%d\\n" % os.waitstatus_to_exitcode(status))

async def main():
    async with tcp.listen("127.0.0.1:0", handler) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            for _ in range(3):
                conn.write(b"fork\\n")
                print((await conn.read(b"\\n", timeout=10)).decode(), end="")

asyncio.run(main())
"""
    assert_prints(script, "4\n" * 3)


@native_only
def test_a_closed_connection_leaves_an_epoll_set_that_is_shared_with_a_child() -> None:
    """After os.fork the child closes its copies; but C code may fork, too."""
    script = """
import asyncio, ctypes, os, pathlib
from silly.net import tcp

def registered():
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]":
                lines = pathlib.Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
                yield from (int(line.split()[1]) for line in lines if line.startswith("tfd:"))
        except FileNotFoundError:
            pass

async def handler(conn):
    await conn.read(1)

async def main():
    async with tcp.listen("127.0.0.1:0", handler) as listener:
        staying = await tcp.connect(listener.local_addr)
        async with await tcp.connect(listener.local_addr) as leaving:
            while listener.connections < 2:
                await asyncio.sleep(0)
            before = set(registered())
            reading, writing = os.pipe()
            child = ctypes.PyDLL(None).fork()
            if child == 0:
                os.close(writing)
                os.read(reading, 1)  # until the parent is done
                os._exit(0)
            leaving.write(b"x")
            while listener.connections > 1:
                await asyncio.sleep(0)
        print(len(before - set(registered())))
        os.close(writing)
        os.waitpid(child, 0)
        staying.close()

asyncio.run(main())
"""
    assert_prints(script, "2\n")


@native_only
@pytest.mark.parametrize(
    ("action", "limit"), [("ignore", 10**9), ("error", 10**9), ("ignore", 100)]
)
def test_a_loop_that_is_dropped_takes_its_connections_along(action: str, limit: int) -> None:
    """Nobody closed it, and it does not close itself: no descriptor is left."""
    script = """
import asyncio, gc, os, warnings
from silly.net import tcp, udp

class Loop(asyncio.SelectorEventLoop):
    def __del__(self):
        pass

def descriptors():
    return len(os.listdir("/proc/self/fd"))

async def handler(conn):
    await conn.read(b"end", limit=LIMIT)

async def preface(conn):
    await conn.read(1)

async def main():
    listener = tcp.listen("127.0.0.1:0", handler, preface=preface)
    conn = await tcp.connect(listener.local_addr)
    conn.write(b"x" * 1000)
    while listener.stats.bytes_in < 1000:
        await asyncio.sleep(0)
    conn.write(bytearray(10_000_000))
    assert conn.unsent_bytes > 1_000_000
    udp.bind("127.0.0.1:0")

def run():
    Loop().run_until_complete(main())

before = descriptors()
warnings.simplefilter("ACTION", ResourceWarning)
for _ in range(3):
    run()
    gc.collect()
    gc.collect()  # what the first one has finalized
    print(descriptors() - before)
"""
    script = script.replace("ACTION", action).replace("LIMIT", str(limit))
    assert_prints(script, "0\n0\n0\n")


# -------------------------------------------------------- features of asyncio


async def test_asyncio_works_in_handlers() -> None:
    variable: contextvars.ContextVar[bytes] = contextvars.ContextVar("variable", default=b"unset")

    async def handler(conn: Conn) -> None:
        assert asyncio.current_task() is not None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(conn.read(b"\n"), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await conn.read(100)
        with anyio.move_on_after(0.001) as scope:
            await conn.read(100)
        assert scope.cancelled_caught
        reader = asyncio.create_task(conn.read(b"\n"))
        await asyncio.sleep(0)
        reader.cancel("no longer wanted")
        with pytest.raises(asyncio.CancelledError, match="no longer wanted"):
            await reader
        conn.write(b"go\n")
        variable.set(await conn.read(b"\n"))
        async with asyncio.TaskGroup() as group:
            both = [group.create_task(asyncio.to_thread(variable.get)) for _ in range(2)]
        one, other = await asyncio.gather(conn.read(b"\n"), asyncio.sleep(0, b"slept\n"))
        assert asyncio.current_task() is not None
        conn.write([variable.get(), both[0].result(), both[1].result(), one, other])

    async with tcp.listen(ANY, handler) as listener:
        conns = [await tcp.connect(listener.local_addr) for _ in range(5)]
        for number, conn in enumerate(conns):
            assert await conn.read(b"\n") == b"go\n"
            conn.write(b"%d\nx\n" % number)
        for number, conn in enumerate(conns):
            assert await conn.read(13) == b"%d\n" % number * 3 + b"x\nslept\n"[:7]
            conn.abort()


async def test_an_http_client_in_a_handler() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=(await request.read()).upper())

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = "http://{}:{}/".format(*runner.addresses[0][:2])

    async def handler(conn: Conn) -> None:
        async with ClientSession() as session:
            async for line in conn:
                async with session.post(url, data=line) as response:
                    await conn.write(await response.read())

    try:
        async with tcp.listen(ANY, handler) as listener:
            async with await tcp.connect(listener.local_addr) as conn:
                for _ in range(10):
                    conn.write(b"shout\n")
                    assert await conn.read(b"\n") == b"SHOUT\n"
    finally:
        await runner.cleanup()


async def test_a_database_client_in_a_handler() -> None:
    counts: dict[bytes, int] = {}

    async def database(conn: Conn) -> None:  # the part of the Redis protocol that `INCR` needs
        async for line in conn:
            words = []
            for _ in range(int(line[1:])):
                length = int((await conn.read(b"\r\n"))[1:])
                words.append((await conn.read(length + 2))[:-2])
            assert words[0] == b"INCRBY"
            counts[words[1]] = counts.get(words[1], 0) + int(words[2])
            await conn.write(b":%d\r\n" % counts[words[1]])

    async with tcp.listen(ANY, database) as redis_server:
        host, port = redis_server.local_addr.split(":")

        async def handler(conn: Conn) -> None:
            client = redis.Redis(
                host=host,
                port=int(port),
                protocol=2,
                driver_info=None,
                single_connection_client=True,
            )
            async with client:
                async for line in conn:
                    await conn.write(b"%d\n" % await client.incr(line.strip()))

        async with tcp.listen(ANY, handler) as listener:
            conns = [await tcp.connect(listener.local_addr) for _ in range(5)]
            for conn in conns:
                conn.write(b"visits\n" * 10)
            answers = [int(await conn.read(b"\n")) for conn in conns for _ in range(10)]
            assert sorted(answers) == list(range(1, 51))
            for conn in conns:
                conn.close()


async def test_a_read_that_is_never_awaited_warns() -> None:
    async with tcp.listen(ANY, echo) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            forgotten: list[object] = [conn.read(b"\n")]
            with pytest.warns(RuntimeWarning, match="never awaited"):
                forgotten.clear()
            if silly.engine() == "native":  # where warnings are errors, it is none of the caller's
                with warnings.catch_warnings(action="error"):
                    forgotten.append(conn.read(b"\n"))
                    forgotten.clear()
            read = conn.read(0)
            assert await read == b""
            with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                await read
    with pytest.raises(ConnectionClosed):
        await conn.read()


@native_only
async def test_a_coroutine_that_somebody_steps_by_hand() -> None:
    """As the tasks of a library of one's own do: what they do wrong hurts no connection."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    context = contextvars.copy_context()
    woken: list[object] = []

    def fail(waiter: object) -> None:
        woken.append(waiter)
        raise ZeroDivisionError

    async with tcp.listen(ANY, echo) as listener:
        by_hand, other = await connected(listener, 2)
        read: Any = by_hand.read(b"\n")
        waiter = read.send(None)
        assert not waiter.done()
        with pytest.raises(asyncio.InvalidStateError):
            waiter.result()
        waiter.add_done_callback(print, context=context)
        with pytest.raises(RuntimeError, match="only one task"):
            waiter.add_done_callback(fail, context=context)
        assert waiter.remove_done_callback(fail) == 0
        assert waiter.remove_done_callback(print) == 1
        waiter.add_done_callback(fail, context=context)
        by_hand.write(b"1\n")
        other.write(b"2\n")
        assert await other.read(b"\n", timeout=10) == b"2\n"
        while not woken:
            await asyncio.sleep(0)
        assert woken == [waiter]
        assert [type(each["exception"]) for each in reported] == [ZeroDivisionError]
        waiter.add_done_callback(woken.append, context=context)  # it is done: soon
        await asyncio.sleep(0)
        assert woken == [waiter] * 2
        with pytest.raises(StopIteration) as stop:
            read.send(None)
        assert stop.value.value == b"1\n"
        for conn in (by_hand, other):
            conn.close()


@native_only
async def test_reads_that_somebody_steps_by_hand() -> None:
    async with tcp.listen(ANY, echo) as listener, udp.bind(ANY) as sock:
        (conn,) = await connected(listener, 1)
        datagram = (b"x", sock_peer(sock))

        def line() -> None:
            conn.write(b"x\n")

        def send() -> None:
            sock.send(b"x", sock.local_addr)

        await step_by_hand(lambda: conn.read(b"\n"), line, b"x\n")
        await step_by_hand(lambda: anext(aiter(conn)), line, b"x\n", iterates=True)
        await step_by_hand(lambda: anext(conn.batches()), line, [b"x\n"], iterates=True)
        await step_by_hand(sock.recv, send, datagram)
        await step_by_hand(lambda: anext(aiter(sock)), send, datagram, iterates=True)
        conn.abort()


def sock_peer(sock: udp.Socket) -> Any:
    """The peer that a socket is to itself."""
    host, port = sock.local_addr.split(":")
    kind: Any = engine.Peer
    return kind((host, int(port)))


async def step_by_hand(
    made: Any, message: Callable[[], None], result: object, *, iterates: bool = False
) -> None:
    """Step a read of *result*, which arrives with *message*, in each way that there is."""

    async def arrive(waiter: Any) -> None:
        message()
        async with asyncio.timeout(10):
            while not waiter.done():
                await asyncio.sleep(0)

    def end(step: Any, *arguments: object) -> object:
        with pytest.raises(StopIteration) as stop:
            step(*arguments)
        return stop.value.value

    with pytest.raises(TypeError, match="just-started"):
        made().send(1)
    for step in (lambda read: read.send(None), next, lambda read: read.__next__()):
        read = made()
        waiter = step(read)
        assert repr(read) in repr(waiter)
        with pytest.raises(RuntimeError, match="awaited already"):
            step(read)
        with pytest.raises(RuntimeError, match="awaited already"):
            read.__await__()
        waiter.set_result(None)  # for no reason
        waiter = step(read)
        await arrive(waiter)
        assert end(step, read) == result

    async def wait(read: Any) -> object:
        return await read

    for thrown in ((KeyError,), (KeyError("x"),), (KeyError, "x"), (KeyError, "x", a_traceback())):
        read = made()
        task = asyncio.create_task(wait(read))
        await asyncio.sleep(0)
        with pytest.raises(KeyError) as caught:  # the task waits for what will not come
            read.throw(*thrown)
        assert (caught.traceback[-1].name == "a_traceback") == (len(thrown) == 3)
        if iterates:  # it waits for the next one
            message()
            assert await asyncio.wait_for(task, 10) == result
        else:
            with pytest.raises(RuntimeError, match="cannot reuse"):
                await asyncio.wait_for(task, 10)
    made().close()


def a_traceback() -> TracebackType:
    with pytest.raises(ZeroDivisionError) as caught:
        raise ZeroDivisionError
    return caught.tb


@native_only
async def test_a_read_that_is_woken_for_no_reason_while_its_bytes_arrive() -> None:
    async with tcp.listen(ANY, echo) as listener:
        conn = await tcp.connect(listener.local_addr, read_limit=1000)
        read: Any = conn.read(300_000)
        waiter = read.send(None)
        waiter.set_result(None)  # nobody waits now
        conn.write(bytes(299_999) + b"\n")
        async with asyncio.timeout(10):
            while conn.unread_bytes < 1000:
                await asyncio.sleep(0)
            waiter = read.send(None)
            while not waiter.done():
                await asyncio.sleep(0)
        with pytest.raises(StopIteration) as stop:
            read.send(None)
        assert len(stop.value.value) == 300_000
        conn.close()


@native_only
async def test_a_traced_program_is_served() -> None:
    """With a tracer, as a debugger has, the interpreter steps what is awaited in another way."""

    async def handler(conn: Conn) -> None:
        async for batch in conn.batches():
            conn.write(batch)
        await conn.write(b"end\n")

    async def answer(sock: udp.Socket) -> None:
        async for data, peer in sock:
            sock.send(data, peer)

    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        async with (
            tcp.listen(ANY, handler) as listener,
            tcp.connect(listener.local_addr) as conn,
            udp.bind(ANY) as server,
            await udp.connect(server.local_addr) as client,
            asyncio.timeout(10),
        ):
            waiter = engine.new_waiter(asyncio.get_running_loop())
            asyncio.get_running_loop().call_soon(waiter.set_result, None)
            await waiter
            conn.write(b"x\n")
            assert await conn.read(b"\n") == b"x\n"
            answering = asyncio.create_task(answer(server))
            client.send(b"x")
            assert (await client.recv())[0] == b"x"
            server.close()
            await answering
            conn.close_write()
            assert [line async for line in conn] == [b"end\n"]
    finally:
        sys.settrace(before)


@native_only
async def test_what_is_set_up_is_not_set_up_again() -> None:
    async with udp.bind(ANY) as sock, tcp.listen(ANY, echo) as listener:
        with pytest.raises(RuntimeError, match="set up once"), socket.socket() as other:
            sock.__init__(other, None, None, limits=None)  # type: ignore[misc]
        session = certificates.server().new_session(None)
        with pytest.raises(RuntimeError, match="initialized only once"):
            session.__init__(None, is_server=True)  # type: ignore[misc]
        assert sock.local_addr
        assert listener.local_addr
    for name in ("silly.net.asgi.plain", "silly.net.http.parts"):
        module = importlib.import_module(name)
        kinds = [object] * (2 if name.endswith("plain") else 3)
        with pytest.raises(TypeError, match="they derive from"):
            module.use(*kinds, *([print, print, 1] if len(kinds) == 3 else []))


@native_only
async def test_a_descriptor_that_cannot_be_served_is_refused_and_left_to_its_owner() -> None:
    loop = asyncio.get_running_loop()
    async with (
        tcp.listen(ANY, echo) as listener,
        await tcp.connect(listener.local_addr) as conn,
    ):
        stream: Any = type(conn)
        server: Any = type(listener._servers[0])
        with socket.socket() as sock, Path(os.devnull).open() as file:
            for number in (-1, file.fileno()):
                with pytest.raises(ValueError, match=f"{number} is not a socket"):
                    stream(number, loop, print)
            for number in (-1, file.fileno(), sock.fileno()):
                with pytest.raises(ValueError, match=f"{number} is not a listening socket"):
                    server(loop, number, print, 0.0, listener._course.gate, False)
            with pytest.raises(TypeError):
                server(loop, sock.fileno())
            os.fstat(0)  # it was not closed with what was made of this
            sock.listen()
            served = server(loop, sock.fileno(), print, 0.0, listener._course.gate, False)
            for kind, arguments in (
                (server, (loop, sock.fileno(), print, 0.0, listener._course.gate, False)),
                (stream, (sock.fileno(), loop, print)),
            ):
                with pytest.raises(OSError, match="belongs to another connection or listener"):
                    kind(*arguments)
            served.close()
            sock.detach()
        conn.write(b"x\n")
        assert await conn.read(b"\n", timeout=10) == b"x\n"


# --------------------------------------------------------------------- methods


@native_only
async def test_methods_belong_to_the_class_of_connections() -> None:
    """The interpreter calls them faster then; subclasses still override them."""

    class Overriding(EngineConn):
        def write(self, data: Any) -> Any:
            return ("written", data)

    for name in ("read", "write"):
        assert getattr(EngineConn, name).__objclass__ is EngineConn
    engine.specialize(Overriding)
    assert Overriding.write(Any, b"x") == ("written", b"x")  # type: ignore[arg-type]
    assert Overriding.__dict__["read"].__objclass__ is Overriding
    async with tcp.listen(ANY, echo) as listener, tcp.connect(listener.local_addr) as conn:
        with pytest.raises(TypeError):
            EngineConn.write(object(), b"x\n")  # type: ignore[arg-type]
        await EngineConn.write(conn, data=b"x\n")  # type: ignore[arg-type]
        assert await conn.read(until=b"\n") == b"x\n"


# ------------------------------------------------------------------ system calls


@native_only
def test_short_and_failing_system_calls_lose_nothing(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path / "faulty.so"
    source = Path(__file__).with_name("faulty.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    program = tmp_path / "server.py"
    program.write_text(
        "from silly.net import tcp\n"
        "async def echo(conn):\n"
        "    async for line in conn:\n"
        "        await conn.write(line)\n"
        'print(tcp.listen("127.0.0.1:0", echo).local_addr, flush=True)\n'
    )
    with subprocess.Popen(
        [sys.executable, "-m", "silly", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(library)},
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()

            async def talk(number: int) -> None:
                async with await tcp.connect(address) as conn:
                    for size in (1, 50, 3000, 100_000):
                        lines = [b"%d %d " % (number, k) + b"x" * size + b"\n" for k in range(5)]
                        conn.write(lines)
                        for line in lines:
                            assert await conn.read(b"\n", timeout=30) == line

            async def main() -> None:
                await asyncio.gather(*(talk(number) for number in range(20)))

            asyncio.run(main())
            server.terminate()
            assert server.wait(30) == 0, server.stderr
        finally:
            server.kill()
