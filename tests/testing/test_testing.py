"""The conformance suite on every kind of connection, and the virtual clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from silly import time
from silly.net import tcp
from silly.net.tcp import Conn
from silly.testing import CONN_CHECKS, check_conn, memory_pair, run_check, run_virtual
from silly.testing.conformance import Check, MakePair

CHECKS = pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)


async def socket_pairs(check: Check, addr: str) -> None:
    accepted: asyncio.Queue[Conn] = asyncio.Queue()

    async def handler(conn: Conn) -> None:
        await accepted.put(conn)
        await conn.wait_closed()

    async with tcp.listen(addr, handler) as listener:

        async def make_pair() -> tuple[Conn, Conn]:
            return await tcp.connect(listener.local_addr), await accepted.get()

        async def make_reversed() -> tuple[Conn, Conn]:
            one, other = await make_pair()
            return other, one

        for make in (make_pair, make_reversed):
            await run_check(check, make)


@CHECKS
async def test_tcp(check: Check) -> None:
    await socket_pairs(check, "127.0.0.1:0")


@CHECKS
async def test_unix(check: Check, tmp_path: Path) -> None:
    await socket_pairs(check, f"unix:{tmp_path}/x.sock")


async def make_memory_pair() -> tuple[Conn, Conn]:
    return memory_pair()


@pytest.mark.no_engine
@CHECKS
async def test_memory(check: Check) -> None:
    await run_check(check, make_memory_pair)


@pytest.mark.no_engine
@CHECKS
def test_memory_on_virtual_time(check: Check) -> None:
    run_virtual(run_check(check, make_memory_pair))


def test_check_conn_runs_all_checks_and_names_a_failing_one() -> None:
    run_virtual(check_conn(make_memory_pair))

    async def broken() -> tuple[Conn, Conn]:
        one, other = memory_pair()
        other.write(b"noise")
        return one, other

    make: MakePair = broken
    with pytest.raises(AssertionError) as failed:
        run_virtual(check_conn(make))
    assert failed.value.__notes__ == ["in the check reads_of_each_kind"]


def test_timeouts_take_no_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        one, other = memory_pair(idle_timeout=3600)
        with pytest.raises(TimeoutError):
            await one.read(timeout=600)
        await time.sleep(600)
        other.write(b"x")
        assert await one.read() == b"x"
        with pytest.raises(TimeoutError, match="Idle for 3600"):
            await one.read()
        return loop.time() - start

    assert run_virtual(main()) == pytest.approx(1200 + 3600, abs=0.01)


def test_clock_waits_for_threads_and_sockets() -> None:
    async def echo(conn: Conn) -> None:
        async for line in conn:
            await conn.write(line)

    async def main() -> None:
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(sum, [1, 2]) == 3
            async with tcp.listen("127.0.0.1:0", echo) as listener:
                async with await tcp.connect(listener.local_addr) as conn:
                    conn.write(b"hello\n")
                    assert await conn.read(b"\n", timeout=1) == b"hello\n"

    run_virtual(main())
