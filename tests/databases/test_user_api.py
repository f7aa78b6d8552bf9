"""The API of users over HTTP: what it answers, with servers killed under load, and its end."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mariadb import open_mariadb
from tests.databases.apps import API, App, client, serving
from tests.databases.servers import MariaDB, Redis, Server

EMMA = {"name": "Emma", "email": "emma@example.com", "age": 27}


async def use(api: API) -> None:
    """Do everything that the tutorial does, and all that can go wrong."""
    status, users = await api("GET")
    assert (status, [user["name"] for user in users]) == (200, ["Alice", "Bob"])
    assert list(users[0]) == ["id", "name", "email", "age", "created_at", "updated_at"]
    for _ in range(2):  # the second is from the cache, if there is one
        assert await api("GET", "/1") == (200, users[0])
    assert await api("POST", json=EMMA) == (201, {"id": 3, **EMMA})
    twice = {**EMMA, "email": "ALICE@example.com"}
    assert await api("POST", json=twice) == (409, "This email is taken")
    changed = {"name": "Emma Watson", "email": "emma.watson@example.com", "age": None}
    for _ in range(2):  # that nothing changes does not mean that there is nobody
        assert await api("PUT", "/3", json=changed) == (200, "User updated successfully")
    status, user = await api("GET", "/3")
    assert (status, user | changed) == (200, user)
    assert (await api("PUT", "/3", json=twice))[0] == 409
    assert await api("DELETE", "/3") == (200, "User deleted successfully")
    for method in ("GET", "DELETE"):
        assert await api(method, "/3") == (404, "User not found")
    assert await api("PUT", "/9999", json=EMMA) == (404, "User not found")
    assert (await api("GET", f"/{10**30}"))[0] == 404
    assert (await api("GET", "/1/2"))[0] == 404
    assert (await api("PATCH", "/1"))[0] == 405
    incomplete: list[Any] = [{"name": "x"}, {"email": "a@b"}, [], {"name": 5, "email": "a@b"}]
    for wrong in incomplete:
        answer = await api("POST", json=wrong)
        assert answer == (400, "Missing required fields: name, email")
    assert await api("POST", data=b"{") == (400, "the body is not valid JSON")
    for unfit in (
        {"name": ""}, {"name": "x" * 51}, {"name": "\ud800"}, {"name": "a\0b"}, {"email": "none"},
        {"email": "@" * 101}, {"age": -1}, {"age": True}, {"age": "27"}, {"age": 10**30},
    ):  # fmt: skip
        body = json.dumps(EMMA | unfit).encode()
        assert (await api("POST", data=body))[0] == 422, unfit
    strange = {"name": "Robert'); DROP -- ?%s%d\\", "email": "ü\"'`@例え.jp", "age": 0}
    status, user = await api("POST", json=strange)
    assert (status, {**user, **strange}) == (201, user)
    assert (await api("GET", f"/{user['id']}"))[1]["name"] == strange["name"]
    await asyncio.gather(*(api("GET", "/1") for _ in range(50)))


def drive(app: App, use: Callable[[API], Any]) -> Any:
    async def run() -> Any:
        async with client(app) as connections:
            return await use(API(connections))

    return asyncio.run(run())


def test_with_nothing_installed_it_uses_a_file(tmp_path: Path) -> None:
    with serving(directory=tmp_path) as app:
        assert app.cache == "Cache: none\n"
        drive(app, use)
        output = app.stop()
    assert "] POST /api/users\n" in output
    assert (tmp_path / "users.db").exists()


@pytest.mark.no_engine
def test_with_mariadb_and_redis(mariadb: MariaDB, redis: Redis, tmp_path: Path) -> None:
    before = asyncio.run(aborted(mariadb))
    options = "--database", mariadb.url(), "--cache", redis.url
    with serving(*options, directory=tmp_path) as app:
        drive(app, use)
        app.stop()
    assert asyncio.run(aborted(mariadb)) == before  # its connections have said goodbye


async def aborted(server: MariaDB) -> int:
    async with open_mariadb(server.url()) as pool:
        rows = await pool.query("SHOW STATUS LIKE 'Aborted_clients'")
    return int(rows[0]["Value"])


# --------------------------------------------------------------------------- killed servers


class Load:
    """Clients who each change a user of their own, and know what they may be told."""

    def __init__(self, api: API) -> None:
        self._api = api
        self._is_over = False
        self.statuses: Counter[int] = Counter()

    async def one(self, number: int) -> None:
        name, email = f"User {number}", f"user{number}@example.com"
        status, user = await self._api("POST", json={"name": name, "email": email, "age": 0})
        assert status == 201, user
        path, age, dice = f"/{user['id']}", 0, random.Random(number)
        possible = {0}
        while not self._is_over:
            if dice.random() < 0.3:
                age += 1
                user = {"name": name, "email": email, "age": age % 200}
                status, _ = await self._api("PUT", path, json=user)
                # After a failure nobody knows whether it happened.
                possible = {user["age"]} if status == 200 else possible | {user["age"]}
            else:
                status, user = await self._api("GET", path)
                if status == 200:
                    assert user["email"] == email, "somebody else's answer"
                    assert user["age"] in possible, "an answer of the past"
            assert status in {200, 503}
            self.statuses[status] += 1
            if status == 503:
                await asyncio.sleep(0.01)  # a client that is told to come back does so later

    async def until(self, condition: Callable[[Counter[int]], bool]) -> None:
        """Wait until *condition* is true of the statuses from now on."""
        self.statuses.clear()
        async with asyncio.timeout(100):
            while not condition(self.statuses):
                await asyncio.sleep(0.005)

    async def run(self, interfere: Callable[[], Any]) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(self.one(number))
            try:
                await interfere()
            finally:
                self._is_over = True


def answered(statuses: Counter[int]) -> bool:
    return statuses[200] > 60


def test_servers_are_killed_under_load(mariadb: MariaDB, redis: Redis, tmp_path: Path) -> None:
    """Nothing wrong is answered; without the database 503; and all recovers by itself."""
    options = "--database", mariadb.url(), "--cache", redis.url
    with serving(*options, directory=tmp_path) as app:

        async def load(api: API) -> None:
            load = Load(api)

            async def kill() -> None:
                await load.until(answered)
                rounds: list[list[Server]] = [[redis], [mariadb], [mariadb, redis]]
                for victims in rounds:
                    for server in victims:
                        server.kill()
                    if victims == [redis]:
                        await load.until(answered)
                        assert not load.statuses[503], "the database was there"
                    else:
                        await load.until(lambda statuses: statuses[503] > 20)
                    await asyncio.gather(*(asyncio.to_thread(server.start) for server in victims))
                    load.statuses[503] = 1
                    while load.statuses[503]:
                        await load.until(answered)

            await load.run(kill)

        drive(app, load)
        app.stop()


# ------------------------------------------------------------------- deadlines and the end

SLOW = """
import silly, app

def add_slow(routes, services):
    @routes.get("/api/users/slow/{seconds:float}")
    async def slow(request):
        seconds = request.route_params["seconds"]
        if seconds > 1:  # it would not notice that nobody waits for it any more
            await services.database.query("SELECT BENCHMARK(1000000000000, SHA2('SLEEP', 512))")
        return app.done(await services.database.query("SELECT SLEEP(?) AS slept", seconds))

app.DEADLINE = 0.5
silly.run(app.main(add_slow))
"""


def test_a_deadline_cancels_the_query_and_a_drain_waits_for_it(
    mariadb: MariaDB, tmp_path: Path
) -> None:
    program = tmp_path / "slow.py"
    program.write_text(SLOW)
    with serving("--database", mariadb.url(), program=program, directory=tmp_path) as app:

        async def use(api: API) -> None:
            async with open_mariadb(mariadb.url()) as pool:
                answers = await asyncio.gather(*(api("GET", "/slow/3600") for _ in range(25)))
                assert answers == [(503, "This took too long")] * 25
                until = time.monotonic() + 30
                while any(
                    "SLEEP" in str(row["Info"]) for row in await pool.query("SHOW PROCESSLIST")
                ):
                    assert time.monotonic() < until
                    await asyncio.sleep(0.01)
                last = asyncio.create_task(api("GET", "/slow/0.2"))
                while not any(
                    "SLEEP" in str(row["Info"]) for row in await pool.query("SHOW PROCESSLIST")
                ):
                    assert not last.done()
                app.begin_to_stop()
                assert await last == (200, [{"slept": 0}])

        drive(app, use)
        output = app.rest()
    assert "Traceback" not in output, output


@pytest.mark.no_engine
def test_without_a_database_it_starts_and_says_503(tmp_path: Path) -> None:
    url = f"mysql://root@localhost/userdb?unix_socket={tmp_path}/none"
    with serving("--database", url, directory=tmp_path) as app:
        assert drive(app, lambda api: api("GET")) == (503, "Try again later")
        app.stop()


@pytest.mark.no_engine
def test_a_crash_is_500_and_says_nothing_of_the_database(mariadb: MariaDB, tmp_path: Path) -> None:
    async def drop(what: str) -> None:
        async with open_mariadb(mariadb.url()) as pool:
            await pool.execute(what)

    with serving("--database", mariadb.url(), directory=tmp_path) as app:
        asyncio.run(drop("RENAME TABLE users TO others"))
        try:
            assert drive(app, lambda api: api("GET", "/1")) == (500, "Database error")
        finally:
            asyncio.run(drop("RENAME TABLE others TO users"))
        assert "users' doesn't exist" in app.stop()
