"""The cache of examples/user_api: nobody is given what was true before, and it may be down."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import cache as cache_module
from cache import Cache, RedisCache
from cached_users import CachedUsers
from database import DatabaseError, Pool
from sqlite import open_sqlite
from tests.databases.servers import Redis
from users import NotFoundError, Users

pytestmark = pytest.mark.no_engine

Body = Callable[[Pool, RedisCache], Awaitable[None]]


def run(redis: Redis, path: Path, body: Body) -> None:
    async def use() -> None:
        cache = RedisCache(redis.url)
        try:
            async with open_sqlite(str(path / "users.db")) as database:
                await body(database, cache)
        finally:
            await cache.close()

    asyncio.run(use())


class Paused(Users):
    """Users whose readers stop between the answer of the database and what they do with it."""

    def __init__(self, database: Pool) -> None:
        super().__init__(database)
        self.reads = 0
        self.has_read, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def get(self, user_id: int) -> dict[str, Any]:
        self.reads += 1
        user = await super().get(user_id)
        self.has_read.set()
        await self.may_go_on.wait()
        return user


def paused(database: Pool, cache: Cache) -> tuple[CachedUsers, Paused]:
    users = CachedUsers(database, cache)
    users._users = slow = Paused(database)
    return users, slow


def test_what_was_read_before_a_change_is_not_written_after_it(
    redis: Redis, tmp_path: Path
) -> None:
    async def body(database: Pool, cache: RedisCache) -> None:
        reader, slow = paused(database, cache)
        writer = CachedUsers(database, RedisCache(redis.url))  # another process
        reading = asyncio.create_task(reader.get(1))
        await slow.has_read.wait()
        await writer.update(1, "Alice", "alice@example.com", 31)
        slow.may_go_on.set()
        assert (await reading)["age"] == 30  # it was asked before the change
        assert (await reader.get(1))["age"] == 31
        assert (await writer.get(1))["age"] == 31
        await writer._cache.close()

    run(redis, tmp_path, body)


def test_who_asks_after_a_change_does_not_share_the_answer_of_before(
    redis: Redis, tmp_path: Path
) -> None:
    async def body(database: Pool, cache: RedisCache) -> None:
        users, slow = paused(database, cache)
        early = [asyncio.create_task(users.get(1)) for _ in range(20)]
        await slow.has_read.wait()
        assert slow.reads == 1  # one for all
        await users.update(1, "Alice", "alice@example.com", 31)
        late = asyncio.create_task(users.get(1))
        await asyncio.sleep(0)
        slow.may_go_on.set()
        assert (await late)["age"] == 31
        assert [user["age"] for user in await asyncio.gather(*early)] == [30] * 20
        assert (await users.get(1))["age"] == 31

    run(redis, tmp_path, body)


@pytest.mark.parametrize("ending", ["an error", "a cancellation"])
def test_a_change_that_may_have_happened_is_forgotten_too(
    redis: Redis, tmp_path: Path, ending: str
) -> None:
    async def body(database: Pool, cache: RedisCache) -> None:
        users = CachedUsers(database, cache)
        await users.get(1)
        await users.get(1)
        assert cache.hits == 1

        async def change() -> None:
            async with users.changing(1):
                await users._users.update(1, "Alice", "alice@example.com", 31)
                if ending == "an error":
                    raise DatabaseError("lost while it was committed")
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                await asyncio.sleep(0)

        with pytest.raises((DatabaseError, asyncio.CancelledError)):
            await asyncio.create_task(change())
        assert (await users.get(1))["age"] == 31

    run(redis, tmp_path, body)


def test_a_deletion_that_was_lost_is_made_up_for(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "PAUSE", 0.05)

    async def body(database: Pool, cache: RedisCache) -> None:
        users = CachedUsers(database, cache)
        for _ in range(2):
            await users.get(1)
        execute = cache._redis.execute_command

        async def fail(*_: Any, **__: Any) -> None:
            raise OSError("no route to host")

        cache._redis.execute_command = fail  # Redis is there, with the old value, but out of reach
        await users.update(1, "Alice", "alice@example.com", 31)
        assert (await users.get(1))["age"] == 31
        cache._redis.execute_command = execute
        hits = cache.hits
        async with asyncio.timeout(20):
            while cache.hits == hits:
                assert (await users.get(1))["age"] == 31
                await asyncio.sleep(0.001)

    run(redis, tmp_path, body)


def test_without_redis_all_is_answered_and_it_is_not_asked_all_the_time(
    redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(database: Pool, cache: RedisCache) -> None:
        redis.kill()
        asked = 0
        execute = cache._redis.execute_command

        async def count(*args: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            return await execute(*args, **options)

        cache._redis.execute_command = count
        users = CachedUsers(database, cache)
        for age in range(20):
            await users.update(1, "Alice", "alice@example.com", age)
            assert (await users.get(1))["age"] == age
        assert asked <= 2
        assert caplog.text.count("no cache for now") == asked

    run(redis, tmp_path, body)


def test_keys_that_match_are_cleared_and_others_stay(redis: Redis, tmp_path: Path) -> None:
    async def body(database: Pool, cache: RedisCache) -> None:
        for number in range(1200):
            await cache._redis.set(f"user:{number}", "{}")
        await cache._redis.set("session:1", "other")
        assert await cache.clear("user:11*") == 111
        assert await cache.clear() == 1200 - 111
        assert await cache.clear() == 0
        assert await cache._redis.get("session:1") == "other"

    run(redis, tmp_path, body)


def test_random_readers_and_writers_never_go_back_in_time(redis: Redis, tmp_path: Path) -> None:
    """Who asks after a change was confirmed gets it, or a later one; in the end all agree."""

    async def body(database: Pool, cache: RedisCache) -> None:
        users, dice = CachedUsers(database, cache), random.Random(1)
        confirmed = written = 0

        async def write() -> None:
            nonlocal confirmed, written
            for _ in range(40):
                written += 1
                await users.update(1, "Alice", "alice@example.com", written)
                confirmed = written
                for _ in range(dice.randrange(30)):
                    await asyncio.sleep(0)

        async def read() -> None:
            while confirmed < 40:
                least = confirmed
                user = await users.get(1)
                assert least <= user["age"] <= written
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(0)

        await users.update(1, "Alice", "alice@example.com", 0)
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(read())
            group.create_task(write())
        before = cache.hits
        for _ in range(2):  # the first may have to ask the database
            assert (await users.get(1))["age"] == 40
        assert cache.hits > before

    run(redis, tmp_path, body)


def test_one_who_is_not_there_is_not_kept_either(redis: Redis, tmp_path: Path) -> None:
    async def body(database: Pool, cache: RedisCache) -> None:
        users = CachedUsers(database, cache)
        with pytest.raises(NotFoundError):
            await users.get(3)
        assert await users.create("Emma", "emma@example.com", None) == 3
        assert (await users.get(3))["name"] == "Emma"
        await users.delete(3)
        with pytest.raises(NotFoundError):
            await users.get(3)

    run(redis, tmp_path, body)
