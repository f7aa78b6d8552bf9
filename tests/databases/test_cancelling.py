"""Some hundred random cancellations for each driver; ``make cancellations`` tries 10,000."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.databases import cancelling
from tests.databases.servers import MariaDB, Redis

pytestmark = pytest.mark.no_engine


@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
def test_on_mariadb(mariadb: MariaDB, driver: str) -> None:
    pytest.importorskip(driver)
    outcomes = asyncio.run(cancelling.on_mariadb(mariadb, driver, 150, seed=1))
    assert outcomes["answered"] > 20


def test_on_redis(redis: Redis) -> None:
    asyncio.run(cancelling.on_redis(redis, 100, seed=1))


def test_on_sqlite(tmp_path: Path) -> None:
    asyncio.run(cancelling.on_sqlite(tmp_path / "users.db", 100, seed=1))
