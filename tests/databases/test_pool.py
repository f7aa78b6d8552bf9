"""The pool of examples/user_api: whom it lends which connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from database import Connection, DatabaseError, Pool, Result, Unavailable
from sqlite import open_sqlite

pytestmark = pytest.mark.no_engine


class Fake(Connection):
    """A connection whose answers come when the test says so."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.is_open = True
        self.ending = asyncio.Event()
        self.statements: list[str] = []

    async def _send(self, sql: str, args: tuple[object, ...]) -> Result:
        self.statements.append(sql)
        assert self.is_open
        assert not self.server.is_dead or self.server.fails, "nothing would tell it"
        if self.server.fails:
            raise self.server.fails
        if sql == "WAIT":
            await self.server.gate.wait()
        return Result([{"sql": sql}], 1, 1)

    async def close(self) -> None:
        assert not self.is_busy
        self.is_open = False

    async def abandon(self) -> None:
        self.is_open = False
        await self.server.killing.wait()


class Server:
    def __init__(self) -> None:
        self.made: list[Fake] = []
        self.gate = asyncio.Event()
        self.killing = asyncio.Event()
        self.killing.set()
        self.is_dead = False
        self.fails: Exception | None = None

    async def connect(self) -> Fake:
        if self.is_dead:
            raise Unavailable("no server")
        self.made.append(Fake(self))
        return self.made[-1]

    @property
    def open(self) -> int:
        return sum(each.is_open for each in self.made)


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_connection_is_used_again_and_by_one_task_at_a_time() -> None:
    server = Server()
    async with Pool(server.connect, size=2) as pool:
        for number in range(5):
            assert await pool.query(str(number)) == [{"sql": str(number)}]
        assert len(server.made) == 1
        waiting = [asyncio.create_task(pool.query("WAIT")) for _ in range(5)]
        await turns()
        assert (len(server.made), pool.in_use, pool.waiting) == (2, 2, 3)
        server.gate.set()
        await asyncio.gather(*waiting)
        assert (len(server.made), pool.in_use, pool.waiting) == (2, 0, 0)
    assert server.open == 0


async def test_one_that_owes_an_answer_is_not_lent_again_and_keeps_its_place_till_it_ends() -> None:
    server = Server()
    async with Pool(server.connect, size=1) as pool:
        asking = asyncio.create_task(pool.query("WAIT"))
        await turns()
        server.killing.clear()
        asking.cancel()
        await turns()
        assert asking.cancelled()
        assert server.open == 0
        next_one = asyncio.create_task(pool.query("next"))
        await turns()
        assert not next_one.done()
        server.killing.set()
        await next_one
        assert [each.statements for each in server.made] == [["WAIT"], ["next"]]


async def test_a_cancellation_that_a_driver_loses_while_it_connects_is_kept() -> None:
    server, connecting = Server(), asyncio.Event()

    async def connect() -> Connection:
        connecting.set()
        with suppress(asyncio.CancelledError):  # as `asyncio.wait_for` of Python 3.11 may do
            await asyncio.Event().wait()
        return await server.connect()

    async with Pool(connect) as pool:
        asking = asyncio.create_task(pool.query("SELECT"))
        await connecting.wait()
        asking.cancel()
        await turns()
        assert asking.cancelled()
        assert (pool.in_use, server.made[0].statements) == (0, [])
        assert await pool.query("SELECT 2") == [{"sql": "SELECT 2"}]  # it is a good one
    assert server.open == 0


async def test_an_error_is_an_answer() -> None:
    server = Server()
    async with Pool(server.connect) as pool:
        server.fails = DatabaseError("no such table")
        for _ in range(2):
            with pytest.raises(DatabaseError, match="no such table"):
                await pool.query("SELECT")
        server.fails = None
        await pool.ping()
        assert len(server.made) == 1


async def test_when_one_is_lost_the_idle_ones_are_closed_and_new_ones_are_made() -> None:
    server = Server()
    async with Pool(server.connect) as pool:
        async with pool.connection(), pool.connection(), pool.connection():
            pass
        assert server.open == 3
        server.is_dead, server.fails = True, Unavailable("server has gone away")
        for message in ("gone away", "no server", "no server"):
            with pytest.raises(Unavailable, match=message):
                await pool.query("SELECT")
        await turns()
        assert server.open == 0
        server.is_dead, server.fails = False, None
        await pool.ping()
        assert (server.open, pool.in_use) == (1, 0)


async def test_one_that_was_idle_is_asked_whether_it_lives() -> None:
    server = Server()
    async with Pool(server.connect) as pool:
        async with pool.connection(), pool.connection():
            pass
        for each in server.made:
            each.last_used -= 60
        answering, dead = server.made

        async def no_answer(sql: str, args: tuple[object, ...]) -> Result:
            raise Unavailable("it was closed")

        dead._send = no_answer  # type: ignore[method-assign]
        pool._idle.sort(key=lambda each: each is dead)  # the dead one is next
        assert await pool.query("SELECT 2") == [{"sql": "SELECT 2"}]
        assert answering.statements == ["SELECT 1", "SELECT 2"]
        await turns()
        assert not dead.is_open


async def test_old_ones_are_closed() -> None:
    server = Server()
    async with Pool(server.connect, idle=1, max_idle_time=600, max_lifetime=3600) as pool:
        async with pool.connection(), pool.connection():
            pass
        await turns()
        assert server.open == 1  # more than one are not kept
        for made, attribute, seconds in ((3, "last_used", 601), (4, "begun", 3601)):
            (idle,) = pool._idle
            setattr(idle, attribute, getattr(idle, attribute) - seconds)
            await pool.ping()
            await turns()
            assert (len(server.made), server.open) == (made, 1)


async def test_too_many_are_refused_at_once() -> None:
    server = Server()
    async with Pool(server.connect, size=1, max_waiting=2) as pool:
        waiting = [asyncio.create_task(pool.query("WAIT")) for _ in range(3)]
        await turns()
        with pytest.raises(Unavailable, match="too many wait"):
            await pool.query("SELECT")
        waiting[1].cancel()
        await turns()
        waiting.append(asyncio.create_task(pool.query("WAIT")))
        server.gate.set()
        assert len(await asyncio.gather(*waiting, return_exceptions=True)) == 4
        assert (pool.in_use, pool.waiting) == (0, 0)


async def test_a_transaction_is_committed_rolled_back_or_given_up() -> None:
    server = Server()
    async with Pool(server.connect) as pool:
        async with pool.transaction() as transaction:
            await transaction.execute("INSERT")
        with pytest.raises(KeyError):
            async with pool.transaction():
                raise KeyError
        assert server.made[0].statements == ["BEGIN", "INSERT", "COMMIT", "BEGIN", "ROLLBACK"]

        async def stay() -> None:
            async with pool.transaction():
                await asyncio.Event().wait()

        staying = asyncio.create_task(stay())
        await turns()
        staying.cancel()
        await turns()
        assert (server.open, pool.in_use) == (0, 0)  # which rolls back, too


async def test_nothing_is_rolled_back_on_a_connection_that_was_lost() -> None:
    server = Server()
    async with Pool(server.connect) as pool:
        with pytest.raises(Unavailable):
            async with pool.transaction() as transaction:
                server.fails = Unavailable("server has gone away")
                await transaction.execute("INSERT")
        assert server.made[0].statements == ["BEGIN", "INSERT"]
        assert pool.in_use == 0


async def test_a_pool_is_closed_when_the_last_has_given_back() -> None:
    server = Server()
    pool = Pool(server.connect)
    async with pool.connection() as connection:
        await pool.close()
        with pytest.raises(Unavailable, match="closed"):
            await pool.ping()
        await connection.query("SELECT")
    await turns()
    assert server.open == 0


async def test_statements_are_timed() -> None:
    seen: list[tuple[str, Any]] = []
    server = Server()
    async with Pool(server.connect, on_query=lambda *what: seen.append(what)) as pool:
        await pool.query("SELECT ?", "secret")
        server.fails = DatabaseError("no")
        with pytest.raises(DatabaseError):
            await pool.query("WRONG")
    assert [sql for sql, _ in seen] == ["SELECT ?", "WRONG"]
    assert all(seconds >= 0 for _, seconds in seen)


async def test_a_query_of_sqlite_is_interrupted(tmp_path: Path) -> None:
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) FROM n"
    async with open_sqlite(str(tmp_path / "users.db"), size=1) as pool:
        await pool.ping()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.query(forever)
        await pool.ping()
