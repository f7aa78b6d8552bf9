"""Attack an echo server: ``python benchmarks/soak.py --help``.

1. Thousands of hostile clients of several kinds try to hold connections to a server
   with short deadlines. One that the server disconnects is replaced. Meanwhile, an
   honest client measures its echo.
2. Connections are opened and closed as fast as possible. They must leave neither
   memory nor descriptors behind.
3. The server runs out of descriptors for a while and must answer afterwards.

Each promise is printed with the result; the exit code is 1 if one was broken.
Latencies are printed but not judged.

The server, the hostile clients and the honest client are three processes. The server
has its own core; on the other, the honest client has priority. Clients connect from
many loopback addresses, because one address has only about 28,000 ports.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import heapq
import json
import os
import random
import resource
import select
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIRST_BYTE, READ, WINDOW, LINGER = 4.0, 8.0, 8.0, 2.0  # seconds: the server's deadlines
FILL = 8.0  # seconds until the kernel's buffers are full and the server has to queue
SLACK = 5.0  # extra seconds for a busy machine
READ_LIMIT = 64 * 1024
CORES = sorted(os.sched_getaffinity(0))
GROWTH = 2 * 1024  # KiB that the server may grow by in the churn, once it is warm
PER_CLIENT = 3  # KiB allowed per hostile connection
PER_GREEDY = 512  # KiB allowed in addition per connection that makes the server hold bytes

# How long each kind may stay, in seconds: the deadline (for the send rate, two windows), two
# checks of it, and the slack.
MAX_STAY = {
    "slowloris": READ * 1.25 + SLACK,
    "never reading": FILL + 2.5 * WINDOW + SLACK,
    "silent": FIRST_BYTE * 1.25 + SLACK,
    "endless line": READ * 1.25 + SLACK,
    "resetting": READ * 1.25 + SLACK,
}


# ------------------------------------------------------------------------ server


async def serve() -> None:
    import silly
    from silly.net import tcp

    async def echo(conn: tcp.Conn) -> None:
        async for line in conn:
            await conn.write(line)

    limits = tcp.Limits(
        first_byte_timeout=FIRST_BYTE,
        read_deadline=READ,
        min_send_rate=1000,
        send_window=WINDOW,
        linger=LINGER,
        read_limit=READ_LIMIT,
        max_unsent=1024 * 1024,
    )
    listener = tcp.listen("127.0.0.1:0", echo, backlog=4096, limits=limits)
    print(json.dumps([silly.engine(), int(listener.local_addr.rpartition(":")[2])]), flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        stats = listener.stats
        print(
            json.dumps(
                {
                    "connections": stats.connections,
                    "accepted": stats.accepted,
                    "refused": stats.refused,
                    "ended": stats.ended,
                    "errors": stats.handler_errors_by_type,
                    "overflows": stats.backlog_overflows,
                }
            ),
            flush=True,
        )


class Server:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.engine, self.port = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"soak: the server ended with {self.process.wait()}")
        return line

    def stats(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        stats: dict[str, Any] = json.loads(self._line())
        return stats

    def rss(self) -> int:
        """Return the resident set size in KiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self) -> str:
        """Stop the server and return its log."""
        self.process.terminate()
        _, log = self.process.communicate(timeout=30)
        return log


# ----------------------------------------------------------------- hostile clients


def connecting(port: int, *, small: bool = False) -> socket.socket:
    """Return a socket that is connecting from a random loopback address."""
    sock = socket.socket()
    sock.setblocking(False)
    if small:  # otherwise the kernel buffers megabytes before the server has to queue
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    sock.bind((f"127.1.{random.randrange(64)}.{random.randrange(1, 255)}", 0))
    with contextlib.suppress(BlockingIOError):
        sock.connect(("127.0.0.1", port))
    return sock


@dataclass(eq=False, slots=True)
class Hostile:
    kind: str
    sock: socket.socket
    born: float = field(default_factory=time.monotonic)

    def act(self) -> float:
        """Perform one action of this kind; return the seconds until the next."""
        if self.kind == "slowloris":
            self.sock.send(b"x")
            return 1.0
        if self.kind == "never reading":
            self.sock.send((b"y" * 1023 + b"\n") * 16)
            return 0.2
        if self.kind == "endless line":
            self.sock.send(b"z" * 8192)
            return 0.2
        if self.kind == "resetting":
            if time.monotonic() > self.born + random.random() * 3:
                raise ConnectionAbortedError
            self.sock.send(b"half a li"[: random.randrange(10)])
            return 0.3
        return 3600.0  # silent

    def is_disconnected(self, events: int) -> bool:
        """Return whether the server has ended this connection."""
        if events & (select.EPOLLERR | select.EPOLLHUP):
            return True
        return self.kind != "never reading" and not self.sock.recv(65536)


class Attack:
    """All hostile clients; one that is disconnected is replaced by another of its kind."""

    def __init__(self, port: int, counts: dict[str, int], storm: int) -> None:
        self.port, self.counts, self.storm = port, counts, storm
        self.epoll = select.epoll()
        self.by_fd: dict[int, Hostile] = {}
        self.todo: list[str] = []  # kinds to open
        self.due: list[tuple[float, int, Hostile]] = []
        self.disconnected: Counter[str] = Counter()
        self.longest: Counter[str] = Counter()  # longest stay in seconds, rounded up

    def open(self, kind: str) -> None:
        sock = connecting(self.port, small=kind == "never reading")
        one = Hostile(kind, sock)
        self.by_fd[sock.fileno()] = one
        events = 0 if kind == "never reading" else select.EPOLLIN
        self.epoll.register(sock, events)
        self.schedule(one, random.random())

    def schedule(self, one: Hostile, delay: float) -> None:
        heapq.heappush(self.due, (time.monotonic() + delay, id(one), one))

    def close(self, one: Hostile, *, by_server: bool) -> None:
        del self.by_fd[one.sock.fileno()]
        stayed = time.monotonic() - one.born
        self.longest[one.kind] = max(self.longest[one.kind], int(stayed) + 1)
        self.disconnected[one.kind] += by_server
        with contextlib.suppress(OSError):
            one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.sock.close()

    def run(self, seconds: float) -> None:
        start = time.monotonic()
        self.todo = [kind for kind, count in self.counts.items() for _ in range(count)]
        random.shuffle(self.todo)
        stormed = 0
        while (now := time.monotonic()) < start + seconds:
            for kind in self.todo[:200]:
                self.open(kind)
            del self.todo[:200]
            while stormed < (now - start) * self.storm:
                connecting(self.port).close()
                stormed += 1
            # Wait for the exact time of the next action: batching actions would make
            # independent clients act in step.
            wait = min(0.01, max(0.0, self.due[0][0] - now)) if self.due else 0.01
            for fd, events in self.epoll.poll(wait):
                self.handle(self.by_fd[fd], events)
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                self.act(heapq.heappop(self.due)[2])
        for one in list(self.by_fd.values()):
            self.close(one, by_server=False)
        print(json.dumps([dict(self.disconnected), dict(self.longest), stormed]), flush=True)

    def handle(self, one: Hostile, events: int) -> None:
        try:
            disconnected = one.is_disconnected(events)
        except BlockingIOError:
            return
        except OSError:
            disconnected = True
        if disconnected:
            self.close(one, by_server=True)
            self.todo.append(one.kind)

    def act(self, one: Hostile) -> None:
        if one.sock.fileno() < 0:
            return
        try:
            self.schedule(one, one.act())
        except BlockingIOError:
            self.schedule(one, 0.2)
        except OSError as error:
            if error.errno == errno.ENOTCONN:  # not connected yet
                self.schedule(one, 0.1)
            else:
                self.close(one, by_server=not isinstance(error, ConnectionAbortedError))
                self.todo.append(one.kind)


# ------------------------------------------------------------------- honest clients


def measure(sock: socket.socket, seconds: float) -> Iterator[float]:
    """Echo lines one by one, with a pause between them; yield each duration in milliseconds."""
    number = 0
    until = time.monotonic() + seconds
    while (start := time.monotonic()) < until:
        line = b"honest %d\n" % number
        sock.sendall(line)
        got = b""
        while not got.endswith(b"\n"):
            piece = sock.recv(100)
            if not piece:
                raise SystemExit("soak: the honest client was disconnected")
            got += piece
        if got != line:
            raise SystemExit(f"soak: {got!r} came back for {line!r}")
        number += 1
        yield (time.monotonic() - start) * 1000
        time.sleep(0.002)


def percentiles(times: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(times, n=100)
    return cuts[49], cuts[98]


def churn(port: int, seconds: float, at_once: int = 16) -> int:
    """Connect, echo and close as fast as possible; return the number of connections."""
    count = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        socks = [connecting(port) for _ in range(at_once)]
        for sock in socks:
            sock.setblocking(True)
            sock.settimeout(30)
            sock.sendall(b"hello\n")
        for sock in socks:
            if sock.recv(100) != b"hello\n":
                raise SystemExit("soak: a line was lost in the churn")
            sock.close()
        count += len(socks)
    return count


# ---------------------------------------------------------------------- the phases


@dataclass
class Report:
    broken: int = 0

    def note(self, what: str, result: str) -> None:
        print(f"  {what:<58} {result:>24}", flush=True)

    def promise(self, what: str, result: str, kept: bool) -> None:
        self.broken += not kept
        print(f"  {what:<58} {result:>24}  {'kept' if kept else 'BROKEN'}", flush=True)


def pin(pid: int, core: int) -> None:
    """Pin a process to the core with this index, if there are several cores."""
    if len(CORES) > 1:
        os.sched_setaffinity(pid, {CORES[core]})


def settle(server: Server, connections: int, seconds: float) -> int:
    """Wait until the server has at most *connections*, or time is up; return how many it has."""
    until = time.monotonic() + seconds
    while (now := server.stats()["connections"]) > connections and time.monotonic() < until:
        time.sleep(0.1)
    return int(now)


def attack(server: Server, report: Report, options: argparse.Namespace) -> None:
    counts = {
        "slowloris": 2000 * options.scale // 100,
        "never reading": 500 * options.scale // 100,
        "silent": 500 * options.scale // 100,
        "endless line": 200 * options.scale // 100,
        "resetting": 200 * options.scale // 100,
    }
    base, descriptors = server.rss(), server.descriptors()
    # The server gets its own core, and the honest client has priority on the other. Otherwise
    # the echo would measure which of the three processes is scheduled.
    pin(server.process.pid, 0)
    pin(0, 1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        print(f"No attack, {options.quiet:g} s")
        p50, p99 = percentiles(list(measure(sock, options.quiet)))
        report.note("honest echo, p50 and p99", f"{p50:.2f} and {p99:.2f} ms")
        print(f"Under attack by {sum(counts.values()):,}, {options.attack:g} s")
        hostile = subprocess.Popen(
            [sys.executable, __file__, "--hostile", json.dumps(
                [server.port, counts, options.storm, options.attack]
            )],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        os.setpriority(os.PRIO_PROCESS, hostile.pid, 19)
        times: list[float] = []
        peak = held = 0
        while hostile.poll() is None:
            times += measure(sock, 1)
            peak = max(peak, server.rss())
            held = max(held, server.stats()["connections"])
        assert hostile.stdout is not None
        disconnected, longest, stormed = json.loads(hostile.stdout.read())
        hostile.stdout.close()
        under50, under99 = percentiles(times)
        report.note("honest echo, p50 and p99", f"{under50:.2f} and {under99:.2f} ms")
        report.note(
            "the same, relative to no attack", f"{under50 / p50:.1f} and {under99 / p99:.1f}"
        )
        report.promise("honest echoes, all correct", f"{len(times):,}", True)
        report.note("most connections at once; connect-and-close", f"{held:,}; {stormed:,}")
        for kind, count in counts.items():
            most, longest_stay = MAX_STAY[kind], longest.get(kind, 0)
            ended = disconnected.get(kind, 0)
            report.promise(
                f"{count:,} {kind}, none stays longer than {most:.0f} s",
                f"{longest_stay} s, {ended:,} ended",
                longest_stay <= most + 1 and (kind == "resetting" or ended >= count),
            )
        greedy = counts["never reading"] + counts["endless line"]
        allowed = held * PER_CLIENT + greedy * PER_GREEDY
        report.promise(
            f"memory (RSS) grows by no more than {allowed / 1024:.0f} MiB",
            f"{(peak - base) / 1024:.1f} MiB",
            peak - base <= allowed,
        )
        left = settle(server, 1, LINGER + SLACK)
        report.promise("afterwards, only the honest client is connected", f"{left}", left == 1)
        open_now = server.descriptors()
        report.promise(
            "no descriptor is leaked", f"{open_now - descriptors - 1}", open_now <= descriptors + 1
        )
        stats = server.stats()
        report.promise("no handler failed", f"{stats['errors']}", not stats["errors"])
        for reason, count in stats["ended"].items():
            report.note(f"ended by {reason}", f"{count:,}")
        report.note("refused; backlog overflows", f"{stats['refused']}; {stats['overflows']}")


def turnover(server: Server, report: Report, options: argparse.Namespace) -> None:
    print(f"Connect, echo, close, {options.churn:g} s")
    churn(server.port, options.churn / 4)
    settle(server, 0, SLACK)
    before, descriptors = server.rss(), server.descriptors()
    seconds = options.churn * 3 / 4
    count = churn(server.port, seconds)
    settle(server, 0, SLACK)
    grown = server.rss() - before
    report.note("connections", f"{count:,}, {count / seconds:,.0f}/s")
    report.promise(
        f"memory (RSS), once warm, grows by no more than {GROWTH} KiB", f"{grown} KiB",
        grown <= GROWTH,
    )  # fmt: skip
    report.note("growth per connection", f"{grown * 1024 / count:.1f} bytes")
    open_now = server.descriptors()
    report.promise("no descriptor is leaked", f"{open_now - descriptors}", open_now <= descriptors)


def exhaustion(server: Server, report: Report, options: argparse.Namespace) -> None:
    print(f"No descriptors left, {options.exhausted:g} s")
    pid, spare = server.process.pid, 30
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (server.descriptors() + spare, hard))
    reset = answered = 0
    held: list[socket.socket] = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as honest:
        until = time.monotonic() + options.exhausted
        while time.monotonic() < until:
            for _ in measure(honest, 0.02):
                answered += 1
            sock = connecting(server.port)
            sock.setblocking(True)
            sock.settimeout(10)
            try:
                sock.sendall(b"hello\n")
                if sock.recv(100) == b"hello\n":
                    held.append(sock)
                    continue
            except ConnectionResetError:
                pass
            except TimeoutError:
                report.promise("no client is left waiting", "one timed out", False)
                break
            reset += 1
            sock.close()
        report.promise("clients above the limit are reset at once", f"{reset:,}", reset > 0)
        report.promise(
            "an earlier client is served meanwhile", f"{answered:,} echoes", answered > 0
        )
    for sock in held:
        sock.close()
    settle(server, 0, SLACK)
    report.promise(
        "afterwards, the server answers again", f"{churn(server.port, 0.5, 1):,} clients", True
    )
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    refused = server.stats()["refused"].get("descriptors", 0)
    report.promise("they are counted", f"{refused:,}", refused >= reset)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scale", type=int, default=100, help="hostile clients in percent")
    parser.add_argument("--quiet", type=float, default=5, help="seconds (default: %(default)g)")
    parser.add_argument("--attack", type=float, default=60, help="seconds (default: %(default)g)")
    parser.add_argument("--storm", type=int, default=500, help="connect-and-close per second")
    parser.add_argument("--churn", type=float, default=30, help="seconds (default: %(default)g)")
    parser.add_argument("--exhausted", type=float, default=10, help="seconds")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--hostile", help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.serve:
        asyncio.run(serve())
        return
    if options.hostile:
        port, counts, storm, seconds = json.loads(options.hostile)
        Attack(port, counts, storm).run(seconds)
        return
    report = Report()
    server = Server()
    try:
        print(f"{server.engine} engine, Python {sys.version.split()[0]}, {os.uname().release}")
        attack(server, report, options)
        turnover(server, report, options)
        exhaustion(server, report, options)
    finally:
        log = server.stop()
    print("The server's log")
    for line in log.splitlines()[:12]:
        print("  " + line)
    lines = len(log.splitlines())
    report.promise("the log is not flooded", f"{lines} lines", lines < 200)
    if report.broken:
        raise SystemExit(f"soak: broken promises: {report.broken}")


if __name__ == "__main__":
    main()
