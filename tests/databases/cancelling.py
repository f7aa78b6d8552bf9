"""Random cancellations: whatever is cancelled when, nobody gets the answer to another's question.

``python -m tests.databases.cancelling [10000 [SEED]]`` (``make cancellations``) tries that many on
each driver.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.databases.servers import EXAMPLE, MariaDB, Redis

sys.path.insert(0, str(EXAMPLE))

from cache import RedisCache
from database import DatabaseError, Duplicate, Pool
from mariadb import open_mariadb
from sqlite import open_sqlite

Ask = Callable[[int], Awaitable[None]]


async def cancel_many(ask: Ask, cancellations: int, seed: int, workers: int = 12) -> Counter[str]:
    """Ask questions, and cancel most, until that many were cancelled before they were answered."""
    dice = random.Random(seed)
    outcomes: Counter[str] = Counter()
    numbers = iter(range(1, sys.maxsize))

    async def work() -> None:
        while outcomes["cancelled"] < cancellations:
            question = asyncio.ensure_future(ask(next(numbers)))
            kind = dice.random()
            if kind < 0.5:
                for _ in range(dice.randrange(15)):
                    await asyncio.sleep(0)
                question.cancel()
            elif kind < 0.8:
                await asyncio.wait((question,), timeout=dice.random() * 0.004)
                question.cancel()
            await asyncio.wait((question,), timeout=60)
            assert question.done(), "a question was neither answered nor cancelled"
            if question.cancelled():
                outcomes["cancelled"] += 1
            else:
                question.result()
                outcomes["answered"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())
    return outcomes


@asynccontextmanager
async def asking(pool: Pool, slow: str, seed: int) -> Any:
    """Questions to a database: answers, errors and transactions; *slow* is a slow expression."""
    dice = random.Random(seed)
    done: set[int] = set()
    table = f"pairs_{time.monotonic_ns()}"
    async with pool:
        await pool.execute(f"CREATE TABLE {table} (number INT, half INT, UNIQUE (number, half))")

        async def ask(number: int) -> None:
            kind = dice.random()
            if kind < 0.5:
                rows = await pool.query(f"SELECT ? AS number, {slow} AS slow", number)
                assert rows[0]["number"] == number, "a wrong answer"
            elif kind < 0.7:
                rows = await pool.query("SELECT ? AS number", number)
                assert rows[0]["number"] == number, "a wrong answer"
            elif kind < 0.8:
                try:
                    await pool.query("SELECT ? FROM there_is_no_such_table", number)
                except DatabaseError as error:
                    assert "there_is_no_such_table" in str(error)  # noqa: PT017
                else:
                    raise AssertionError("an error went to another")
            else:
                async with pool.transaction() as transaction:
                    for half in (1, 2):
                        result = await transaction.execute(
                            f"INSERT INTO {table} VALUES (?, ?)", number, half
                        )
                        assert result.affected == 1, "a wrong answer"
                    if kind < 0.85:
                        with suppress(Duplicate):
                            await transaction.execute(f"INSERT INTO {table} VALUES (?, 1)", number)
                done.add(number)

        yield ask
        assert (pool.in_use, pool.waiting) == (0, 0)
        # A commit whose answer was cancelled may have happened; half a transaction may not.
        rows = await pool.query(f"SELECT number FROM {table}")
        halves = Counter(row["number"] for row in rows)
        assert set(halves.values()) <= {2}, "half a transaction"
        assert done <= set(halves), "a transaction was lost"


async def on_mariadb(server: MariaDB, driver: str, cancellations: int, seed: int) -> Counter[str]:
    pool = open_mariadb(server.url(driver), size=8)
    async with asking(pool, "SLEEP(0.001)", seed) as ask:
        outcomes = await cancel_many(ask, cancellations, seed)
        until = time.monotonic() + 30
        while True:  # nothing that was cancelled goes on in the server
            rows = await pool.query("SHOW PROCESSLIST")
            if len(rows) <= 5:
                break
            assert time.monotonic() < until, rows
            await asyncio.sleep(0.01)
    return outcomes


async def on_sqlite(path: Path, cancellations: int, seed: int) -> Counter[str]:
    # The only writer: locks are waited for in threads, and that is not the subject here.
    pool = open_sqlite(str(path), size=1)
    slow = (
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "SELECT COUNT(*) FROM n)"
    )
    async with asking(pool, slow, seed) as ask:
        return await cancel_many(ask, cancellations, seed)


async def on_redis(server: Redis, cancellations: int, seed: int) -> Counter[str]:
    cache = RedisCache(server.url)

    async def ask(number: int) -> None:
        key = f"user:{number % 50}"
        value, lease = await cache.get(key)
        assert value is None or value.startswith(f"{key} is "), "a wrong answer"
        if lease:
            await cache.put(key, f"{key} is {number}", lease)
        elif number % 7 == 0:
            await cache.delete(key)

    try:
        outcomes = await cancel_many(ask, cancellations, seed, workers=8)
        assert cache.hits, "nothing was tested"
    finally:
        await cache.close()
    return outcomes


def main() -> None:
    """Try all, and print how many there were."""
    cancellations = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="silly-") as name:
        directory = Path(name)
        (directory / "m").mkdir()
        (directory / "r").mkdir()
        mariadb, redis = MariaDB(directory / "m"), Redis(directory / "r")

        async def create() -> None:
            async with open_mariadb(mariadb.url(database="information_schema")) as pool:
                await pool.execute("CREATE DATABASE userdb")

        try:
            for driver in ("asyncmy", "aiomysql"):
                if driver == "asyncmy":
                    mariadb.start()
                    asyncio.run(create())
                outcomes = asyncio.run(on_mariadb(mariadb, driver, cancellations, seed))
                print(f"{driver}: {dict(outcomes)}, no wrong answer", flush=True)
            redis.start()
            outcomes = asyncio.run(on_redis(redis, cancellations, seed))
            print(f"redis-py: {dict(outcomes)}, no wrong answer", flush=True)
        finally:
            mariadb.kill()
            redis.kill()
        outcomes = asyncio.run(on_sqlite(directory / "users.db", cancellations, seed))
        print(f"sqlite3: {dict(outcomes)}, no wrong answer", flush=True)


if __name__ == "__main__":
    if why := MariaDB.missing() or Redis.missing():
        sys.exit(why)
    main()
