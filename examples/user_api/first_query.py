"""Step 1: open a pool, ask, print, close: ``python first_query.py [URL]``."""

import sys

import silly
from database import DatabaseError
from mariadb import open_mariadb
from sqlite import open_sqlite


async def main() -> None:
    """Print all users."""
    url = sys.argv[1] if len(sys.argv) > 1 else "sqlite:users.db"
    if url.startswith("sqlite:"):
        database = open_sqlite(url.removeprefix("sqlite:"))
    else:
        database = open_mariadb(url)
    async with database:
        try:
            await database.ping()
        except DatabaseError as error:
            sys.exit(f"No database: {error}")
        print("Connected")
        for user in await database.query("SELECT * FROM users ORDER BY id"):
            print(f"{user['id']}: {user['name']}, {user['email']}, {user['age']}")


silly.run(main())
