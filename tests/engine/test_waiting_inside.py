"""The loop that serves connections while it waits, and everything else that a loop does.

Each test keeps connections busy meanwhile (`flood`), so that the loop is in the reactor's
wait, and the thing tested has to get it out of there.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import silly
from silly._engine import engine
from silly._engine.selector import Selector
from silly.net import tcp
from silly.net.tcp import Conn

LINE = b"x" * 63 + b"\n"
native_only = pytest.mark.skipif(engine.NAME != "native", reason="native engine only")


def run(main: Callable[[], Any], *, debug: bool = False) -> Any:
    """Run *main* in the loop that waits inside, with a deadline."""

    async def bounded() -> Any:
        async with asyncio.timeout(20):
            return await main()

    with asyncio.Runner(loop_factory=silly.loop_factory, debug=debug) as runner:
        return runner.run(bounded())


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


class Flood:
    """Connections that exchange lines all the time, served by the loop's reactor."""

    def __init__(self) -> None:
        self.count = 0

    async def exchange(self, conn: Conn) -> None:
        while True:
            conn.write(LINE)
            await conn.read(b"\n")
            self.count += 1

    async def more(self, count: int = 200) -> None:
        """Wait until *count* more lines have been exchanged."""
        until = self.count + count
        while self.count < until:
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def flood(connections: int = 3) -> AsyncIterator[Flood]:
    busy = Flood()
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        conns = [await tcp.connect(listener.local_addr) for _ in range(connections)]
        tasks = [asyncio.create_task(busy.exchange(conn)) for conn in conns]
        await busy.more(10)
        try:
            yield busy
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for conn in conns:
                conn.abort()


class Passes:
    """Counts the passes of the running loop from now on."""

    def __init__(self, each: Callable[[int], object] = lambda _: None) -> None:
        self.count = 0
        self._each = each
        selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        self._select, selector.select = selector.select, self._counted

    def _counted(self, timeout: float | None = None) -> Any:
        self.count += 1
        self._each(self.count)
        return self._select(timeout)


def test_it_is_the_loop_of_silly_run() -> None:
    async def main() -> tuple[type, type]:
        loop: Any = asyncio.get_running_loop()
        return type(loop), type(loop._selector)

    kinds = silly.run(main())
    assert kinds is not None
    assert issubclass(kinds[0], asyncio.SelectorEventLoop)
    assert kinds[1] is Selector


def test_its_callbacks_are_those_of_any_loop() -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        inside = contextvars.ContextVar("inside", default=0)
        context = contextvars.copy_context()
        context.run(inside.set, 1)
        called: list[Any] = []
        done = asyncio.Event()
        loop.call_soon(called.append, "one")
        loop.call_soon(called.append, "never").cancel()
        loop.call_soon(lambda: called.append(inside.get()), context=context)
        loop.call_soon(done.set)
        loop.set_debug(True)
        loop.call_soon(called.append, "in debug mode")
        await done.wait()
        await asyncio.sleep(0)
        return called

    assert silly.run(main()) == ["one", 1, "in debug mode"]
    loop = silly.loop_factory()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_soon(print)


def test_a_handler_starts_without_a_pass_of_the_loop() -> None:
    passes: list[int] = []
    counted: list[Passes] = []

    async def handler(_: Conn) -> None:
        passes.append(counted[0].count)

    async def main() -> None:
        async with tcp.listen("127.0.0.1:0", handler) as listener:
            host, _, port = listener.local_addr.rpartition(":")
            with socket.create_connection((host, int(port))):
                counted.append(Passes())
                while not passes:
                    await asyncio.sleep(0)

    silly.run(main())
    assert passes == [1]


BROKEN = """
import asyncio, os, silly
from silly.net import tcp

async def main():
    loop = asyncio.get_running_loop()
    tcp.listen("127.0.0.1:0", print)
    sets = {fd for fd in range(100) if os.path.exists(path := f"/proc/self/fd/{fd}")
            and os.readlink(path) == "anon_inode:[eventpoll]"}
    (reactor,) = sets - {loop._selector.fileno()}
    os.close(reactor)
    await asyncio.sleep(3600)

silly.run(main())
"""


def test_a_reactor_that_cannot_wait_ends_the_loop() -> None:
    """It would report that again and again, without ever waiting."""
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=30, check=False
    )
    assert "Bad file descriptor" in done.stderr
    assert done.returncode == 1


def test_a_policy_for_another_loop_is_respected() -> None:
    uvloop = pytest.importorskip("uvloop")
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        loop = silly.loop_factory()
    finally:
        asyncio.set_event_loop_policy(before)
    assert isinstance(loop, uvloop.Loop)
    loop.close()


@native_only
def test_a_loop_that_does_not_tell_when_it_is_stopped_is_not_waited_for_inside() -> None:
    selector = Selector()

    async def main() -> None:
        async with (
            tcp.listen("127.0.0.1:0", echo) as listener,
            tcp.connect(listener.local_addr) as conn,
        ):
            conn.write(LINE)
            assert await conn.read(b"\n", timeout=10) == LINE
            assert selector.reactor is None

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(main())


@native_only
def test_passes_of_the_loop_are_not_needed() -> None:
    # The point of it all: connections are served without a pass of the loop.
    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        async with flood(1) as busy:
            done = asyncio.Event()
            passes = Passes()
            before = busy.count
            loop.call_later(0.1, done.set)
            await done.wait()
            return passes.count, busy.count - before

    passes, lines = run(main)
    assert lines > 50
    assert passes < 10


@pytest.mark.parametrize("debug", [False, True])
def test_timers_are_not_late_in_a_flood(debug: bool) -> None:
    async def main() -> None:
        async with flood(20):
            loop = asyncio.get_running_loop()
            for delay in (0.0, 0.0005, 0.01, 0.05):
                fired = loop.create_future()
                began = loop.time()
                loop.call_later(delay, fired.set_result, None)
                await fired
                assert loop.time() - began >= delay

    run(main, debug=debug)


def test_a_timer_made_by_a_handler_that_is_served_inside_fires() -> None:
    fired = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        far = loop.call_later(3600, lambda: None)  # the wait has a later end already

        async def handle(conn: Conn) -> None:
            async for line in conn:
                if line == b"timer\n":
                    loop.call_later(0.02, conn.write, b"fired\n")
                elif line == b"sleep\n":
                    await asyncio.sleep(0.02)
                    conn.write(b"slept\n")

        async with (
            tcp.listen("127.0.0.1:0", handle) as listener,
            tcp.connect(listener.local_addr) as conn,
        ):
            conn.write(b"timer\n")
            assert await conn.read(b"\n") == b"fired\n"
            conn.write(b"sleep\n")
            assert await conn.read(b"\n") == b"slept\n"
        far.cancel()
        fired.set()

    run(main)
    assert fired.is_set()


@native_only
def test_one_timer_of_the_kernel_is_enough_for_all_of_the_loop() -> None:
    # For a timeout of each wait, the kernel would make and cancel one.
    def held() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(os.path.realpath(link).endswith("anon_inode:[timerfd]") for link in links)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        far = loop.call_later(3600, lambda: None)
        async with flood() as busy:
            await busy.more()
            assert held() == 1
            for delay in (0.02, 0.01, 0.03):
                await asyncio.sleep(delay)
                far.cancel()  # the next to be due may be a later one, too
            far = loop.call_later(3600, lambda: None)
            await busy.more()
            assert held() == 1
        while held():
            await asyncio.sleep(0)
        far.cancel()

    assert held() == 0
    run(main)
    assert held() == 0


def test_a_handler_that_reads_with_a_timeout_is_told() -> None:
    async def main() -> None:
        async def handle(conn: Conn) -> None:
            with pytest.raises(TimeoutError):
                await conn.read(b"\n", timeout=0.02)
            conn.write(b"late\n")

        async with (
            flood(),
            tcp.listen("127.0.0.1:0", handle) as listener,
            tcp.connect(listener.local_addr) as conn,
        ):
            assert await conn.read(b"\n") == b"late\n"

    run(main)


def test_other_threads_are_heard() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with flood() as busy:
            for _ in range(20):
                assert await asyncio.to_thread(lambda: 7) == 7
                heard = loop.create_future()
                thread = threading.Thread(
                    target=loop.call_soon_threadsafe, args=(heard.set_result, None)
                )
                thread.start()
                await heard
                thread.join()
            await busy.more()
        # Without traffic, while the wait has no end.
        async with tcp.listen("127.0.0.1:0", echo):
            assert await asyncio.to_thread(lambda: 8) == 8

    run(main)


def test_descriptors_of_other_libraries_are_served() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with ours, theirs:
            async with flood() as busy:
                for number in range(50):
                    await loop.sock_sendall(theirs, b"%d" % number)
                    assert await loop.sock_recv(ours, 10) == b"%d" % number
                got = loop.create_future()
                loop.add_reader(ours, got.set_result, "readable")
                await busy.more()
                assert not got.done()
                theirs.send(b"!")
                assert await got == "readable"
                loop.remove_reader(ours)
                # A transport of asyncio's, beside connections of ours.
                server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1")
                async with server:
                    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                    assert await reader.read() == b""
                    writer.close()
                    await writer.wait_closed()

    run(main)


def test_a_descriptor_added_by_a_handler_is_served() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()

        async def handle(conn: Conn) -> None:
            await conn.read(b"\n")
            loop.add_reader(ours, lambda: (ours.recv(1), conn.write(b"seen\n")))
            theirs.send(b"!")
            await conn.read()

        with ours, theirs:
            async with (
                tcp.listen("127.0.0.1:0", handle) as listener,
                tcp.connect(listener.local_addr) as conn,
            ):
                conn.write(b"\n")
                assert await conn.read(b"\n") == b"seen\n"
                loop.remove_reader(ours)
                conn.write(b"\n")

    run(main)


def test_subprocesses_work() -> None:
    async def main() -> None:
        async with flood() as busy:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "print(input()[::-1])",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, _ = await process.communicate(b"abc\n")
            assert out == b"cba\n"
            assert process.returncode == 0
            await busy.more(10)

    run(main)


def test_signals_are_handled() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for busy in (flood(), tcp.listen("127.0.0.1:0", echo)):
            async with busy:
                caught = asyncio.Event()
                loop.add_signal_handler(signal.SIGUSR2, caught.set)
                os.kill(os.getpid(), signal.SIGUSR2)
                await caught.wait()
                loop.remove_signal_handler(signal.SIGUSR2)

    run(main)


@native_only
def test_a_python_signal_handler_runs_while_the_loop_waits_for_ever() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        caught = loop.create_future()

        def handle(number: int, _: object) -> None:
            if not caught.done():
                caught.set_result(number)  # the wait sees that the loop has something to do

        before = signal.signal(signal.SIGALRM, handle)
        try:
            async with tcp.listen("127.0.0.1:0", echo):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                assert await caught == signal.SIGALRM
        finally:
            signal.signal(signal.SIGALRM, before)

    # Without the deadline of `run`, which would be a timer.
    with asyncio.Runner(loop_factory=silly.loop_factory) as runner:
        runner.run(main())


def test_control_c_ends_a_wait() -> None:
    async def main() -> None:
        async with tcp.listen("127.0.0.1:0", echo):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            await asyncio.Event().wait()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            asyncio.Runner(loop_factory=silly.loop_factory) as runner,
        ):
            runner.run(main())
    finally:
        signal.signal(signal.SIGALRM, before)


def test_stop_from_a_handler_ends_run_forever() -> None:
    loop = silly.loop_factory()

    async def handle(conn: Conn) -> None:
        await conn.read(b"\n")
        loop.stop()
        await conn.read()

    async def start() -> tuple[Any, Conn]:
        listener = tcp.listen("127.0.0.1:0", handle)
        return listener, await tcp.connect(listener.local_addr)

    listener, conn = loop.run_until_complete(start())
    conn.write(b"\n")
    watchdog = loop.call_later(20, os.abort)
    loop.run_forever()
    watchdog.cancel()
    conn.abort()
    loop.run_until_complete(listener.close(0))
    loop.close()


def test_a_loop_may_be_run_in_turns_and_closed_with_live_connections() -> None:
    loop = silly.loop_factory()
    seen: list[bytes] = []

    async def handle(conn: Conn) -> None:
        async for line in conn:
            seen.append(line)
            conn.write(line)

    async def start() -> Conn:
        listener = tcp.listen("127.0.0.1:0", handle)
        return await tcp.connect(listener.local_addr)

    async def exchange(conn: Conn) -> bytes:
        conn.write(LINE)
        return await conn.read(b"\n")

    conn = loop.run_until_complete(start())
    for _ in range(3):
        assert loop.run_until_complete(exchange(conn)) == LINE
    before = threading.active_count()
    loop.close()
    assert len(seen) == 3
    assert threading.active_count() == before
    assert not conn.is_alive


def test_the_last_write_before_the_end_is_sent() -> None:
    # Nothing waits after it: the bytes are sent by the loop's next pass.
    with socket.create_server(("127.0.0.1", 0)) as server:

        async def main() -> None:
            conn = await tcp.connect("{}:{}".format(*server.getsockname()))
            conn.write(b"last\n")

        run(main)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(10)
            assert peer.recv(100) == b"last\n"


def test_what_sending_before_the_wait_makes_the_loop_do_is_done_before_it() -> None:
    # The bytes are sent at the beginning of the wait, which has no end: nothing else would
    # end it but the callback that the failure schedules.
    late = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            late.set()
            loop.call_soon_threadsafe(lambda: None)

        watchdog = threading.Timer(10, wake)
        watchdog.start()
        with socket.create_server(("127.0.0.1", 0)) as server:
            conn = await tcp.connect("{}:{}".format(*server.getsockname()))
            peer, _ = server.accept()
            lost = loop.create_future()

            async def read() -> None:
                try:
                    await conn.read()
                except OSError as error:
                    lost.set_result(error)

            task = asyncio.create_task(read())
            await asyncio.sleep(0)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            conn.write(LINE)
            await lost
            await task
            conn.abort()
        watchdog.cancel()

    with asyncio.Runner(loop_factory=silly.loop_factory) as runner:  # no deadline, no timer
        runner.run(main())
    assert not late.is_set()


def test_a_handler_that_raises_system_exit_ends_the_program() -> None:
    async def handle(conn: Conn) -> None:
        await conn.read(b"\n")
        sys.exit(7)

    async def main() -> None:
        async with tcp.listen("127.0.0.1:0", handle) as listener:
            conn = await tcp.connect(listener.local_addr)
            conn.write(b"\n")
            await conn.read()

    with pytest.raises(SystemExit) as leave:
        run(main)
    assert leave.value.code == 7


@native_only
def test_an_error_while_waiting_is_reported_and_the_loop_goes_on() -> None:
    class Broken:
        """A timer that cannot be read, once."""

        def __init__(self, timers: list[Any]) -> None:
            self._timers = timers
            timers.insert(0, self)

        @property
        def _when(self) -> float:
            self._timers.remove(self)
            raise RuntimeError("no time")

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        errors: list[str] = []
        loop.set_exception_handler(
            lambda _, context: errors.append(f"{context['message']}: {context['exception']}")
        )

        async def handle(conn: Conn) -> None:
            async for line in conn:
                if line == b"fail\n":
                    Broken(loop._scheduled)
                conn.write(line)

        with socket.socket() as client:
            client.setblocking(False)
            async with tcp.listen("127.0.0.1:0", handle) as listener, asyncio.timeout(10):
                host, port = listener.local_addr.split(":")
                await loop.sock_connect(client, (host, int(port)))
                for line in (b"one\n", b"fail\n", b"two\n"):
                    await loop.sock_sendall(client, line)
                    assert await loop.sock_recv(client, 100) == line
                client.close()
        assert errors == ["connections could not be served: no time"]

    run(main)


def test_a_forked_child_leaves_the_loop_of_its_parent_alone() -> None:
    async def main() -> int:
        selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        async with flood() as busy:
            child = os.fork()
            if child == 0:
                try:
                    os._exit(0 if selector.reactor is None else 1)
                finally:
                    os._exit(2)
            _, status = os.waitpid(child, 0)
            await busy.more()
            return os.waitstatus_to_exitcode(status)

    assert run(main) == 0


def test_busy_polling_serves_the_rest_of_the_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with (
            tcp.listen("127.0.0.1:0", echo, busy_poll=10) as listener,
            tcp.connect(listener.local_addr) as conn,
        ):
            for number in range(20):
                conn.write(b"%d\n" % number)
                assert await conn.read(b"\n") == b"%d\n" % number
                assert await asyncio.to_thread(lambda: 7) == 7
                await asyncio.sleep(0.001)
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                with ours, theirs:
                    theirs.send(b"!")
                    assert await loop.sock_recv(ours, 1) == b"!"

    run(main)


@native_only
def test_spinning_ends_when_the_loop_has_something_to_do() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        seen = asyncio.Event()
        steps: list[int] = []
        is_watched = False

        def step() -> None:
            steps.append(1)
            if is_watched:
                theirs.send(b"!")

        async def spin() -> int:
            def callback() -> None:
                engine.spin(loop, step)
                over.set_result(len(steps))

            steps.clear()
            over: asyncio.Future[int] = loop.create_future()
            loop.call_soon(callback)
            return await over

        with ours, theirs:
            async with tcp.listen("127.0.0.1:0", echo):
                while await spin() < 2:  # if there is time
                    pass
                is_watched = True
                loop.add_reader(ours, seen.set)
                assert await spin() == 1
                await seen.wait()
                loop.remove_reader(ours)

    run(main)


@native_only
def test_polling_begins_again_with_each_message() -> None:
    polled = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def each(count: int) -> None:
            if count == 300:
                polled.set()

        def exchange(addr: str) -> None:
            host, port = addr.split(":")
            with socket.create_connection((host, int(port)), timeout=10) as client:
                for _ in range(200):
                    client.sendall(LINE)
                    assert client.recv(100) == LINE
                    if polled.wait(0.05):  # longer than it polls: it sleeps again
                        break

        async with tcp.listen("127.0.0.1:0", echo, busy_poll=0.01) as listener:
            Passes(each)
            await loop.run_in_executor(None, exchange, listener.local_addr)

    run(main)
    assert polled.is_set()


@native_only
def test_a_python_signal_handler_writes_while_the_loop_waits_for_ever() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Conn] = loop.create_future()

        async def handle(conn: Conn) -> None:
            accepted.set_result(conn)
            await conn.wait_closed()

        async with (
            tcp.listen("127.0.0.1:0", handle) as listener,
            tcp.connect(listener.local_addr) as conn,
        ):
            served = await accepted
            before = signal.signal(signal.SIGALRM, lambda *_: served.write(LINE))
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                assert await conn.read(b"\n") == LINE
            finally:
                signal.signal(signal.SIGALRM, before)
            served.close()

    run(main)


def test_a_loop_with_a_clock_of_its_own() -> None:
    """Its timers are due by that clock, which is a hundred times faster."""
    plain = silly.loop_factory()
    plain.close()

    class Fast(type(plain)):  # type: ignore[misc]
        def time(self) -> float:
            return 100 * float(super().time())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with (
            tcp.listen("127.0.0.1:0", echo) as listener,
            tcp.connect(listener.local_addr) as conn,
        ):
            for delay in (0.0, 1.0, 5.0):
                due = loop.create_future()
                began = loop.time()
                loop.call_later(delay, due.set_result, None)
                while not due.done():
                    conn.write(LINE)
                    assert await conn.read(b"\n") == LINE
                assert loop.time() - began >= delay

    with asyncio.Runner(loop_factory=lambda: Fast(Selector())) as runner:
        runner.run(asyncio.wait_for(main(), 2000))


def test_a_child_that_a_handler_forks_drops_the_rest_of_the_batch() -> None:
    """It serves none of those that were ready, but had not received yet."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        served: list[int] = []
        children: list[int] = []

        has_forked = False

        async def handle(conn: Conn) -> None:
            nonlocal has_forked
            async for _ in conn:
                served.append(os.getpid())
                if has_forked:
                    continue
                has_forked = True  # the child, too, forks no more
                if (child := os.fork()) == 0:
                    served.clear()
                    loop.call_soon(lambda: os._exit(len(served)))  # when the batch is over
                children.append(child)

        async with tcp.listen("127.0.0.1:0", handle) as listener:
            conns = [await tcp.connect(listener.local_addr) for _ in range(100)]
            while listener.connections < 100:
                await asyncio.sleep(0)
            for conn in conns:
                conn.write(LINE)
            while len(served) < 100:
                await asyncio.sleep(0)
            _, status = os.waitpid(children[0], 0)
            for conn in conns:
                conn.abort()
            assert served == [os.getpid()] * 100
            return os.waitstatus_to_exitcode(status)

    assert 0 <= run(main) < 50


def test_idle_connections_cost_nothing() -> None:
    async def main() -> None:
        async with (
            tcp.listen("127.0.0.1:0", echo) as listener,
            tcp.connect(listener.local_addr) as conn,
        ):
            conn.write(LINE)
            await conn.read(b"\n")
            passes = Passes()
            await asyncio.sleep(0.2)
            assert passes.count < 10

    run(main)
