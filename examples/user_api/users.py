"""Users in the database: create, read, update and delete."""

from __future__ import annotations

from database import Connection, Pool, Row


class NotFoundError(Exception):
    """There is no such user."""


class Users:
    """The table of users.

    Args:
        database: a pool, or a connection, for what belongs to its transaction.
    """

    def __init__(self, database: Pool | Connection) -> None:
        self._database = database

    async def create(self, name: str, email: str, age: int | None) -> int:
        """Add a user, and return the id; `Duplicate` if there is one with this email."""
        result = await self._database.execute(
            "INSERT INTO users (name, email, age) VALUES (?, ?, ?)", name, email, age
        )
        return result.last_id

    async def get(self, user_id: int) -> Row:
        """Return the user with this id."""
        rows = await self._database.query("SELECT * FROM users WHERE id = ?", user_id)
        if not rows:
            raise NotFoundError
        return rows[0]

    async def get_all(self) -> list[Row]:
        """Return all users, by id."""
        return await self._database.query("SELECT * FROM users ORDER BY id")

    async def update(self, user_id: int, name: str, email: str, age: int | None) -> None:
        """Replace what is known of a user."""
        result = await self._database.execute(
            "UPDATE users SET name = ?, email = ?, age = ? WHERE id = ?", name, email, age, user_id
        )
        if not result.affected:
            raise NotFoundError

    async def delete(self, user_id: int) -> None:
        """Delete a user."""
        result = await self._database.execute("DELETE FROM users WHERE id = ?", user_id)
        if not result.affected:
            raise NotFoundError
