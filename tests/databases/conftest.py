"""Servers for the tests of this directory, one of each in a process of tests, and the example."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.databases.servers import EXAMPLE, MariaDB, Redis, Server

sys.path.insert(0, str(EXAMPLE))

from mariadb import open_mariadb

S = TypeVar("S", bound=Server)


@contextmanager
def _running(kind: type[S]) -> Iterator[S]:
    if why := kind.missing():
        pytest.skip(why)
    directory = Path(tempfile.mkdtemp(prefix="silly-"))  # short, for the path of the socket
    server = kind(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    pytest.importorskip("redis")
    with _running(Redis) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDB]:
    pytest.importorskip("asyncmy")
    with _running(MariaDB) as server:
        asyncio.run(create(server))
        yield server


async def create(server: MariaDB) -> None:
    """Make the database of the tutorial, as its file of SQL does."""
    statements = (EXAMPLE / "schema.sql").read_text().split(";")
    async with (
        open_mariadb(server.url(database="information_schema")) as pool,
        pool.connection() as connection,
    ):
        for statement in statements:
            if statement.strip() and "'silly'@" not in statement:  # there are no accounts
                await connection.execute(statement)


@pytest.fixture
def mariadb(mariadb_server: MariaDB) -> MariaDB:
    """MariaDB with nobody but Alice and Bob."""

    async def empty() -> None:
        async with open_mariadb(mariadb_server.url()) as pool:
            await pool.execute("TRUNCATE TABLE users")

    mariadb_server.start()  # a test that failed may have left it dead
    asyncio.run(empty())
    asyncio.run(create(mariadb_server))
    return mariadb_server


@pytest.fixture
def redis(redis_server: Redis) -> Redis:
    """Redis with nothing in it."""
    redis_server.kill()
    redis_server.start()
    return redis_server
