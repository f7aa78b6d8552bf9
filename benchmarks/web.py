"""Compare silly's HTTP with a C epoll server, nginx and its peers: ``--help``.

The load is wrk's (https://github.com/wg/wrk). The servers are pinned to one core, wrk to another;
they take turns in rounds, and the figures are medians of the ratios to nginx in the same round:
of throughput, and of the server's processor time for each request, which other load on
the machine affects less. Then: KiB of memory for each idle keep-alive connection. What is not
installed is skipped, and the first lines say so.
"""

from __future__ import annotations

import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import machine
from comparison import chosen, idle_memory, options
from server import Server, build_go, free_port, is_installed

SERVERS: Final = Path(__file__).parent / "servers"
LOAD_CORE = "1"
FILE_SIZE = 1 << 20
BASE: Final = "nginx"
PY = sys.executable

PIPELINED: Final = """
init = function(args)
  local one = wrk.format(nil, "/")
  all = string.rep(one, 16)
end
request = function() return all end
"""
POST: Final = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = "[" .. string.rep('"0123456789",', 1260) .. "1]"
"""
NGINX: Final = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder};
  sendfile on; client_max_body_size 1m;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ default_type text/plain; return 200 "Hello, World!\\n"; }}
    location /json {{ default_type application/json; return 200 '{{"hello":"world"}}'; }}
    location /file {{ alias {folder}/file; }}
  }}
}}
"""


@dataclass(frozen=True)
class Job:
    name: str
    path: str
    script: str = ""  # for wrk


JOBS: Final = (
    Job("hello", "/"),
    Job("hello, 16 pipelined", "/", PIPELINED),
    Job("JSON", "/json"),
    Job("1 MiB file", "/file"),
    Job("POST 16 KiB of JSON", "/", POST),
)
ALL: Final = tuple(job.name for job in JOBS)
NO_FILE: Final = tuple(name for name in ALL if "file" not in name)


@dataclass(frozen=True)
class Kind:
    name: str
    command: tuple[str, ...]  # "{port}" stands for a port; without it, the server prints its own
    needs: str = ""  # a program or a module
    jobs: tuple[str, ...] = ALL


def kinds(folder: Path) -> list[Kind]:
    def uvicorn(app: str) -> tuple[str, ...]:
        options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--port", "{port}")
        return (PY, "-m", "uvicorn", f"web_apps:{app}", "--log-level", "error", *options)

    def granian(app: str, interface: str) -> tuple[str, ...]:
        options = ("--interface", interface, "--port", "{port}", "--log-level", "error")
        return (PY, "-m", "granian", f"web_apps:{app}", "--runtime-threads", "1", *options)

    def serve(app: str) -> tuple[str, ...]:
        return (PY, "-m", "silly", "serve", f"web_apps:{app}", "127.0.0.1:{port}")

    starlette = ("hello", "JSON", "1 MiB file", "POST 16 KiB of JSON")
    return [
        Kind(BASE, ("nginx", "-p", str(folder), "-c", str(folder / "{port}.conf")), "nginx"),
        Kind("C epoll", (str(folder / "web_yardstick"),), "gcc"),
        Kind("silly", (PY, "-m", "silly", str(SERVERS / "silly_web.py"))),
        Kind("silly, ASGI", serve("raw"), jobs=NO_FILE),
        Kind("uvicorn, ASGI", uvicorn("raw"), "uvicorn", NO_FILE),
        Kind("granian, ASGI", granian("raw", "asgi"), "granian", NO_FILE),
        Kind("granian, RSGI", granian("rsgi", "rsgi"), "granian"),
        Kind("Go", (str(folder / "web"),), "go"),
        Kind("aiohttp", (PY, str(SERVERS / "aiohttp_web.py")), "aiohttp"),
        Kind("silly, Starlette", serve("starlette"), "starlette", starlette),
        Kind("uvicorn, Starlette", uvicorn("starlette"), "uvicorn", starlette),
        Kind("granian, Starlette", granian("starlette", "asgi"), "granian", starlette),
        Kind("silly, FastAPI", serve("fastapi"), "fastapi", ("JSON",)),
        Kind("uvicorn, FastAPI", uvicorn("fastapi"), "uvicorn", ("JSON",)),
        Kind("granian, FastAPI", granian("fastapi", "asgi"), "granian", ("JSON",)),
    ]


def started(kind: Kind, folder: Path) -> Server:
    """Start a server, which stops until it is measured."""
    environment = {"FILE": str(folder / "file")}
    if not any("{port}" in part for part in kind.command):
        return Server(kind.name, kind.command, environment, cwd=SERVERS)
    port = free_port()
    (folder / f"{port}.conf").write_text(NGINX.format(folder=folder, port=port))
    command = [part.replace("{port}", str(port)) for part in kind.command]
    return Server(kind.name, command, environment, port=port, cwd=SERVERS)


@dataclass
class Measured:
    per_second: float
    cpu_us: float  # microseconds of the server's processor time for each request


def measure(server: Server, job: Job, folder: Path, seconds: float) -> Measured:
    script = folder / f"{JOBS.index(job)}.lua"
    script.write_text(job.script)
    load = ["wrk", "-t1", f"-c{32 if job.path == '/file' else 100}", f"-d{seconds:g}s"]
    load += ["-s", str(script)] if job.script else []
    server.resume()
    before = server.cpu()
    done = subprocess.run(
        ["taskset", "-c", LOAD_CORE, *load, f"http://127.0.0.1:{server.port}{job.path}"],
        capture_output=True,
        text=True,
        check=True,
    )
    used = server.cpu() - before
    server.stop()
    found = re.search(r"(\d+) requests in ([\d.]+)(m?s)", done.stdout)
    if found is None or "Non-2xx" in done.stdout or int(found[1]) == 0:
        raise RuntimeError(f"{server.name}, {job.name}: {done.stdout}")
    taken = float(found[2]) / (1000 if found[3] == "ms" else 1)
    return Measured(int(found[1]) / taken, used * 1e6 / int(found[1]))


def compare(able: list[Kind], job: Job, folder: Path, rounds: int, seconds: float) -> None:
    figures: dict[str, list[Measured]] = defaultdict(list)
    running = [started(kind, folder) for kind in able]
    try:
        for server in running:
            measure(server, job, folder, 1)  # to warm up
        for _ in range(rounds):
            for server in running:
                figures[server.name].append(measure(server, job, folder, seconds))
    finally:
        for server in running:
            server.end()
    base = figures[running[0].name]
    print(f"\n{job.name}: {running[0].name} {median([one.per_second for one in base]):,.0f}/s")
    for name, measured in figures.items():
        pairs = list(zip(measured, base, strict=True))
        speed = median([mine.per_second / its.per_second for mine, its in pairs])
        cpu = median([mine.cpu_us / its.cpu_us for mine, its in pairs])
        us = median([mine.cpu_us for mine in measured])
        print(f"  {name:20} {speed:6.2f}x  CPU/request {cpu:6.2f}x  {us:8.2f} us", flush=True)


def median(values: list[float]) -> float:
    return statistics.median(values)


def memory(kind: Kind, folder: Path) -> str:
    """Return the memory for each connection that waits for its second request."""
    server = started(kind, folder)
    server.resume()
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    try:
        return f"{idle_memory(server, request, lambda reply: b' 200 ' in reply):6.1f} KiB"
    except OSError as error:
        return f"does not serve so many: {error}"
    finally:
        server.end()


def main() -> None:
    args = options(__doc__, 1).parse_args()
    if shutil.which("wrk") is None:
        sys.exit("web.py needs wrk (apt install wrk)")
    if args.seconds < 1 or args.seconds % 1:
        sys.exit(f"web.py: --seconds must be a whole number, which wrk needs, not {args.seconds}")
    about = machine.description(machine.own_network())
    print(", ".join(f"{what} {value}" for what, value in about.items()))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "file").write_bytes(b"x" * FILE_SIZE)
        (folder / "logs").mkdir()
        source = str(SERVERS / "web_yardstick.c")
        if shutil.which("gcc"):
            command = ["gcc", "-O2", "-o", str(folder / "web_yardstick"), source]
            subprocess.run(command, check=True)
        build_go(SERVERS / "web.go", folder)
        able = []
        for kind in kinds(folder):
            if kind.name != BASE and not chosen(kind.name, args.only):
                continue
            if is_installed(kind.needs):
                able.append(kind)
            else:
                print(f"{kind.name}: skipped, {kind.needs} is not installed")
        for job in JOBS:
            takes_part = [kind for kind in able if job.name in kind.jobs]
            if chosen(job.name, args.jobs) and takes_part:
                compare(takes_part, job, folder, args.rounds, args.seconds)
        if chosen("memory", args.jobs):
            print("\nmemory for each idle keep-alive connection")
            for kind in able:
                if "hello" in kind.jobs:
                    print(f"  {kind.name:20} {memory(kind, folder)}", flush=True)


if __name__ == "__main__":
    main()
