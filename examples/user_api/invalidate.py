"""Exercise 4: forget what is in the cache, by pattern: ``python invalidate.py --cache …``."""

from __future__ import annotations

import hmac
import os

import silly
from app import Services, done, main
from silly.net import http

TOKEN = os.environ.get("ADMIN_TOKEN", "secret")


def add_invalidation(routes: http.Router, services: Services) -> None:
    """Add DELETE /api/cache?pattern=user:1*, for those who know the token."""

    @routes.delete("/api/cache")
    async def invalidate(request: http.Request) -> http.Response:
        sent = request.headers.get("authorization", "")
        if not hmac.compare_digest(sent.encode(), f"Bearer {TOKEN}".encode()):
            raise http.HTTPError(401, headers={"www-authenticate": "Bearer"})
        pattern = request.query.get("pattern", "user:*")
        if not pattern.startswith("user:"):
            raise http.HTTPError(400, "pattern must begin with user:")
        return done({"deleted": await services.cache.clear(pattern)})


if __name__ == "__main__":
    silly.run(main(add_invalidation))
