"""Two drivers for MariaDB and MySQL: what a query costs with each.

    python experiments/database_drivers.py

Processor time per query of the whole client process, in interleaved rounds; the median of nine.
MariaDB is started for it, on a Unix socket.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.databases.servers import EXAMPLE, MariaDB

sys.path.insert(0, str(EXAMPLE))

from mariadb import open_mariadb

DRIVERS = ("asyncmy", "aiomysql")
ROUNDS = 9
JOBS = {
    "1 row": ("SELECT * FROM users WHERE id = ?", (7,), 1000),
    "100 rows": ("SELECT * FROM users", (), 100),
}


async def measure(server: MariaDB) -> None:
    """Print a row of the table for each job and driver."""
    async with open_mariadb(server.url(database="information_schema")) as pool:
        await pool.execute("CREATE DATABASE userdb")
    pools: dict[str, Any] = {name: open_mariadb(server.url(name)) for name in DRIVERS}
    create = "CREATE TABLE users (id INT PRIMARY KEY, name VARCHAR(50), email VARCHAR(100))"
    await pools["asyncmy"].execute(create)
    for number in range(100):
        await pools["asyncmy"].execute(
            "INSERT INTO users VALUES (?, ?, ?)", number, f"User {number}", f"{number}@example.com"
        )
    for job, (sql, args, number) in JOBS.items():
        costs: dict[str, list[float]] = {name: [] for name in DRIVERS}
        for _ in range(ROUNDS):
            for name, pool in pools.items():
                begun = time.process_time()
                for _ in range(number):
                    await pool.query(sql, *args)
                costs[name].append((time.process_time() - begun) / number * 1e6)
        for name, values in costs.items():
            print(f"{job:10} {name:10} {statistics.median(values):6.0f} µs of processor time")
    for pool in pools.values():
        await pool.close()


def main() -> None:
    """Start a server, measure, and stop it."""
    if why := MariaDB.missing():
        sys.exit(why)
    with tempfile.TemporaryDirectory(prefix="silly-") as directory:
        server = MariaDB(Path(directory))
        try:
            server.start()
            asyncio.run(measure(server))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
