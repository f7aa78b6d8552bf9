"""MariaDB and MySQL, with asyncmy or aiomysql, which are used alike."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from database import Conflict, Connection, DatabaseError, Duplicate, Pool, Result, Unavailable

# https://mariadb.com/kb/en/mariadb-error-codes/
DUPLICATE = {1062}
CONFLICT = {1205, 1213}  # waited too long for a lock; deadlock
# Of the server: too many connections, shutdown, killed. Of the driver, all from 2000 on.
UNAVAILABLE = {1040, 1053, 1317, 1927}
FOUND_ROWS = 2  # count the rows that an UPDATE has found, not only those that it has changed


class MariaDBConnection(Connection):
    """A connection of either driver.

    Args:
        driver: the module.
        options: of its `connect`.
    """

    FOR_UPDATE = " FOR UPDATE"

    def __init__(self, driver: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self._driver, self._options = driver, options
        self._rows: Any = importlib.import_module(f"{driver.__name__}.cursors").DictCursor
        self._error: Any = driver.Error if driver.__name__ == "aiomysql" else driver.errors.Error
        self._raw: Any = None

    async def open(self) -> None:
        """Connect and log in."""
        with self._errors():
            self._raw = await self._driver.connect(**self._options)

    async def _send(self, sql: str, args: tuple[object, ...]) -> Result:
        if args:  # the drivers write values as %s
            sql = sql.replace("%", "%%").replace("?", "%s")
        with self._errors():
            async with self._raw.cursor(self._rows) as cursor:
                affected = await cursor.execute(sql, args or None)
                rows = await cursor.fetchall() if cursor.description else ()
        return Result([_plain(row) for row in rows], affected, cursor.lastrowid or 0)

    @contextlib.contextmanager
    def _errors(self) -> Any:
        try:
            yield
        except self._error as error:
            number = error.args[0] if error.args and isinstance(error.args[0], int) else 2000
            if number in DUPLICATE:
                raise Duplicate(str(error)) from error
            if number in CONFLICT:
                raise Conflict(str(error)) from error
            if number in UNAVAILABLE or not 1000 <= number < 2000:
                raise Unavailable(str(error)) from error
            raise DatabaseError(str(error)) from error
        except (OSError, EOFError, TimeoutError) as error:
            raise Unavailable(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Say goodbye, and close the connection."""
        with self._errors():
            await self._raw.ensure_closed()

    async def abandon(self) -> None:
        """Close the connection. The server would finish the query first: have it killed."""
        number, is_busy = self._raw.thread_id(), self.is_busy and not self.is_lost
        self._raw.close()
        if is_busy:
            killer = MariaDBConnection(self._driver, self._options)
            async with asyncio.timeout(5):
                await killer.open()
                with contextlib.suppress(DatabaseError):  # it has ended already
                    await killer.execute(f"KILL {number}")
                await killer.close()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, datetime) else value for name, value in row.items()
    }


def open_mariadb(url: str, **options: Any) -> Pool:
    """Return a pool for a URL, ``mysql://user:password@host:3306/database``.

    ``mysql+aiomysql://…`` uses that driver instead of asyncmy, and ``?unix_socket=/path`` a
    socket instead of host and port.
    """
    parts = urlsplit(url)
    _, _, name = parts.scheme.partition("+")
    try:
        driver = importlib.import_module(name or "asyncmy")
    except ImportError:
        raise SystemExit(f"{url}: pip install {name or 'asyncmy'}") from None
    settings = {
        "host": parts.hostname or "localhost",
        "port": parts.port or 3306,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "db": unquote(parts.path.removeprefix("/")),
        "charset": "utf8mb4",
        "autocommit": True,
        "client_flag": FOUND_ROWS,
        "connect_timeout": 2,
        "init_command": "SET time_zone = '+00:00', innodb_lock_wait_timeout = 3, sql_notes = 0",
        **dict(parse_qsl(parts.query)),
    }

    async def connect() -> Connection:
        connection = MariaDBConnection(driver, settings)
        await connection.open()
        return connection

    return Pool(connect, **options)
