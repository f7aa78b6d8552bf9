"""A cache in Redis, which may be wrong about nothing and may be down at any time.

Between a reader's SELECT and its write to the cache, another task may change the user and delete
the cache's copy. Then the reader would write what is no longer true. So a reader who misses takes
a *lease*: it puts a token of its own in place of the value, and later writes the value only if its
token is still there. Whoever deletes the copy deletes the token, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from silly import task
from silly.crypto.utils import randomkey

T = TypeVar("T")

logger = logging.getLogger("user_api.cache")

LEASE_TIME = 10  # seconds; a reader that is slower than this does not write to the cache
PAUSE = 1.0  # seconds without the cache, after it has failed

# Write the value only if the lease is still there; both in one step.
PUT = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('SETEX', KEYS[1], ARGV[3], ARGV[2])
    return 1
end
return 0
"""


class Cache:
    """No cache: everything is a miss. It is the base of those that are one."""

    name = "none"
    is_up = True
    hits = misses = 0

    async def get(self, key: str) -> tuple[str | None, str]:
        """Return the value or None, and then a lease, to be given to `put`."""
        self.misses += 1
        return None, ""

    async def put(self, key: str, value: str, lease: str, seconds: int = 300) -> None:
        """Keep *value* for *seconds*, unless the key was deleted since the lease was given."""

    async def delete(self, key: str) -> None:
        """Forget the value; to be called after it has changed in the database."""

    async def clear(self, pattern: str = "user:*") -> int:
        """Forget all values whose keys match; return how many there were."""
        return 0

    async def close(self) -> None:
        """Close the connections."""


class RedisCache(Cache):
    """A cache in Redis.

    While Redis is down, everything is a miss, and it is asked once a second whether it is back.
    If a deletion was not confirmed, nothing in the cache is believed until all was deleted.
    """

    def __init__(self, url: str) -> None:
        try:
            from redis import asyncio as redis  # noqa: PLC0415 - it is needed only here
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415
        except ImportError:
            raise SystemExit(f"{url}: pip install redis") from None
        self.name = url.rpartition("@")[2]
        self._errors = redis.RedisError, OSError, TimeoutError
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=10,
            timeout=0.2,  # seconds to wait for one of them
            socket_connect_timeout=0.2,
            socket_timeout=0.2,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Any = redis.Redis.from_pool(pool)
        self._put = self._redis.register_script(PUT)
        self._down_until = 0.0
        self._doubts = 0  # deletions that were not confirmed
        self._clearing: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:  # type: ignore[override]
        """Whether the cache is in use."""
        return not self._doubts and time.monotonic() >= self._down_until

    async def get(self, key: str) -> tuple[str | None, str]:
        """Return the value or None, and then a lease, to be given to `put`."""
        found = None
        if self.is_up:
            found = await self._try(lambda: self._redis.get(key))
        elif self._doubts:
            self._begin_clearing()
        if found is not None and not found.startswith("lease:"):
            self.hits += 1
            return found, ""
        self.misses += 1
        if found is not None or not self.is_up:
            return None, ""
        lease = "lease:" + randomkey(16).decode()
        has_it = await self._try(lambda: self._redis.set(key, lease, nx=True, ex=LEASE_TIME))
        return None, lease if has_it else ""

    async def put(self, key: str, value: str, lease: str, seconds: int = 300) -> None:
        """Keep *value* for *seconds*, unless the key was deleted since the lease was given."""
        if lease and self.is_up:
            await self._try(lambda: self._put(keys=[key], args=[lease, value, seconds]))

    async def delete(self, key: str) -> None:
        """Forget the value; to be called after it has changed in the database.

        The deletion is completed even if the task that asks for it is cancelled.
        """
        await asyncio.shield(task.fork(self._delete, key))

    async def _delete(self, key: str) -> None:
        if await self._try(lambda: self._redis.delete(key)) is None:
            self._doubts += 1

    async def clear(self, pattern: str = "user:*") -> int:
        """Forget all values whose keys match; return how many there were.

        SCAN goes through the keys in small steps; KEYS would stop Redis for all until it is done.
        """
        count = cursor = 0
        while True:
            cursor, keys = await self._redis.scan(cursor, match=pattern, count=500)
            count += await self._redis.unlink(*keys) if keys else 0
            if not cursor:
                return count

    def _begin_clearing(self) -> None:
        async def clear() -> None:
            before = self._doubts
            if await self._try(self.clear) is not None and self._doubts == before:
                self._doubts = 0

        if self._clearing is None or self._clearing.done():
            self._clearing = task.fork(clear)

    async def _try(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """Return what *call* returns; None if Redis failed, now or within the last second."""
        if time.monotonic() < self._down_until:
            return None
        try:
            return await call()
        except self._errors as error:
            if time.monotonic() >= self._down_until:
                logger.warning("no cache for now: %s", error)
            self._down_until = time.monotonic() + PAUSE
            return None

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
