"""Restart the workers of an echo server repeatedly while clients connect; count failures.

    python benchmarks/restarts.py --restarts 100

Client processes connect, send a line, check the echo and close, as fast as they
can. The server stops after the given number of restarts. Every refused, reset or
short connection is counted. There should be none; the exit code is 1 if there were
any.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import IO, Any

SERVER = """
from silly.net import tcp

async def echo(conn):
    async for line in conn:
        await conn.write(line)

print("listening", tcp.listen("127.0.0.1:0", echo).local_addr, flush=True)
"""


def client(number: int, port: int, stop: Event, results: Any) -> None:
    """Make connections until *stop*; put their number, the longest time, and the failures."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    count = 0
    longest = 0.0
    failures: Counter[str] = Counter()
    while not stop.is_set():
        count += 1
        line = b"%d %d %s\n" % (number, count, b"x" * (count % 400))
        before = time.perf_counter()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                sock.sendall(line)
                sock.shutdown(socket.SHUT_WR)
                with sock.makefile("rb") as file:
                    answer = file.read()
            if answer != line:
                failures["short" if line.startswith(answer) else "wrong bytes"] += 1
        except OSError as error:
            failures[type(error).__name__] += 1
        longest = max(longest, time.perf_counter() - before)
    results.put((count, longest, failures))


def port_when_ready(output: IO[str], workers: int) -> int:
    """Read the *output* of a server until all *workers* are ready; return its port."""
    port = ready = 0
    while not (port and ready == workers):
        line = output.readline()
        assert line, "the server did not start"
        ready += line.rstrip().endswith("is ready")
        if match := re.search(r"listening (?:on )?\S+:(\d+)", line):
            port = int(match[1])
    return port


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()

    stop = multiprocessing.Event()
    results: multiprocessing.Queue[tuple[int, float, Counter[str]]] = multiprocessing.Queue()
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "server.py")
        script.write_text(SERVER)
        server = subprocess.Popen(
            [sys.executable, "-m", "silly", "--workers", str(options.workers), str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert server.stdout is not None
        port = port_when_ready(server.stdout, options.workers)
        clients = [
            multiprocessing.Process(target=client, args=(number, port, stop, results))
            for number in range(options.clients)
        ]
        for process in clients:
            process.start()
        start = time.perf_counter()
        durations = []
        for _ in range(options.restarts):
            before = time.perf_counter()
            server.send_signal(signal.SIGHUP)
            while not (line := server.stdout.readline()).endswith(": restarted\n"):
                assert line, "the server ended"
                assert "abandoned" not in line, line
            durations.append(time.perf_counter() - before)
        seconds = time.perf_counter() - start
        stop.set()
        outcomes = [results.get() for _ in clients]
        for process in clients:
            process.join()
        server.send_signal(signal.SIGTERM)
        server.stdout.read()
        code = server.wait()

    failures: Counter[str] = sum((outcome[2] for outcome in outcomes), Counter())
    connections = sum(outcome[0] for outcome in outcomes)
    print(
        f"{options.restarts} rolling restarts of {options.workers} workers in {seconds:.1f} s "
        f"(median {statistics.median(durations) * 1000:.0f} ms each)\n"
        f"{connections} connections of {options.clients} clients, "
        f"the longest took {max(outcome[1] for outcome in outcomes) * 1000:.0f} ms\n"
        f"failed: {failures.total()}"
        + "".join(f", {count} {kind}" for kind, count in failures.items())
    )
    return 1 if failures or code else 0


if __name__ == "__main__":
    sys.exit(main())
