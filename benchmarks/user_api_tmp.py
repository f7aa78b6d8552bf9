"""The API of users over MariaDB and Redis: silly beside FastAPI with the same pool and drivers.

    python benchmarks/user_api.py --rounds 5 --seconds 3

Needs mariadbd, redis-server and wrk, and `pip install asyncmy redis fastapi uvicorn uvloop`.
The servers take turns in rounds; the figures are medians: requests per second, the 99th
percentile of the time of a request, and the server's processor time for a request, which the
machine's other work disturbs least. Databases and load share the machine with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.databases.servers import EXAMPLE, MariaDB, Redis  # noqa: E402
from tests.ports import held_port  # noqa: E402

sys.path.insert(0, str(EXAMPLE))

from mariadb import open_mariadb  # noqa: E402

FASTAPI = ROOT / "benchmarks" / "servers" / "user_api_fastapi.py"
APP = ["--app-dir", str(FASTAPI.parent), "user_api_fastapi:app"]
SERVERS = {
    "silly": [sys.executable, str(EXAMPLE / "app.py"), "--listen", "127.0.0.1:{port}"],
    "FastAPI, silly serve": [
        *(sys.executable, "-m", "silly", "serve", *APP[-1:], "127.0.0.1:{port}")
    ],
    "FastAPI, silly serve --uvloop": [
        *(sys.executable, "-m", "silly", "serve", "--uvloop", *APP[-1:], "127.0.0.1:{port}")
    ],
    "FastAPI, uvicorn": [
        *(sys.executable, "-m", "uvicorn", *APP, "--port", "{port}", "--loop", "uvloop"),
        *("--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ],
}
# Each request is about another user: otherwise most would share one answer (single flight).
GET = """
function request()
    return wrk.format("GET", "/api/users/" .. math.random(3, 102))
end
"""
PUT = """
function request()
    local id = math.random(3, 102)
    local body = '{"name": "User", "email": "' .. id .. '@example.com", "age": 31}'
    local headers = {["Content-Type"] = "application/json"}
    return wrk.format("PUT", "/api/users/" .. id, headers, body)
end
"""
ALL = 'request = function() return wrk.format("GET", "/api/users") end'
JOBS = {  # a script of wrk, and whether there is a cache
    "one user, in the cache": (GET, True),
    "one user, from the database": (GET, False),
    "all users (102)": (ALL, False),
    "change a user": (PUT, True),
}


def cpu(pid: int) -> float:
    """Return the processor time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """A server that runs until the end of the block."""

    def __init__(self, name: str, environ: dict[str, str]) -> None:
        self.held = held_port()  # a bound socket keeps it from others
        self.port = self.held.__enter__()
        command = [part.format(port=self.port) for part in SERVERS[name]]
        self.process = subprocess.Popen(
            command, env=os.environ | environ, stdout=subprocess.DEVNULL, cwd=FASTAPI.parent
        )

    def __enter__(self) -> Self:
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.held.__exit__(None, None, None)

    def load(self, script: Path, connections: int, seconds: int) -> tuple[float, ...]:
        """Return requests per second, the 99th percentile in ms, and µs of CPU per request."""
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--latency",
            "-s",
            str(script),
        ]
        before = cpu(self.process.pid)
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{self.port}"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        used = cpu(self.process.pid) - before
        if "Non-2xx" in done or "Socket errors" in done:
            sys.exit(f"not all was answered:\n{done}")
        number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", done).groups()  # type: ignore[union-attr]
        latency = float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1])  # type: ignore[index]
        total = int(re.search(r"(\d+) requests in", done)[1])  # type: ignore[index]
        return rate, latency, used / total * 1e6


async def fill(mariadb: MariaDB) -> None:
    """Make the table of the tutorial, with a hundred users more."""
    async with (
        open_mariadb(mariadb.url(database="information_schema")) as pool,
        pool.connection() as connection,
    ):
        for statement in (EXAMPLE / "schema.sql").read_text().split(";"):
            if statement.strip() and "'silly'@" not in statement:
                await connection.execute(statement)
        for number in range(3, 103):
            email = f"{number}@example.com"
            await connection.execute(
                "INSERT INTO users (name, email) VALUES (?, ?)", f"User {number}", email
            )


def main() -> None:
    """Measure, and print a table for each job."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=50)
    options = parser.parse_args()
    for program in ("mariadbd", "redis-server", "wrk"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed")
    with tempfile.TemporaryDirectory(prefix="silly-") as name:
        directory = Path(name)
        for each in ("mariadb", "redis"):
            (directory / each).mkdir()
        mariadb, redis = MariaDB(directory / "mariadb"), Redis(directory / "redis")
        script = directory / "requests.lua"
        try:
            mariadb.start()
            redis.start()
            asyncio.run(fill(mariadb))
            for job, (requests, is_cached) in JOBS.items():
                script.write_text(requests)
                environ = {
                    "DATABASE_URL": mariadb.url(), "CACHE_URL": redis.url if is_cached else ""
                }  # fmt: skip
                figures = defaultdict(list)
                for _ in range(options.rounds):
                    for server in SERVERS:
                        with Server(server, environ) as running:
                            running.load(script, 5, 1)
                            load = running.load(script, options.connections, options.seconds)
                            figures[server].append(load)
                print(f"\n| {job} | requests/s | p99, ms | CPU, µs |\n|---|---|---|---|")
                for server, rounds in figures.items():
                    rate, latency, used = map(statistics.median, zip(*rounds, strict=True))
                    print(f"| {server} | {rate:.0f} | {latency:.1f} | {used:.0f} |", flush=True)
        finally:
            mariadb.kill()
            redis.kill()


if __name__ == "__main__":
    main()
