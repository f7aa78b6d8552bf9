"""An API of users: ``python app.py``, with a database in a file and without a cache.

With servers: ``python app.py --database mysql://silly:silly123@localhost/userdb --cache
redis://localhost``, or with the environment variables DATABASE_URL and CACHE_URL.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import silly
from cache import Cache, RedisCache
from cached_users import CachedUsers
from database import Conflict, DatabaseError, Duplicate, Pool, Unavailable
from mariadb import open_mariadb
from silly.net import http
from silly.net.limits import Limits
from sqlite import open_sqlite
from users import NotFoundError

logger = logging.getLogger("user_api")

DEADLINE = 5.0  # seconds for what a request asks of the database and the cache


@dataclass
class Services:
    """What requests are answered with."""

    database: Pool
    cache: Cache
    users: CachedUsers


# ------------------------------------------------------------------------------- answers


def done(data: Any = None, message: str | None = None, status: int = 200) -> http.Response:
    """Return a response that says that all went well."""
    answer = {"success": True, "data": data} if message is None else {"success": True}
    return http.json(answer | ({} if message is None else {"message": message}), status)


def failed(request: http.Request, error: http.HTTPError) -> http.Response:
    """Return a response that says what went wrong."""
    return http.json({"success": False, "error": error.text}, error.status, error.headers)


def logged(handler: http.Handler) -> http.Handler:
    """Print each request."""

    async def handle(request: http.Request) -> Any:
        print(f"[{datetime.now():%H:%M:%S}] {request.method} {request.target}", flush=True)  # noqa: DTZ005
        return await handler(request)

    return handle


def with_errors(handler: http.Handler) -> http.Handler:
    """Give each kind of failure its status."""

    async def handle(request: http.Request) -> Any:
        try:
            return await handler(request)
        except NotFoundError:
            raise http.HTTPError(404, "User not found") from None
        except Duplicate:
            raise http.HTTPError(409, "This email is taken") from None
        except (Unavailable, Conflict) as error:
            logger.warning("%s %s: %s", request.method, request.target, error)
            raise http.HTTPError(503, "Try again later", {"retry-after": "1"}) from None
        except DatabaseError:
            logger.exception("%s %s", request.method, request.target)
            raise http.HTTPError(500, "Database error") from None

    return handle


def with_deadline(handler: http.Handler) -> http.Handler:
    """Cancel what takes too long, down to the query."""

    async def handle(request: http.Request) -> Any:
        await request.body()  # the time that the client takes to send it is its own
        try:
            async with asyncio.timeout(DEADLINE) as deadline:
                return await handler(request)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise http.HTTPError(503, "This took too long", {"retry-after": "1"}) from None

    return handle


# -------------------------------------------------------------------------------- routes


def checked(sent: Any) -> tuple[str, str, int | None]:
    """Return the name, the email and the age that a client sent."""
    match sent:
        case {"name": str(name), "email": str(email)}:
            age = sent.get("age")
        case _:
            raise http.HTTPError(400, "Missing required fields: name, email")
    if not (0 < len(name) <= 50 and name.isprintable()):
        raise http.HTTPError(422, "name: 1 to 50 characters")
    if not (0 < len(email) <= 100 and email.isprintable() and "@" in email and " " not in email):
        raise http.HTTPError(422, "email: an address of up to 100 characters")
    if age is not None and not (type(age) is int and 0 <= age <= 200):
        raise http.HTTPError(422, "age: a number up to 200, or null")
    return name, email, age


def id_of(request: http.Request) -> int:
    """Return the id in the path, if it can be one."""
    user_id: int = request.route_params["id"]
    if user_id >= 2**31:
        raise NotFoundError
    return user_id


def routes_of(services: Services) -> http.Router:
    """Return the API."""
    users = services.users
    routes = http.Router(render=failed)
    for middleware in (logged, with_errors, with_deadline):
        routes.use(middleware)

    @routes.get("/api/users")
    async def get_users(request: http.Request) -> http.Response:
        return done(await users.get_all())

    @routes.get("/api/users/{id:int}")
    async def get_user(request: http.Request) -> http.Response:
        return done(await users.get(id_of(request)))

    @routes.post("/api/users")
    async def create_user(request: http.Request) -> http.Response:
        name, email, age = checked(await request.json())
        user_id = await users.create(name, email, age)
        return done({"id": user_id, "name": name, "email": email, "age": age}, status=201)

    @routes.put("/api/users/{id:int}")
    async def update_user(request: http.Request) -> http.Response:
        await users.update(id_of(request), *checked(await request.json()))
        return done(message="User updated successfully")

    @routes.delete("/api/users/{id:int}")
    async def delete_user(request: http.Request) -> http.Response:
        await users.delete(id_of(request))
        return done(message="User deleted successfully")

    return routes


# --------------------------------------------------------------------------------- start


@asynccontextmanager
async def opened(database_url: str, cache_url: str) -> AsyncIterator[Services]:
    """Open the database and the cache, for the time of the block."""
    if database_url.startswith("sqlite:"):
        database = open_sqlite(database_url.removeprefix("sqlite:"))
    else:
        database = open_mariadb(database_url)
    cache = RedisCache(cache_url) if cache_url else Cache()
    async with database:
        try:
            yield Services(database, cache, CachedUsers(database, cache))
        finally:
            await cache.close()


async def main(extend: Callable[[http.Router, Services], object] | None = None) -> None:
    """Serve until the program is told to stop; *extend* may add routes."""
    environ = os.environ
    parser = argparse.ArgumentParser(description="An API of users.")
    parser.add_argument("--database", default=environ.get("DATABASE_URL", "sqlite:users.db"))
    parser.add_argument("--cache", default=environ.get("CACHE_URL", ""), help="redis://…")
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="ADDR")
    options = parser.parse_args()
    async with opened(options.database, options.cache) as services:
        routes = routes_of(services)
        if extend is not None:
            extend(routes, services)
        limits = Limits(max_body_bytes=64 * 1024)
        listener = http.listen(options.listen, routes, limits=limits)
        print(f"User API on http://{listener.local_addr}", flush=True)
        print(f"Database: {options.database.rpartition('@')[2]}", flush=True)
        print(f"Cache: {services.cache.name}", flush=True)
        await listener.wait_closed()  # after the last request has been answered


if __name__ == "__main__":
    silly.run(main())
