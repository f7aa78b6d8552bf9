"""Exercise 2: many users at once, all or none: ``python batch.py``, with the options of app.py."""

from __future__ import annotations

import silly
from app import Services, checked, done, main
from silly.net import http
from users import Users


def add_batch(routes: http.Router, services: Services) -> None:
    """Add a way to create up to a hundred users in one transaction."""

    @routes.post("/api/users/batch")
    async def create_all(request: http.Request) -> http.Response:
        sent = await request.json()
        if not isinstance(sent, list) or not 0 < len(sent) <= 100:
            raise http.HTTPError(400, "A list of 1 to 100 users is required")
        users = [checked(each) for each in sent]  # all, before the transaction begins
        async with services.database.transaction() as transaction:
            ids = [await Users(transaction).create(*user) for user in users]
        return done({"ids": ids}, status=201)


if __name__ == "__main__":
    silly.run(main(add_batch))
