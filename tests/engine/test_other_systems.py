"""The portable engine as it is on other systems, run here.

On Windows the loop accepts, and its transports carry connections. On systems without epoll, such
as macOS, the loop watches each socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import silly
from silly._engine.portable.poller import LoopPoller, pollers
from silly.net import tcp
from silly.net.tcp import Conn, Limits, Listener
from silly.testing import CONN_CHECKS, run_check
from tests.pairs import tcp_pair

pytestmark = [
    pytest.mark.skipif(silly.engine() != "portable", reason="portable engine only"),
    pytest.mark.skipif(sys.platform != "linux", reason="all tests run so"),
    pytest.mark.usefixtures("system"),
]

ANY = "127.0.0.1:0"


@pytest.fixture(params=["windows", "macos"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve as on a system; its name."""
    name = str(request.param)
    if name == "windows":
        monkeypatch.setattr("silly._engine.portable._IS_WATCHED", False)
    else:
        monkeypatch.setattr(pollers, "_make", LoopPoller)
    return name


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def is_served(listener: Listener) -> bool:
    async with await tcp.connect(listener.local_addr) as conn:
        await conn.write(b"x\n")
        return await conn.read(b"\n", timeout=10) == b"x\n"


async def is_refused(listener: Listener) -> bool:
    with contextlib.suppress(ConnectionResetError):
        async with await tcp.connect(listener.local_addr) as conn:
            return await conn.read(timeout=10) is None
    return True


@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
async def test_it_is_a_connection(check: Any) -> None:
    await run_check(check, tcp_pair)


async def test_connections_are_served_counted_and_refused(system: str) -> None:
    limits = Limits(max_connections=1, exempt_networks=())
    async with tcp.listen(ANY, echo, limits=limits) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            await conn.write(b"x\n")
            assert await conn.read(b"\n", timeout=10) == b"x\n"
            assert await is_refused(listener)
        await until(lambda: listener.connections == 0)
        assert await is_served(listener)
        await until(lambda: listener.connections == 0)
        with socket.socket(fileno=os.dup(listener._servers[0]._fileno)) as sock:
            assert listener.local_addr == "{}:{}".format(*sock.getsockname())
        assert listener.stats.refused == {"max_connections": 1}
        assert listener.stats.accepted == 2
        assert (listener.stats.backlog_used is None) == (system == "windows")


async def test_what_cannot_be_set_up_is_reset_and_counted_out() -> None:
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        if "echo" in getattr(coroutine, "__qualname__", ""):
            raise RuntimeError("no task")
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_exception_handler(lambda _, context: reported.append(context))
    limits = Limits(max_connections=1, exempt_networks=())
    async with tcp.listen(ANY, echo, limits=limits) as listener:
        loop.set_task_factory(factory)  # type: ignore[arg-type]
        try:
            for _ in range(3):
                assert await is_refused(listener)
                await until(lambda: listener.connections == 0)
        finally:
            loop.set_task_factory(None)
        assert len(reported) == 3
        assert await is_served(listener)


async def test_closing_frees_the_port_whether_it_had_begun_or_not() -> None:
    async with tcp.listen(ANY, echo) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            await conn.write(b"x\n")
            assert await conn.read(b"\n", timeout=10) == b"x\n"
            closing = listener.close(grace=10)
            with pytest.raises(ConnectionRefusedError):
                await tcp.connect(listener.local_addr)
            await conn.write(b"still served\n")
            assert await conn.read(b"\n", timeout=10) == b"still served\n"
        await closing
    at_once = tcp.listen(ANY, echo)
    await at_once.close()
    with pytest.raises(ConnectionRefusedError):
        await tcp.connect(at_once.local_addr)
    early = tcp.listen(ANY, echo)
    await asyncio.sleep(0)  # the loop is about to accept
    await early.close()
    with pytest.raises(ConnectionRefusedError):
        await tcp.connect(early.local_addr)
