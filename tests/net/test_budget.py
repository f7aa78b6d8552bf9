"""The memory budget bounds what all connections of a listener hold together."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

import silly
from silly.net import budget, tcp
from silly.net.budget import machine_memory, memory_of
from silly.net.conn import StreamConn
from silly.net.tcp import Conn, Limits
from silly.testing import run_virtual

ANY = "127.0.0.1:0"
MIB = 1 << 20


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def wait(conn: Conn) -> None:
    """Read a line, which may never be complete."""
    await conn.read(b"\n", limit=1 << 30)


async def test_unread_bytes_are_counted_and_released() -> None:
    async with tcp.listen(ANY, wait) as listener:
        clients = [await tcp.connect(listener.local_addr) for _ in range(3)]
        for client in clients:
            await client.write(b"x" * 300_000)
        await until(lambda: listener.stats.unread_bytes == 900_000)
        assert 900_000 <= listener.stats.held_bytes <= 4 * 900_000
        assert listener.stats.memory_budget == int(machine_memory() * 0.25)
        clients[0].close()
        clients[1].abort()
        await clients[2].write(b"\n")
        await until(lambda: listener.connections == 0)
        assert listener.stats.held_bytes == 0
        clients[2].close()


async def test_unsent_bytes_are_counted_and_released() -> None:
    async def send(conn: Conn) -> None:
        conn.write(b"x" * 6_000_000)
        await conn.read(b"\n")

    async with (
        tcp.listen(ANY, send) as listener,
        await tcp.connect(listener.local_addr, read_limit=1000) as client,
    ):
        await until(lambda: listener.stats.unsent_bytes > 1_000_000)
        assert listener.stats.held_bytes >= 1_000_000
        await client.read(6_000_000)
        await until(lambda: listener.stats.unsent_bytes == 0)
        await client.write(b"\n")
        await until(lambda: listener.connections == 0)
        assert listener.stats.held_bytes == 0


async def test_connections_with_the_most_memory_for_the_least_traffic_are_reset_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "silly.net")
    ended: list[BaseException] = []

    async def handler(conn: Conn) -> None:
        try:
            while True:
                await conn.read(b"\n", limit=1 << 30)
        except OSError as error:
            ended.append(error)
            raise

    limits = Limits(memory_budget=8 * MIB)
    async with tcp.listen(ANY, handler, limits=limits) as listener:
        modest = await tcp.connect(listener.local_addr)
        await modest.write(b"x" * 10_000)
        diligent = await tcp.connect(listener.local_addr)
        for _ in range(30):  # much traffic, and as much memory as each of the others
            await diligent.write(b"x" * 999_999 + b"\n")
        await diligent.write(b"x" * 1_000_000)
        greedy = [await tcp.connect(listener.local_addr) for _ in range(12)]
        for conn in greedy:
            conn.write(b"x" * 1_000_000)
        await until(lambda: bool(listener.stats.ended))
        await until(lambda: listener.stats.held_bytes <= 8 * MIB)
        await until(lambda: listener.connections == 14 - listener.stats.ended["memory_budget"])
        assert modest.is_alive
        await modest.write(b"\n")
        await diligent.write(b"\n")
        await until(lambda: len(ended) == listener.stats.ended["memory_budget"])
        assert listener.stats.handler_errors == 0
        assert all("memory_budget was exceeded" in str(error) for error in ended)
        left = listener.connections
        for conn in greedy:
            conn.abort()
        assert left >= 2
        await until(lambda: listener.connections == 2)  # these two are left
        modest.close()
        diligent.close()
        await until(lambda: listener.connections == 0)
        assert listener.stats.held_bytes == 0
    assert "memory_budget (it held the most memory for the least traffic)" in caplog.text


async def test_connections_that_linger_or_are_not_read_count_too() -> None:
    stuck = asyncio.Event()

    async def handler(conn: Conn) -> None:
        await conn.read(b"\n")
        conn.write(b"x" * 4_000_000)
        if stuck.is_set():
            return  # its bytes are sent while it lingers
        await asyncio.Event().wait()  # busy with something else

    limits = Limits(memory_budget=MIB, linger=1000)
    async with tcp.listen(ANY, handler, limits=limits) as listener:
        for _ in range(2):
            async with await tcp.connect(listener.local_addr, read_limit=1000) as client:
                client.write(b"start\n")
                await until(lambda: client.unread_bytes > 0)
                await until(lambda: listener.stats.held_bytes == 0)
                with pytest.raises(ConnectionResetError):
                    while True:
                        await client.read(4_000_000, timeout=20)
            stuck.set()
        assert listener.stats.ended == {"memory_budget": 2}
        await listener.close(0)


def test_a_share_is_of_the_memory_of_the_machine_or_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(budget, "_CGROUP_LIMITS", (str(limit),))
    machine_memory.cache_clear()
    try:
        whole = machine_memory()
        for text, expected in (("max\n", whole), ("1000000\n", 1_000_000), (f"{1 << 62}", whole)):
            limit.write_text(text)
            machine_memory.cache_clear()
            assert memory_of(Limits(memory_budget="50%")) == int(expected * 0.5)
        assert memory_of(Limits(memory_budget=12345)) == 12345
        assert memory_of(Limits(memory_budget=None)) is None
    finally:
        machine_memory.cache_clear()


@pytest.mark.parametrize("text", ["0%", "101%", "x%", "%", "25 percent", "0", "-5", "nan%", "1%1"])
def test_bad_budgets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"SILLY_MEMORY_BUDGET: .* such as 25%"):
        Limits.from_env({"SILLY_MEMORY_BUDGET": text})


def test_the_loop_runs_between_batches() -> None:
    """Ranking and resetting let the event loop run between batches."""
    shared: list[budget.MemoryBudget] = []

    class Holder:
        _held_bytes = 100
        _counts = (0, 0)
        _times = (0.0, 0.0)
        unread_bytes = 100
        is_gone = False

        def _end_for_limit(self, limit: str, error: OSError) -> None:
            self.is_gone = True
            shared[0].change(-100)

    holders = [Holder() for _ in range(3000)]
    limit, relief = 200_000, 160_000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        shared.append(
            budget.MemoryBudget(loop, limit, lambda: cast(list[StreamConn], list(holders)))
        )
        shared[0].change(100 * len(holders))
        turns = 0
        async with asyncio.timeout(20):
            while shared[0].held > relief:
                await asyncio.sleep(0)
                turns += 1
        assert turns >= len(holders) / budget.RANK_BATCH
        assert sum(holder.is_gone for holder in holders) == len(holders) - relief // 100

    asyncio.run(main())


@pytest.mark.no_engine
@pytest.mark.parametrize("failing", ["conns", "rank", "reset"])
def test_a_step_that_raises_is_retried(failing: str) -> None:
    fails = True
    raised: list[str] = []
    made: list[budget.MemoryBudget] = []

    def step(name: str) -> None:
        if fails and name == failing:
            raise ZeroDivisionError

    class Holder:
        _held_bytes = 100
        _counts = (0, 0)
        _times = (0.0, 0.0)

        @property
        def unread_bytes(self) -> int:
            step("rank")
            return 100

        def _end_for_limit(self, limit: str, error: OSError) -> None:
            step("reset")
            made[0].change(-100)

    def conns() -> list[StreamConn]:
        step("conns")
        return cast(list[StreamConn], [Holder() for _ in range(10)])

    async def main() -> None:
        nonlocal fails
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: raised.append(repr(context["exception"])))
        made.append(budget.MemoryBudget(loop, 500, conns))
        made[0].change(1000)
        await asyncio.sleep(10)
        fails = False
        await asyncio.sleep(budget.RETRY_DELAY)
        assert made[0].held == 400

    run_virtual(main())
    assert set(raised) == {"ZeroDivisionError()"}


@pytest.mark.skipif(silly.engine() != "native", reason="native engine only")
async def test_memory_stays_correct_although_counting_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The count changes after memory was freed, but before the buffer is forgotten."""
    failures: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda failure: failures.append(failure.exc_value))

    def fail(self: budget.MemoryBudget, by: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(budget.MemoryBudget, "change", fail)
    lines = [bytes([65 + number]) * 100_000 + b"\n" for number in range(20)]

    async def echo(conn: Conn) -> None:
        async for line in conn:
            await conn.write(line)

    async with (
        tcp.listen(ANY, echo) as listener,
        await tcp.connect(listener.local_addr) as client,
    ):
        for line in lines:
            client.write(line[:50_000])
            await asyncio.sleep(0)
            client.write(line[50_000:])
        for line in lines:
            assert await client.read(b"\n", timeout=20) == line
    assert failures
    assert all(type(error) is ZeroDivisionError for error in failures)
