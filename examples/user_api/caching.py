"""Step 3: a miss, a hit, a change, a miss: ``python caching.py redis://localhost [DATABASE]``."""

import sys

import silly
from app import opened


async def main() -> None:
    """Ask for a user four times."""
    cache_url = sys.argv[1] if len(sys.argv) > 1 else ""
    url = sys.argv[2] if len(sys.argv) > 2 else "sqlite:users.db"
    async with opened(url, cache_url) as services:
        users, cache = services.users, services.cache
        await cache.clear()

        async def ask() -> None:
            hits = cache.hits
            user = await users.get(1)
            print("hit: " if cache.hits > hits else "miss:", user["name"], user["age"])

        await ask()
        await ask()
        user = await users.get(1)
        await users.update(1, user["name"], user["email"], user["age"] + 1)
        print("changed")
        await ask()
        await ask()


silly.run(main())
