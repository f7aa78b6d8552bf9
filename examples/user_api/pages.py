"""Exercise 1: users in pages: ``python pages.py``, with the options of app.py."""

from __future__ import annotations

import math
from typing import Any

import silly
from app import Services, main
from silly.net import http


def number(request: http.Request, name: str, default: int, most: int) -> int:
    """Return a number of the query, from 0 to *most*."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and int(text) <= most):
        raise http.HTTPError(400, f"{name} must be a number up to {most}")
    return int(text)


def add_pages(routes: http.Router, services: Services) -> None:
    """Add two ways to go through all users."""
    database = services.database

    @routes.get("/api/users/page")
    async def by_number(request: http.Request) -> http.Response:
        """``?page=2&size=10``: any page, but the database skips all rows before it."""
        page = max(1, number(request, "page", 1, 10**6))
        size = max(1, number(request, "size", 10, 100))
        total = (await database.query("SELECT COUNT(*) AS total FROM users"))[0]["total"]
        users = await database.query(
            "SELECT * FROM users ORDER BY id LIMIT ? OFFSET ?", size, (page - 1) * size
        )
        return answer(users, page=page, size=size, total=total, total_pages=math.ceil(total / size))

    @routes.get("/api/users/after")
    async def by_key(request: http.Request) -> http.Response:
        """``?id=20&size=10``: those behind an id, at the same cost everywhere (*keyset*).

        Nobody is left out or comes twice, although users are added and deleted meanwhile.
        """
        after = number(request, "id", 0, 2**31 - 1)
        size = max(1, number(request, "size", 10, 100))
        users = await database.query(
            "SELECT * FROM users WHERE id > ? ORDER BY id LIMIT ?", after, size
        )
        return answer(users, next=users[-1]["id"] if len(users) == size else None)


def answer(users: list[dict[str, Any]], **others: Any) -> http.Response:
    """Return a page as JSON."""
    return http.json({"success": True, "data": users, **others})


if __name__ == "__main__":
    silly.run(main(add_pages))
