"""A connection that cannot be set up is closed and uncounted, and its client is told."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from silly import streams
from silly.net import clients, tcp
from silly.net.conn import EngineConn
from silly.net.course import Course
from silly.net.observer import Ending
from silly.net.tcp import Conn, Limits, Listener

ANY = "127.0.0.1:0"
COUNTED = Limits(max_connections=3, max_per_client=3, exempt_networks=())


class AnyError(BaseException):
    """Not caught by `except Exception`."""


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


def client_of(listener: Listener) -> socket.socket:
    host, port = listener.local_addr.rsplit(":", 1)
    client = socket.create_connection((host, int(port)), timeout=10)
    client.setblocking(False)
    return client


async def end_of(client: socket.socket) -> bytes | OSError:
    """Return what the client sees: bytes, b"" for the end of the stream, or an error."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 10)
    except OSError as error:
        return error


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def is_served(listener: Listener) -> bool:
    async with await tcp.connect(listener.local_addr) as conn:
        await conn.write(b"well?\n")
        return await conn.read(b"\n", timeout=10) == b"well?\n"


async def nothing(conn: Conn) -> None:
    """Be a preface that lets all connections in."""


@pytest.mark.parametrize("preface", [None, nothing])
@pytest.mark.parametrize("error", [RuntimeError, AnyError])
async def test_the_task_factory_fails(error: type[BaseException], preface: Any) -> None:
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    makes_tasks = False

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        if "echo" in getattr(coroutine, "__qualname__", "") and not makes_tasks:
            raise error("no task")
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)  # type: ignore[arg-type]
    try:
        async with tcp.listen(ANY, echo, limits=COUNTED, preface=preface) as listener:
            for _ in range(5):  # more than the limit of connections
                with client_of(listener) as client:
                    assert isinstance(await end_of(client), ConnectionResetError)
                await until(lambda: listener.connections == 0)
            assert len(reported) == 5
            makes_tasks = True
            assert await is_served(listener)
            assert listener.stats.accepted == 1
            assert not listener.stats.refused
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("error", [ValueError, AnyError])
async def test_a_handler_function_crashes(error: type[BaseException]) -> None:
    crashes = True

    def handler(conn: Conn) -> Coroutine[Any, Any, None]:
        if crashes:
            raise error("at once")
        return echo(conn)

    async with tcp.listen(ANY, handler, limits=COUNTED) as listener:
        for _ in range(5):
            with client_of(listener) as client:
                assert await end_of(client) == b""
            await until(lambda: listener.connections == 0)
        assert listener.stats.handler_errors_by_type == {error.__name__: 5}
        crashes = False
        assert await is_served(listener)


async def test_an_observer_is_told_of_a_connection_without_a_handler() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    endings: list[Ending] = []

    class Watcher:
        def opened(self, conn: Conn, listener: Listener) -> None: ...
        def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:
            endings.append(ending)

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        if "echo" in getattr(coroutine, "__qualname__", ""):
            raise ZeroDivisionError
        return asyncio.Task(coroutine, loop=loop, **options)

    async with tcp.listen(ANY, echo, observer=Watcher()) as listener:
        loop.set_task_factory(factory)  # type: ignore[arg-type]
        try:
            with client_of(listener) as client:
                assert isinstance(await end_of(client), ConnectionResetError)
            await until(lambda: bool(endings))
        finally:
            loop.set_task_factory(None)
    assert [ending.how for ending in endings] == ["handler_error"]
    assert isinstance(endings[0].error, ZeroDivisionError)


@pytest.mark.parametrize("value", [2**62, 2**64, 2**100])
async def test_limits_of_any_size(value: int) -> None:
    async with tcp.listen(ANY, echo, read_limit=value, max_unsent=value) as listener:
        assert await is_served(listener)
        async with await tcp.connect(
            listener.local_addr, read_limit=value, max_unsent=value
        ) as conn:
            conn.read_limit = conn.max_unsent = value
            await conn.write(b"x\n")
            assert await conn.read(b"\n") == b"x\n"


async def test_no_connection_can_be_made_of_a_socket(
    monkeypatch: pytest.MonkeyPatch, loop_kind: str
) -> None:
    """It is closed, and counted out; the next ones are served."""
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))

    start = Course.start
    can_start = False

    def fails(*_: object, **__: object) -> EngineConn:
        raise ZeroDivisionError

    def sometimes(self: Course, carrier: Any) -> EngineConn:
        return cast(EngineConn, start(self, carrier)) if can_start else fails()

    monkeypatch.setattr(Course, "start", sometimes)
    async with tcp.listen(ANY, echo, limits=COUNTED) as listener:
        for _ in range(5):  # more than the limit of connections
            with client_of(listener) as client:
                assert isinstance(await end_of(client), ConnectionResetError)
            await until(lambda: listener.connections == 0)
        can_start = True
        assert await is_served(listener)
        assert len(reported) == 5
        with monkeypatch.context() as patch:
            patch.setattr(clients, "EngineConn", fails)
            ours, theirs = socket.socketpair()
            with theirs:
                with pytest.raises(ZeroDivisionError):
                    await streams.open_connection(sock=ours)
                assert ours.fileno() == -1
                assert theirs.recv(1) == b""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_accepting_affects_only_that_connection(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler may raise it at any point."""
    start = Course.start
    interruptions = [error]

    def interrupted(self: Course, carrier: Any) -> EngineConn:
        if interruptions:
            raise interruptions.pop()
        return cast(EngineConn, start(self, carrier))

    monkeypatch.setattr(Course, "start", interrupted)
    loop = asyncio.new_event_loop()

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        """Run *main*, and restart the loop whenever *error* stops it."""
        task = loop.create_task(main)
        while not task.done():
            with contextlib.suppress(error):
                loop.run_until_complete(task)
        return task.result()

    async def begin() -> Listener:
        return tcp.listen(ANY, echo)

    async def rest(listener: Listener) -> None:
        with client_of(listener) as client:
            assert isinstance(await end_of(client), ConnectionResetError)
        assert not interruptions
        assert listener.connections == 0
        # The next connection has its own addresses, not those of the interrupted one.
        async with await tcp.connect(listener.local_addr) as conn:
            assert conn.remote_addr == listener.local_addr
        assert await is_served(listener)
        await listener.close()

    run(rest(run(begin())))
    loop.close()


@pytest.mark.parametrize("name", ["path", "abstract"])
async def test_a_unix_peer_with_a_name_of_maximal_length(name: str, tmp_path: Path) -> None:
    """108 bytes, without the NUL that ends shorter ones (unix(7))."""
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def tell(conn: Conn) -> None:
        seen.set_result(conn.remote_addr)

    directory = Path(tempfile.mkdtemp(prefix="s"))
    full = os.fsencode(directory / "p") if name == "path" else b"\0%d" % os.getpid()
    full += b"x" * (108 - len(full))
    try:
        async with tcp.listen(f"unix:{tmp_path / 'listens'}", tell):
            with socket.socket(socket.AF_UNIX) as client:
                # Python's own bind refuses such a path.
                address = socket.AF_UNIX.to_bytes(2, sys.byteorder) + full
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.bind(client.fileno(), address, len(address)) == 0, ctypes.get_errno()
                client.connect(str(tmp_path / "listens"))
                shown = await asyncio.wait_for(seen, 10)
        assert shown == (
            f"unix:{os.fsdecode(full)}" if name == "path" else f"unix:@{os.fsdecode(full[1:])}"
        )
    finally:
        shutil.rmtree(directory)


OBSERVED = b"g" * 1_000_000


async def test_an_observers_writes_count_for_backpressure() -> None:
    full = asyncio.Event()

    class Greeter:
        def opened(self, conn: Conn, listener: Listener) -> None:
            for _ in range(8):
                conn.write(OBSERVED)

        def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None: ...

    async def handler(conn: Conn) -> None:
        room = asyncio.ensure_future(conn.write(b"x"))
        await asyncio.sleep(0)
        if not room.done():
            full.set()
        await room

    async with (
        tcp.listen(ANY, handler, observer=Greeter()) as listener,
        await tcp.connect(listener.local_addr, read_limit=10) as conn,
    ):
        await asyncio.wait_for(full.wait(), 10)
        assert len(await conn.read(len(OBSERVED) * 8 + 1)) == len(OBSERVED) * 8 + 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_a_listening_socket_that_was_shut_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        tcp.listen(ANY, echo) as listener,
        await tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(b"before\n")
        assert await conn.read(b"\n") == b"before\n"
        port = int(listener.local_addr.rpartition(":")[2])
        for number in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208
            try:
                mode = os.fstat(number).st_mode
            except OSError:
                continue  # the descriptor of the listing itself
            if stat.S_ISSOCK(mode):
                with socket.socket(fileno=os.dup(number)) as other:  # like an inherited copy
                    if (
                        other.family == socket.AF_INET
                        and other.getsockname()[1] == port
                        and other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    ):
                        other.shutdown(socket.SHUT_RDWR)
        await until(lambda: listener.stats.accept_stalls > 0)
        turns = 0
        while turns < 50:  # the server does not spin meanwhile
            await asyncio.sleep(0)
            turns += 1
        assert listener.stats.accept_stalls == 1
        await conn.write(b"after\n")
        assert await conn.read(b"\n") == b"after\n"
    assert "cannot accept: Invalid argument" in caplog.text
