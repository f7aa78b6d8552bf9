"""Restart the workers of an HTTP server repeatedly under load; count the requests that are lost.

    python benchmarks/soak_restarts.py --restarts 100

`silly serve` runs an application in several workers, which SIGHUP replaces one by one. Clients
send requests with bodies of all sizes, most of them on connections that they keep open, and
check the whole of each response. A server may close an idle connection at any time, so a client
repeats a request once if its connection ended before a byte of the response came (RFC 9112,
section 9.3.1). The application notes each request that it has handled: none may be missing, and
none may have been handled twice. The exit code is 1 otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import multiprocessing
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from restarts import port_when_ready

APPLICATION = """
import asyncio, hashlib, os

handled = os.open("handled", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        digest.update(message["body"])
        more = message["more_body"]
    os.write(handled, scope["path"].encode() + b"\\n")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(64):
        if number % 16 == 0:
            await asyncio.sleep(0.001)
        body = digest.digest() * number
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body"})
"""


SERVE = (sys.executable, "-m", "silly", "serve", "application:app", "127.0.0.1:0")


class Client:
    """Sends requests, and counts what became of them."""

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.random = random.Random(number)
        self.conn = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.counts: Counter[str] = Counter()
        self.longest = 0.0
        self.sent: list[str] = []

    def run(self, stop: Event) -> None:
        while not stop.is_set():
            path = f"/{self.number}-{len(self.sent)}"
            self.sent.append(path)
            body = self.random.randbytes(int(10 ** self.random.uniform(0, 5)))
            before = time.perf_counter()
            try:
                answer = self.ask(path, body)
            except (OSError, http.client.HTTPException) as error:
                self.counts[type(error).__name__] += 1
                self.conn.close()
            else:
                digest = hashlib.sha256(body).digest()
                if answer != b"".join(digest * number for number in range(64)):
                    self.counts["wrong bytes"] += 1
            self.longest = max(self.longest, time.perf_counter() - before)
            if self.random.random() < 0.05:
                self.conn.close()

    def ask(self, path: str, body: bytes) -> bytes:
        is_new = self.conn.sock is None
        try:
            self.conn.request("POST", path, body)
            response = self.conn.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            self.conn.close()
            if is_new:
                raise
            self.counts["repeated"] += 1
            self.conn.request("POST", path, body)
            response = self.conn.getresponse()
        return response.read()


def client(number: int, port: int, stop: Event, results: Any) -> None:
    """Send requests until *stop*; put what came of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one = Client(number, port)
    one.run(stop)
    results.put((one.sent, one.counts, one.longest))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "application.py").write_text(APPLICATION)
        server = subprocess.Popen(
            [*SERVE, "--workers", str(options.workers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
        )
        try:
            return soak(server, Path(directory, "handled"), options)
        finally:
            server.kill()
            server.wait()


def soak(server: subprocess.Popen[str], handled: Path, options: argparse.Namespace) -> int:
    assert server.stdout is not None
    port = port_when_ready(server.stdout, options.workers)
    stop = multiprocessing.Event()
    results: multiprocessing.Queue[tuple[list[str], Counter[str], float]] = multiprocessing.Queue()
    clients = [
        multiprocessing.Process(target=client, args=(number, port, stop, results))
        for number in range(options.clients)
    ]
    for process in clients:
        process.start()
    start = time.perf_counter()
    complaints = []
    for _ in range(options.restarts):
        server.send_signal(signal.SIGHUP)
        while not (line := server.stdout.readline()).endswith(": restarted\n"):
            assert line, "the server ended"
            if " ERROR " in line:  # a warning may be about the machine, which is busy
                complaints.append(line)
    seconds = time.perf_counter() - start
    stop.set()
    outcomes = [results.get() for _ in clients]
    for process in clients:
        process.join()
    server.send_signal(signal.SIGTERM)
    complaints += [line for line in server.stdout if " ERROR " in line]
    code = server.wait()

    counts: Counter[str] = sum((outcome[1] for outcome in outcomes), Counter())
    repeated = counts.pop("repeated", 0)
    sent = {path for outcome in outcomes for path in outcome[0]}
    times = Counter(handled.read_text().split())
    counts["missing"] = len(sent - times.keys())
    counts["handled twice"] = sum(times[path] > 1 for path in sent)
    counts["logged errors"] = len(complaints)
    counts = +counts
    print(
        f"{options.restarts} rolling restarts of {options.workers} workers in {seconds:.1f} s\n"
        f"{len(sent)} requests of {options.clients} clients, the longest took "
        f"{max(outcome[2] for outcome in outcomes) * 1000:.0f} ms; {repeated} repeated on another "
        f"connection\nfailed: {counts.total()}"
        + "".join(f", {count} {kind}" for kind, count in counts.items())
    )
    print("".join(complaints), end="")
    return 1 if counts or code else 0


if __name__ == "__main__":
    sys.exit(main())
