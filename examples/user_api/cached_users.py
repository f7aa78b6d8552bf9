"""Users with a cache in front of the database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cache import Cache
from database import Pool, Row
from silly import task
from users import Users


class CachedUsers:
    """`Users`, of which those asked for lately are in the cache."""

    def __init__(self, database: Pool, cache: Cache) -> None:
        self._users, self._cache = Users(database), cache
        self.create, self.get_all = self._users.create, self._users.get_all
        self._load = task.single_flight(self._load_one)

    async def get(self, user_id: int) -> Row:
        """Return the user with this id; all who ask at the same time share one answer."""
        return dict(await self._load(user_id))

    async def _load_one(self, user_id: int) -> Row:
        found, lease = await self._cache.get(f"user:{user_id}")
        if found is not None:
            row: Row = json.loads(found)
            return row
        row = await self._users.get(user_id)
        await self._cache.put(f"user:{user_id}", json.dumps(row), lease)
        return row

    async def update(self, user_id: int, name: str, email: str, age: int | None) -> None:
        """Replace what is known of a user."""
        async with self.changing(user_id):
            await self._users.update(user_id, name, email, age)

    async def delete(self, user_id: int) -> None:
        """Delete a user."""
        async with self.changing(user_id):
            await self._users.delete(user_id)

    @asynccontextmanager
    async def changing(self, *user_ids: int) -> AsyncIterator[None]:
        """Have nobody be given what was there before the block.

        Also if it raises or is cancelled: the database may have made the change all the same.
        """
        try:
            yield
        finally:
            for user_id in user_ids:
                self._load.forget(user_id)
            for user_id in user_ids:
                await self._cache.delete(f"user:{user_id}")
