"""Step 2: create, read, update and delete a user: ``python crud.py [sqlite:FILE | mysql://…]``."""

import sys

import silly
from app import opened
from database import Duplicate
from users import NotFoundError, Users


async def main() -> None:
    """Do with a user all that can be done."""
    url = sys.argv[1] if len(sys.argv) > 1 else "sqlite:users.db"
    async with opened(url, "") as services:
        users = Users(services.database)

        print("=== Create ===")
        user_id = await users.create("Charlie", "charlie@example.com", 28)
        print("Created user", user_id)
        try:
            await users.create("Another", "charlie@example.com", None)
        except Duplicate as error:
            print("Refused:", error)

        print("=== Get ===")
        user = await users.get(user_id)
        print(user["name"], user["email"], user["age"])

        print("=== List ===")
        for user in await users.get_all():
            print(user["id"], user["name"])

        print("=== Update ===")
        for _ in range(2):  # the second changes nothing, and finds the user all the same
            await users.update(user_id, "Charlie Brown", "charlie@example.com", 29)
        print((await users.get(user_id))["name"])

        print("=== Delete ===")
        await users.delete(user_id)
        try:
            await users.get(user_id)
        except NotFoundError:
            print("User not found")


silly.run(main())
