"""The steps and the exercises of the database tutorial, each run as its page says."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from silly.net import http
from tests.databases.apps import API, App, client, serving
from tests.databases.servers import EXAMPLE, MariaDB, Redis

pytestmark = pytest.mark.no_engine


def run(program: str, *args: str, directory: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "default", str(EXAMPLE / program), *args],
        capture_output=True, text=True, check=False, timeout=60, cwd=directory,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/users.db"
    pytest.importorskip("aiomysql")  # the other tests have asyncmy
    url: str = request.getfixturevalue("mariadb").url("aiomysql")
    return url


def test_step_1_connects(database: str, tmp_path: Path) -> None:
    assert run("first_query.py", database, directory=tmp_path) == [
        "Connected",
        "1: Alice, alice@example.com, 30",
        "2: Bob, bob@example.com, 25",
    ]


def test_step_1_says_what_is_missing(tmp_path: Path) -> None:
    url = f"mysql://root@localhost/userdb?unix_socket={tmp_path}/none"
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "first_query.py"), url],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "No database: (2003" in done.stderr
    assert "Traceback" not in done.stderr


def test_step_2_creates_reads_updates_and_deletes(database: str, tmp_path: Path) -> None:
    lines = run("crud.py", database, directory=tmp_path)
    assert lines[:2] == ["=== Create ===", "Created user 3"]
    assert re.match("Refused: .*email", lines[2])
    assert lines[3:5] == ["=== Get ===", "Charlie charlie@example.com 28"]
    assert lines[5:9] == ["=== List ===", "1 Alice", "2 Bob", "3 Charlie"]
    assert lines[9:] == ["=== Update ===", "Charlie Brown", "=== Delete ===", "User not found"]


def test_step_3_misses_hits_and_misses(redis: Redis, tmp_path: Path) -> None:
    assert run("caching.py", redis.url, directory=tmp_path) == [
        "miss: Alice 30",
        "hit:  Alice 30",
        "changed",
        "miss: Alice 31",
        "hit:  Alice 31",
    ]


def test_transfers_neither_overdraw_nor_lose_money(database: str, tmp_path: Path) -> None:
    (line,) = run("transfer.py", database, directory=tmp_path)
    assert re.fullmatch(r"\d+ of 20 transfers were made, balances \[.*\]", line)


def asked(app: App, use: Any) -> Any:
    async def ask() -> Any:
        async with client(app) as connections:
            return await use(API(connections), connections)

    return asyncio.run(ask())


def test_exercise_1_pages(tmp_path: Path) -> None:
    async def use(api: API, connections: http.Client) -> None:
        for number in range(3, 26):
            user = {"name": f"User {number}", "email": f"{number}@example.com", "age": None}
            assert (await api("POST", json=user))[0] == 201

        async def page(query: str) -> Any:
            return await (await connections.get(f"/api/users/{query}")).json()

        last = await page("page?page=3&size=10")
        assert [user["id"] for user in last["data"]] == [21, 22, 23, 24, 25]
        assert [last[name] for name in ("page", "size", "total", "total_pages")] == [3, 10, 25, 3]
        assert (await page("page?page=4"))["data"] == []
        seen, after = [], 0
        while after is not None:
            found = await page(f"after?id={after}&size=7")
            seen += [user["id"] for user in found["data"]]
            after = found["next"]
            if after == 7:
                assert (await api("DELETE", "/3"))[0] == 200  # what has been seen does not matter
        assert seen == list(range(1, 26))
        for wrong in ("page=x", "page=-1", "size=1000", "page=²", f"page={'1' * 5000}"):
            reply = await connections.get(f"/api/users/page?{wrong}")
            assert reply.status == 400, wrong
        assert (await api("GET", "/1"))[0] == 200

    with serving(program="pages.py", directory=tmp_path) as app:
        asked(app, use)
        app.stop()


def test_exercise_2_all_or_none(mariadb: MariaDB, tmp_path: Path) -> None:
    async def use(api: API, connections: http.Client) -> None:
        batch = [{"name": f"User {n}", "email": f"{n}@example.com"} for n in range(50)]
        assert (await api("POST", "/batch", json=batch))[0] == 201
        assert len((await api("GET"))[1]) == 52
        again = [{"name": "New", "email": "new@example.com"}, batch[7]]
        assert (await api("POST", "/batch", json=again))[0] == 409
        assert (await api("POST", "/batch", json=[*again[:1], {"name": "x"}]))[0] == 400
        assert (await api("POST", "/batch", json=[]))[0] == 400
        users = (await api("GET"))[1]
        assert len(users) == 52
        assert "new@example.com" not in {user["email"] for user in users}

    with serving("--database", mariadb.url(), program="batch.py", directory=tmp_path) as app:
        asked(app, use)
        app.stop()


def test_exercise_3_a_cache_that_is_warm(mariadb: MariaDB, redis: Redis, tmp_path: Path) -> None:
    options = "--database", mariadb.url(), "--cache", redis.url
    with serving(*options, program="warm_up.py", directory=tmp_path) as app:
        assert app.line() == "2 users are in the cache\n"
        mariadb.kill()
        try:
            status, user = asked(app, lambda api, _: api("GET", "/1"))
        finally:
            mariadb.start()
        assert (status, user["name"]) == (200, "Alice")
        app.stop()


def test_exercise_4_forgets_by_pattern(redis: Redis, tmp_path: Path) -> None:
    async def use(api: API, connections: http.Client) -> None:
        for user_id in (1, 2):
            await api("GET", f"/{user_id}")

        async def forget(pattern: str, token: str = "secret") -> Any:
            headers = {"authorization": f"Bearer {token}"}
            params = {"pattern": pattern}
            reply = await connections.request(
                "DELETE", "/api/cache", params=params, headers=headers
            )
            return reply.status, await reply.json()

        assert (await forget("user:*", "guess"))[0] == 401
        assert (await forget("*"))[0] == 400
        assert await forget("user:2*") == (200, {"success": True, "data": {"deleted": 1}})
        assert (await forget("user:*"))[1]["data"] == {"deleted": 1}

    with serving("--cache", redis.url, program="invalidate.py", directory=tmp_path) as app:
        asked(app, use)
        app.stop()


def test_exercise_5_logs_slow_queries(mariadb: MariaDB, tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(
        "import silly, app, slow_queries\n"
        "slow_queries.SLOW = 0.0\n"
        "silly.run(app.main(slow_queries.log_slow_queries))\n"
    )
    with serving("--database", mariadb.url(), program=program, directory=tmp_path) as app:
        asked(app, lambda api, _: api("GET", "/1"))
        output = app.stop()
    assert re.search(r"^\d+ ms: SELECT \* FROM users WHERE id = \?$", output, re.MULTILINE), output
