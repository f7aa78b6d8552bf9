"""Exercise 3: a cache that is warm when the server starts: ``python warm_up.py --cache …``."""

from __future__ import annotations

import json
import logging

import silly
from app import Services, main
from database import DatabaseError
from silly import task
from silly.net import http

NUMBER, SECONDS = 100, 3600

logger = logging.getLogger("user_api")


async def warm_up(services: Services) -> int:
    """Put the users that changed last into the cache; return how many there were.

    The leases come first, then the rows: so it cannot write what was changed meanwhile.
    """
    database, cache = services.database, services.cache
    latest = f"SELECT id FROM users ORDER BY updated_at DESC, id DESC LIMIT {NUMBER}"
    leases = {}
    for row in await database.query(latest):
        found, lease = await cache.get(f"user:{row['id']}")
        if found is None and lease:
            leases[row["id"]] = lease
    if leases:
        marks = ", ".join("?" * len(leases))
        for row in await database.query(f"SELECT * FROM users WHERE id IN ({marks})", *leases):
            await cache.put(f"user:{row['id']}", json.dumps(row), leases[row["id"]], SECONDS)
    return len(leases)


def warm_up_first(routes: http.Router, services: Services) -> None:
    """Warm up beside the first requests: nobody has to wait for it, and it may fail."""

    async def warm() -> None:
        try:
            print(f"{await warm_up(services)} users are in the cache", flush=True)
        except DatabaseError as error:
            logger.warning("the cache stays cold: %s", error)

    task.fork(warm)


if __name__ == "__main__":
    silly.run(main(warm_up_first))
