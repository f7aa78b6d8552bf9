"""Attack an HTTP server, mostly with slowhttptest: ``python benchmarks/soak_http.py --help``.

The server has the default limits. It is a handler of `silly.net.http`, or, with --asgi, an
application that `silly serve` runs. An honest client asks it for a small page all the time: quiet,
beside many idle keep-alive connections, and during each of slowhttptest's attacks (slow heads, slow
bodies, slow reading of a file, and ranges that overlap). Its slowest request in a hundred may take
three times as long as it does quiet, and none may fail. The attack's connections may take a piece
of a file each, an idle one a few KiB, and none may be left when it is over.

slowhttptest is a package of Debian. It shares the machine with client and server, and gets what
they leave of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ATTACKS = {
    "slow heads": ["-H", "-i", "2", "-x", "24", "-u", "http://{addr}/"],
    "slow bodies": ["-B", "-i", "2", "-s", "8192", "-x", "10", "-u", "http://{addr}/"],
    "ranges": ["-R", "-a", "1", "-b", "3000", "-u", "http://{addr}/file"],
    "slow reading": [
        *("-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "32", "-k", "3"),
        "-u",
        "http://{addr}/file",
    ],
}
ANY = "127.0.0.1:0"
PAUSE = 0.005  # seconds between the honest client's requests
FACTOR = 3.0
NOISE = 0.005  # seconds that the machine itself may take
GROWTH = 16 * 1024  # KiB, and for each connection of the attack:
PER_CONNECTION = 320
PER_IDLE = 4
REQUEST = b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The same as an ASGI application, whose file is in the variable SOAK_FILE."""
    start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
    if scope["path"] == "/file":
        await send(start)
        await send({"type": "http.response.pathsend", "path": os.environ["SOAK_FILE"]})
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await send(start)
    await send({"type": "http.response.body", "body": str(size).encode()})


async def serve(path: str) -> None:
    from silly.net import http

    routes = http.Router()

    @routes.route("/", methods=["GET", "POST", "HEAD"])
    async def page(request: http.Request) -> str:
        return str(len(await request.body()))

    @routes.get("/file")
    async def file(request: http.Request) -> http.Response:
        return http.file(path)

    listener = http.listen(ANY, routes, 4096)  # not a SYN of ten thousand is to be sent again
    print(f"listening on {listener.local_addr}", flush=True)
    await asyncio.Event().wait()


class Server:
    def __init__(self, path: str, *, is_asgi: bool) -> None:
        command = [sys.executable, __file__, "--serve", path]
        if is_asgi:
            application = f"{Path(__file__).stem}:app"
            options = ["--app-dir", str(Path(__file__).parent), "--lifespan", "off"]
            options += ["--backlog", "4096"]
            command = [sys.executable, "-m", "silly", "serve", application, ANY, *options]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "SOAK_FILE": path},
        )
        assert self._process.stdout is not None
        found = re.search(r"\S+:\d+(?=\s)", self._process.stdout.readline().partition("on ")[2])
        assert found is not None
        self.addr = found[0]
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    def memory(self) -> int:
        """Return its resident memory in KiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1])

    def sockets(self) -> int:
        """Return how many sockets it has open."""
        count = 0
        for each in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += str(each.readlink()).startswith("socket:")
        return count

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


async def honest(addr: str, seconds: float) -> list[float]:
    """Return how long each request took, in seconds; infinity for one that failed."""
    host, port = addr.rsplit(":", 1)
    times = []
    ends = time.monotonic() + seconds
    reader, writer = await asyncio.open_connection(host, int(port))
    while time.monotonic() < ends:
        begun = time.perf_counter()
        try:
            writer.write(REQUEST)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            await reader.readexactly(1)
            assert head.startswith(b"HTTP/1.1 200")
            times.append(time.perf_counter() - begun)
        except (OSError, EOFError, TimeoutError, AssertionError):
            times.append(float("inf"))
            reader, writer = await asyncio.open_connection(host, int(port))
        await asyncio.sleep(PAUSE)
    writer.close()
    return times


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


class Report:
    broken = 0

    def promise(self, what: str, found: str, kept: bool) -> None:
        print(f"  {'ok    ' if kept else 'BROKEN'}  {what}: {found}")
        self.broken += not kept


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=900)
    parser.add_argument("--seconds", type=int, default=30, help="for each attack")
    parser.add_argument("--idle", type=int, default=10_000, help="idle keep-alive connections")
    parser.add_argument("--asgi", action="store_true", help="attack `silly serve`")
    parser.add_argument("--serve", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    report = Report()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(2**20))
        file.flush()
        server = Server(file.name, is_asgi=options.asgi)
        try:
            idle(server, report, options)
            for name, arguments in ATTACKS.items():
                attack(
                    server,
                    name,
                    [each.format(addr=server.addr) for each in arguments],
                    report,
                    options,
                )
        finally:
            server.stop()
    if report.broken:
        raise SystemExit(f"soak_http: broken promises: {report.broken}")


def idle(server: Server, report: Report, options: argparse.Namespace) -> None:
    print("idle connections")
    sockets = server.sockets()  # without those of clients
    quiet = p99(asyncio.run(honest(server.addr, 5)))
    memory = server.memory()
    host, port = server.addr.rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        conns = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            for _ in range(options.idle)
        ]
        answered = sum(is_answered(conn) for conn in conns)
        grown = server.memory() - memory
        times = asyncio.run(honest(server.addr, 10))
        again = sum(is_answered(conn) for conn in conns)
    report.promise("each is answered", f"{answered} of {options.idle}", answered == options.idle)
    report.promise("and again later", f"{again} of {options.idle}", again == options.idle)
    undisturbed(times, quiet, report)
    most = GROWTH + PER_IDLE * options.idle
    report.promise("memory is bounded", f"{grown} KiB more, of {most}", grown < most)
    released(server, sockets, report)


def is_answered(conn: socket.socket) -> bool:
    conn.sendall(REQUEST)
    return conn.recv(4096).startswith(b"HTTP/1.1 200")


def attack(
    server: Server, name: str, arguments: list[str], report: Report, options: argparse.Namespace
) -> None:
    print(name)
    sockets = server.sockets()  # without those of clients
    quiet = p99(asyncio.run(honest(server.addr, 5)))
    memory = server.memory()
    command = ["slowhttptest", "-c", str(options.connections), "-r", "300", "-p", "5"]
    attacker = subprocess.Popen(
        [*command, "-l", str(options.seconds), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # slowhttptest asks about each of its sockets all the time, with a whole processor.
    os.sched_setscheduler(attacker.pid, os.SCHED_IDLE, os.sched_param(0))
    try:
        times = asyncio.run(honest(server.addr, options.seconds * 0.9))
        held, grown = server.sockets() - sockets, server.memory() - memory
    finally:
        attacker.terminate()
        attacker.wait()
    print(f"          {held} connections held; {len(times)} honest requests")
    undisturbed(times, quiet, report)
    most = GROWTH + PER_CONNECTION * options.connections
    report.promise("memory is bounded", f"{grown} KiB more, of {most}", grown < most)
    released(server, sockets, report)


def undisturbed(times: list[float], quiet: float, report: Report) -> None:
    """Report how the requests of the honest client went."""
    slowest = p99(times)
    report.promise("no request fails", str(times.count(float("inf"))), float("inf") not in times)
    report.promise(
        f"p99 is at most {FACTOR:g} times that of quiet",
        f"{slowest * 1e3:.2f} ms, quiet {quiet * 1e3:.2f} ms",
        slowest <= max(FACTOR * quiet, quiet + NOISE),
    )


def released(server: Server, sockets: int, report: Report) -> None:
    """Wait until the server has no more than its own *sockets*, and report."""
    ends = time.monotonic() + 30
    while server.sockets() > sockets and time.monotonic() < ends:
        time.sleep(0.1)
    left = server.sockets() - sockets
    report.promise("no connection is left", str(left), left <= 0)


if __name__ == "__main__":
    main()
