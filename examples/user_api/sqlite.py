"""SQLite, which is a part of Python: a database in a file, without a server.

Its calls block, so each connection has a thread in which they run.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from database import Conflict, Connection, DatabaseError, Duplicate, Pool, Result, Unavailable

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name VARCHAR(50) NOT NULL CHECK (length(name) <= 50),
    email VARCHAR(100) NOT NULL UNIQUE COLLATE NOCASE CHECK (length(email) <= 100),
    age INT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TRIGGER IF NOT EXISTS users_updated AFTER UPDATE OF name, email, age ON users BEGIN
    UPDATE users SET updated_at = CURRENT_TIMESTAMP WHERE id = new.id;
END;
INSERT INTO users (name, email, age) SELECT * FROM (
    SELECT 'Alice', 'alice@example.com', 30 UNION ALL SELECT 'Bob', 'bob@example.com', 25
) WHERE NOT EXISTS (SELECT * FROM sqlite_sequence WHERE name = 'users');
"""


class SQLiteConnection(Connection):
    """A connection, and its thread."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = ThreadPoolExecutor(1, "sqlite")
        self._database: sqlite3.Connection | None = None

    async def open(self, path: str) -> None:
        """Open the file *path*; make it if there is none."""
        self.is_busy = True
        try:
            await asyncio.wrap_future(self._thread.submit(self._open, path))
        except sqlite3.Error as error:
            raise Unavailable(f"{path}: {error}") from error
        self.is_busy = False

    def _open(self, path: str) -> None:
        self._database = database = sqlite3.connect(
            path, timeout=1, isolation_level=None, check_same_thread=False
        )
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA journal_mode = WAL")  # readers and a writer, at once
        database.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")

    async def begin(self) -> None:
        """Begin a transaction which may write; others wait."""
        self.in_transaction = True
        await self.execute("BEGIN IMMEDIATE")

    async def _send(self, sql: str, args: tuple[object, ...]) -> Result:
        try:
            return await asyncio.wrap_future(self._thread.submit(self._run, sql, args))
        except sqlite3.IntegrityError as error:
            kind = Duplicate if "UNIQUE" in str(error) else DatabaseError
            raise kind(str(error)) from error
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            raise (Conflict if is_busy else DatabaseError)(str(error)) from error
        except (sqlite3.Error, OverflowError) as error:
            raise DatabaseError(str(error)) from error

    def _run(self, sql: str, args: tuple[object, ...]) -> Result:
        assert self._database is not None
        cursor = self._database.execute(sql, args)
        rows = [dict(row) for row in cursor]
        return Result(rows, cursor.rowcount, cursor.lastrowid or 0)

    async def close(self) -> None:
        """Close the file, and end the thread; also if this is cancelled."""
        closing = asyncio.wrap_future(self._begin_close())
        await asyncio.wait((closing,))
        closing.result()

    def _begin_close(self) -> Future[None]:
        def close() -> None:
            database, self._database = self._database, None
            if database is not None:
                database.close()

        closing = self._thread.submit(close)
        self._thread.shutdown(wait=False)
        return closing

    async def abandon(self) -> None:
        """Interrupt the query, and close the file when it has ended."""
        closing = asyncio.wrap_future(self._begin_close())
        while not closing.done():
            if (database := self._database) is not None:
                database.interrupt()  # again and again: perhaps it has only just begun
            await asyncio.wait((closing,), timeout=0.02)
        closing.result()


def open_sqlite(path: str, **options: Any) -> Pool:
    """Return a pool for the file *path*, which is made when it is first used."""

    async def connect() -> Connection:
        connection = SQLiteConnection()
        try:
            await connection.open(path)
        except BaseException:
            await connection.abandon()
            raise
        return connection

    return Pool(connect, **{"size": 4, "idle": 4, **options})
