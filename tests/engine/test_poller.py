"""What watches the portable engine's connections: epoll, inside the loop or nested in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import silly
from silly._engine.portable.poller import READ, WRITE, EpollPoller, LoopPoller, pollers
from silly.net import tcp
from silly.net.tcp import Conn

pytestmark = [
    pytest.mark.skipif(silly.engine() != "portable", reason="portable engine only"),
    pytest.mark.skipif(sys.platform != "linux", reason="epoll"),
]

ANY = "127.0.0.1:0"


def poller() -> EpollPoller:
    found = pollers.of(asyncio.get_running_loop())
    assert isinstance(found, EpollPoller)
    return found


def epoll_sets() -> int:
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    return sum(os.path.realpath(link).endswith("anon_inode:[eventpoll]") for link in links)


async def passes() -> None:
    """Let the loop look at everything that is ready, more than once."""
    for _ in range(10):
        await asyncio.sleep(0)


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


class Ends:
    """One end of a pair of sockets, and what is reported of it."""

    def __init__(self) -> None:
        self.sock, self.other = socket.socketpair()
        self.sock.setblocking(False)
        self.interest = 0
        self.reported: list[str] = []
        self.happened = asyncio.Event()
        self.error: BaseException | None = None

    def watch(self, interest: int) -> None:
        before, self.interest = self.interest, interest
        poller().watch(self, self.sock.fileno(), before)

    def close(self) -> None:
        if self.interest:
            self.watch(0)
        self.sock.close()
        self.other.close()

    def _report(self, what: str) -> None:
        self.reported.append(what)
        self.happened.set()
        if self.error is not None:
            raise self.error

    def readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.sock.recv(10)
        self._report("readable")

    def writable(self) -> None:
        self.watch(self.interest & ~WRITE)
        self._report("writable")


async def test_the_set_is_there_while_it_is_needed() -> None:
    before = epoll_sets()
    async with tcp.listen(ANY, echo) as listener:
        assert epoll_sets() == before + 1  # there may be no descriptor for it later
        for _ in range(3):
            async with tcp.connect(listener.local_addr) as conn:
                await conn.write(b"x\n")
                assert await conn.read(b"\n", timeout=10) == b"x\n"
                assert epoll_sets() == before + 1
    assert epoll_sets() == before


def test_a_loop_that_handlers_may_run() -> None:
    """As nest_asyncio makes them: no callback is entered twice."""
    loop: Any = asyncio.new_event_loop()
    loop._nest_patched = True
    assert isinstance(pollers.of(loop), LoopPoller)
    loop.close()


async def test_only_what_is_watched_for_is_reported() -> None:
    with contextlib.closing(Ends()) as ends:
        ends.watch(READ | WRITE)
        async with asyncio.timeout(10):
            await ends.happened.wait()
            assert ends.reported == ["writable"]
            ends.happened.clear()
            ends.other.send(b"x")
            await ends.happened.wait()
            assert ends.reported == ["writable", "readable"]
            ends.watch(0)
            ends.other.send(b"x")
            await passes()
            ends.happened.clear()
            ends.watch(WRITE)  # there is something to read, too
            await ends.happened.wait()
            assert ends.reported == ["writable", "readable", "writable"]
            ends.happened.clear()
            ends.watch(READ)
            ends.other.close()
            await ends.happened.wait()
            assert ends.reported[3:] == ["readable"]


async def test_what_one_raises_is_reported_and_the_others_are_served() -> None:
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    three = [Ends() for _ in range(3)]
    try:
        for ends in three:
            ends.error = ZeroDivisionError()
            ends.watch(READ)
            ends.other.send(b"x")
        async with asyncio.timeout(10):
            for ends in three:
                await ends.happened.wait()
        assert [context["message"] for context in reported] == [
            "a connection could not be served"
        ] * 3
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError] * 3
    finally:
        for ends in three:
            ends.close()


async def test_one_that_is_closed_by_another_of_its_batch_is_left_alone() -> None:
    class Closing(Ends):
        def readable(self) -> None:
            super().readable()
            for ends in both:
                if ends is not self:
                    ends.watch(0)

    both = [Closing(), Closing()]
    other = Ends()  # so that epoll is asked
    try:
        for ends in (*both, other):
            ends.watch(READ)
        for ends in both:
            ends.other.send(b"x")
        async with asyncio.timeout(10):
            while not (both[0].reported or both[1].reported):
                await asyncio.sleep(0)
            await passes()
        assert sorted(len(ends.reported) for ends in both) == [0, 1]
    finally:
        for ends in (*both, other):
            ends.close()


async def test_a_descriptor_that_was_closed_behind_its_owners_back() -> None:
    """Its number may be that of another socket, which is still watched."""
    first, second = Ends(), Ends()
    first.watch(READ)
    number = first.sock.detach()
    os.dup2(second.sock.fileno(), number)
    second.sock.close()
    second.sock = socket.socket(fileno=number)
    second.sock.setblocking(False)
    try:
        second.watch(READ)
        first.interest = 0
        poller().watch(first, number, READ)
        second.other.send(b"x")
        async with asyncio.timeout(10):
            await second.happened.wait()
        assert second.reported == ["readable"]
    finally:
        first.interest = 0
        first.close()
        second.close()


async def test_a_socket_that_epoll_does_not_take() -> None:
    """It is refused as before, and nothing stays behind."""
    before = epoll_sets()
    with contextlib.closing(Ends()) as ends, Path(os.devnull).open("rb") as file:
        ends.interest = READ
        with pytest.raises(PermissionError):
            poller().watch(ends, file.fileno(), 0)
        assert epoll_sets() == before
        ends.interest = 0


async def test_a_forked_child_watches_nothing_of_its_parents() -> None:
    """It does not touch the parent's set, and may have one of its own."""
    async with tcp.listen(ANY, echo) as listener, tcp.connect(listener.local_addr) as conn:
        await conn.write(b"x\n")
        assert await conn.read(b"\n", timeout=10) == b"x\n"
        ours = poller()
        watched = dict(ours._watched)
        assert watched
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                conn.abort()
                ends = Ends()
                ends.interest = READ
                ours.watch(ends, ends.sock.fileno(), 0)
                ends.other.send(b"x")
                number = ends.sock.fileno()
                os._exit(0 if ours._epoll.poll(1) == [(number, READ)] else 1)
            os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert ours._watched == watched
        await conn.write(b"y\n")
        assert await conn.read(b"\n", timeout=10) == b"y\n"
