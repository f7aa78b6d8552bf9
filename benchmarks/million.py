"""Open as many connections as the machine allows, up to a million.

``python benchmarks/million.py [COUNT]``. As root, the program raises its descriptor
limit as far as the system permits. Where one process may not have enough descriptors,
several servers run together. It prints what the machine allows, and what was reached.
Each connection echoes a line when it is opened, and another one at the end, when all are
open. Clients connect from many loopback addresses, because one address has only about
28,000 ports.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PORTS = 4_000  # connections per client address: few enough to find free ports quickly
SPARE = 200  # descriptors for everything else
WARM = 200  # connections that are opened before memory is first measured
PROCESS = 32 * 1024 * 1024  # bytes for each process beside its connections, estimated high
MEMORY = 12 * 1024  # bytes per connection, estimated high: both ends, kernel included


def raise_limit(wanted: int) -> int:
    """Raise this process's descriptor limit towards *wanted*; return the new limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (wanted, min(wanted, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            break
        except (ValueError, OSError):
            continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


# ---------------------------------------------------------------------- server


async def serve() -> None:
    import silly
    from silly.net import tcp

    async def echo(conn: tcp.Conn) -> None:
        async for line in conn:
            await conn.write(line)

    listener = tcp.listen("127.0.0.1:0", echo, backlog=4096)
    print(json.dumps([silly.engine(), int(listener.local_addr.rpartition(":")[2])]), flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps([listener.connections, listener.stats.accepted]), flush=True)


# --------------------------------------------------------------------- clients


def echo_all(socks: list[socket.socket], line: bytes) -> None:
    """Send *line* over every connection and check its echo."""
    for start in range(0, len(socks), 500):
        some = socks[start : start + 500]
        for sock in some:
            sock.sendall(line)
        for sock in some:
            got = sock.recv(100)
            if got != line:
                raise SystemExit(f"a connection answered {got!r} to {line!r}")


def client(port: int) -> None:
    socks: list[socket.socket] = []
    for line in sys.stdin:
        command, count, first = json.loads(line)
        if command == "open":
            new = []
            for number in range(first, first + count):
                sock = socket.socket()
                sock.settimeout(60)
                sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                address = ipaddress.IPv4Address("127.1.0.0") + number // PORTS + 1
                sock.bind((str(address), 0))
                sock.connect(("127.0.0.1", port))
                new.append(sock)
                if len(new) % 500 == 0:
                    echo_all(new[-500:], b"hello, %d\n" % number)
            echo_all(new[len(new) // 500 * 500 :], b"hello\n")
            socks += new
        else:
            echo_all(socks, b"still here?\n")
        print("done", flush=True)


# ----------------------------------------------------------------------- memory


def rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def kernel_memory() -> int:
    """Return the bytes of kernel memory in slabs, which hold the sockets."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1]) * 1024
    return 0


class Child:
    """A child process that takes commands and answers in lines of JSON."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, command: Any) -> None:
        assert self.process.stdin is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"million: {self.process.args!r} ended with {self.process.wait()}")
        return line.strip()


class Part:
    """A server process and the client processes that connect to it."""

    def __init__(self, first: int, count: int, per_client: int) -> None:
        self.count = count
        self.opened = 0
        self._first = first
        self._per_client = per_client
        self.server = Child("--serve", str(count))
        self.engine, port = json.loads(self.server.answer())
        self._clients = [
            Child("--client", str(port), str(count)) for _ in range((count - 1) // per_client + 1)
        ]

    def open(self, upto: int) -> None:
        """Open connections until there are *upto*; one client at a time: they share the cores."""
        while self.opened < upto:
            index = self.opened // self._per_client
            more = min((index + 1) * self._per_client, upto) - self.opened
            self._clients[index].send(["open", more, self._first + self.opened])
            self._clients[index].answer()
            self.opened += more

    def echo_again(self) -> None:
        """Send one line over every connection, and check the echo."""
        for client in self._clients:
            client.send(["again", 0, 0])
            client.answer()

    def figures(self) -> tuple[int, int]:
        """Return the server's live and accepted connections."""
        self.server.send("how many?")
        alive, accepted = json.loads(self.server.answer())
        return alive, accepted

    def end(self) -> None:
        for child in (self.server, *self._clients):
            child.process.kill()
            child.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("count", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    limit = raise_limit(args.count + SPARE)
    if args.serve:
        asyncio.run(serve())
    elif args.client:
        client(args.client)
    else:
        run(args.count, limit)


def run(wanted: int, limit: int) -> None:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
    per_server = min(wanted, limit - SPARE)
    per_client = min(per_server, 100_000)
    processes = 1 / per_server + 1 / per_client  # per connection
    count = min(wanted, int(available / (MEMORY + processes * PROCESS)))
    servers = -(-count // per_server)
    print(
        f"{wanted:,} requested; a process may have {limit:,} descriptors, and there is memory "
        f"for {count:,} connections: {count:,} in {servers:,} "
        f"server process{'es' if servers > 1 else ''}",
        flush=True,
    )
    parts: list[Part] = []
    try:
        for first in range(0, count, per_server):
            part = Part(first, min(per_server, count - first), per_client)
            parts.append(part)  # each at once: if the next one fails, it is still ended
        for part in parts:
            part.open(WARM)
        user = sum(rss(part.server.process.pid) for part in parts)
        kernel, start = kernel_memory(), time.monotonic()
        for part in parts:
            part.open(part.count)
        elapsed = time.monotonic() - start
        user = sum(rss(part.server.process.pid) for part in parts) - user
        kernel = kernel_memory() - kernel
        start = time.monotonic()
        for part in parts:
            part.echo_again()
        again = time.monotonic() - start
        alive, accepted = map(sum, zip(*(part.figures() for part in parts), strict=True))
    finally:
        for part in parts:
            part.end()
    made = count - WARM * servers
    print(f"engine {parts[0].engine}: {alive:,} live connections, {accepted:,} accepted")
    print(f"user memory:    {user / made / 1024:.2f} KiB per connection")
    print(f"kernel memory:  {kernel / made / 2 / 1024:.2f} KiB per end of a connection")
    print(f"accepted:       {made / elapsed:,.0f}/s, including one echo each")
    print(f"one round over all of them: {again:.2f} s, every answer checked")
    if alive != count:
        raise SystemExit(f"million: {count - alive} connections were lost")


if __name__ == "__main__":
    main()
