"""Compare silly with a C epoll server and its peers: ``python benchmarks/run.py --help``.

The servers are pinned to one core, the load generator to another. The servers take
turns in rounds; all except the one being measured are stopped (SIGSTOP). The result
of a server and a job is the median, over the rounds, of its ratio to the yardstick in
the same round, because other load on the machine affects such a ratio least. A
measurement during which other processes used the processors is repeated once, and
the one with less of that counts. machine.py measures the other load and sets up the
network.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import machine
import report
from comparison import chosen, idle_memory, options
from server import Server, build_go, is_installed

HERE = Path(__file__).parent
SERVERS = HERE / "servers"
LOAD_CORE = "1"
REDIS_REQUESTS = 60_000  # per second of a measurement: redis-benchmark takes a number of requests


@dataclass(frozen=True)
class Job:
    name: str
    connections: int
    depth: int
    size: int
    mode: str = ""
    server: str = ""  # "raw", "ping" or "udp": see servers/yardstick.c; "tls": tls_yardstick.c

    @property
    def what(self) -> str:
        """Return which kind of service it is."""
        return self.server if self.server in {"udp", "tls"} else "tcp"


JOBS = (
    Job("ping-pong 64 B, 1 connection", 1, 1, 64),
    Job("ping-pong 64 B, 10 connections", 10, 1, 64),
    Job("ping-pong 64 B, 100 connections", 100, 1, 64),
    Job("ping-pong 64 B, 1000 connections", 1000, 1, 64),
    Job("ping-pong 1 KiB, 10 connections", 10, 1, 1024),
    Job("ping-pong 1 KiB, 100 connections", 100, 1, 1024),
    Job("32 in flight, 10 connections", 10, 32, 64),
    Job("32 in flight, 100 connections", 100, 32, 64),
    Job("64 KiB bulk, 10 connections", 10, 1, 65536, server="raw"),
    Job("connect-echo-close", 32, 1, 64, "reconnect"),
    Job("UDP 64 B, 100 sockets", 100, 1, 64, "udp", server="udp"),
    Job("TLS 64 B, 100 connections", 100, 1, 64, server="tls"),
    Job("TLS 16 KiB, 32 connections", 32, 1, 16384, server="tls"),
    Job("TLS 32 in flight, 10 connections", 10, 32, 64, server="tls"),
    Job("TLS connect-echo-close", 32, 1, 64, "reconnect", server="tls"),
    Job("TLS connect-echo-close, resumed", 32, 1, 64, "resume", server="tls"),
    Job("redis-benchmark PING_INLINE, 50 connections", 50, 1, 6, "redis", server="ping"),
)


@dataclass(frozen=True)
class Kind:
    name: str
    command: tuple[str, ...]
    needs: str = ""  # a program or a module
    environment: tuple[tuple[str, str], ...] = ()
    does: tuple[str, ...] = ("tcp",)  # which jobs


PY = sys.executable
ALL = ("tcp", "udp", "tls")


def kinds(built: Path) -> list[Kind]:
    def script(name: str, *args: str) -> tuple[str, ...]:
        return (PY, str(SERVERS / name), *args)

    silly = (PY, "-m", "silly", str(SERVERS / "silly_echo.py"))
    silly_uvloop = (PY, "-m", "silly", "--uvloop", str(SERVERS / "silly_echo.py"))
    native = (("SILLY_ENGINE", "native"),)
    portable = (("SILLY_ENGINE", "portable"),)
    return [
        Kind(report.YARDSTICK, (str(built / "yardstick"),), does=ALL),  # with "tls", it runs tls
        Kind("silly", silly, environment=native, does=ALL),
        Kind("silly, busy_poll", (*silly, "busy"), environment=native),
        Kind("silly, batches", (*silly, "batches"), environment=native),
        Kind("silly, nested", script("silly_nested.py"), environment=native, does=("tcp", "udp")),
        Kind("silly.streams", script("asyncio_streams.py", "silly", "run"), environment=native),
        Kind("silly on uvloop", silly_uvloop, "uvloop", native, does=ALL),
        Kind("silly portable", silly, environment=portable, does=ALL),
        Kind("silly portable, uvloop", silly_uvloop, "uvloop", portable, does=ALL),
        Kind("asyncio streams", script("asyncio_streams.py"), does=("tcp", "tls")),
        Kind("asyncio Protocol", script("asyncio_protocol.py"), does=ALL),
        Kind(
            "uvloop streams", script("asyncio_streams.py", "uvloop"), "uvloop", does=("tcp", "tls")
        ),
        Kind("uvloop Protocol", script("asyncio_protocol.py", "uvloop"), "uvloop", does=ALL),
        Kind("aiofastnet", script("asyncio_protocol.py", "fast"), "aiofastnet", does=("tls",)),
        Kind("trio", script("trio_echo.py"), "trio"),
        Kind("anyio", script("anyio_echo.py"), "anyio"),
        Kind("gevent", script("gevent_echo.py"), "gevent"),
        Kind("Twisted", script("twisted_echo.py"), "twisted"),
        Kind("Go", (str(built / "echo"),), "go"),
    ]


def started(kind: Kind, option: str) -> Server:
    """Start a server, which stops until it is measured."""
    command = [*kind.command, *([option] if option else [])]
    return Server(kind.name, command, {"GOMAXPROCS": "1", **dict(kind.environment)})


@dataclass
class Measured:
    per_second: float
    cpu_us: float  # microseconds of the server's processor time per message
    p50: float
    p99: float
    others: float  # load by other processes, in processors
    repeated: bool = False


def measure(built: Path, server: Server, job: Job, seconds: float) -> Measured:
    """Measure once, or twice if other processes disturbed the first measurement."""
    first = measure_once(built, server, job, seconds)
    if first.others <= machine.DISTURBED:
        return first
    second = measure_once(built, server, job, seconds)
    return replace(min(first, second, key=lambda one: one.others), repeated=True)


def measure_once(built: Path, server: Server, job: Job, seconds: float) -> Measured:
    if job.mode == "redis":
        requests = int(seconds * REDIS_REQUESTS)
        load = ["redis-benchmark", "-p", str(server.port), "-c", str(job.connections)]
        load += ["-n", str(requests), "-t", "ping_inline", "--csv"]
    else:
        program = "tls_load" if job.what == "tls" else "load"
        load = [str(built / program), str(server.port), str(job.connections), str(job.depth)]
        load += [str(job.size), str(seconds), *([job.mode] if job.mode else [])]
    server.resume()
    with subprocess.Popen(
        ["taskset", "-c", LOAD_CORE, *load],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if job.mode != "redis":
            assert process.stdout is not None
            process.stdout.readline()  # "ready": handshakes are not measured
        others = machine.Others()
        before = server.cpu()
        out, err = process.communicate(timeout=seconds + 30)
    server.stop()
    used = server.cpu() - before
    processors = others.processors(used)
    if process.returncode:
        raise RuntimeError(f"{server.name}, {job.name}: {err.strip()}")
    if job.mode == "redis":
        row = next(csv.DictReader(out.splitlines()))
        p50, p99 = (float(row[f"{p}_latency_ms"]) * 1000 for p in ("p50", "p99"))
        return Measured(float(row["rps"]), used * 1e6 / requests, p50, p99, processors)
    result = json.loads(out)
    messages = result["messages"] or 1  # on a very busy machine, none may have come back
    return Measured(
        messages / result["seconds"],
        used * 1e6 / messages,
        result["p50"],
        result["p99"],
        processors,
    )


def build(into: Path) -> None:
    cc = os.environ.get("CC", "gcc")
    for source, name in ((HERE / "load.c", "load"), (SERVERS / "yardstick.c", "yardstick")):
        subprocess.run([cc, "-O2", "-o", str(into / name), str(source)], check=True)
    openssl = ("-lssl", "-lcrypto")
    for source, name in ((HERE / "load.c", "tls_load"), (SERVERS / "tls_yardstick.c", "tls")):
        command = [cc, "-O2", "-DTLS", "-o", str(into / name), str(source), *openssl]
        subprocess.run(command, check=False, stderr=subprocess.DEVNULL)  # without it: no TLS
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    certificate = ["openssl", *options.split(), "-keyout", str(into / "key.pem")]
    certificate += ["-out", str(into / "cert.pem")]
    subprocess.run(certificate, check=False, stderr=subprocess.DEVNULL)
    os.environ["CERT"], os.environ["KEY"] = str(into / "cert.pem"), str(into / "key.pem")
    build_go(SERVERS / "echo.go", into)


def main() -> None:
    parser = options(__doc__, 0.7)
    parser.add_argument("--report", action="store_true", help="write RESULTS.md and its charts")
    parser.add_argument("--out", type=Path, help="write the results to this file, as JSON")
    args = parser.parse_args()
    about = machine.description(machine.own_network())
    print(", ".join(f"{what} {value}" for what, value in about.items()))
    with tempfile.TemporaryDirectory() as built:
        results = {"machine": about, **run(args, Path(built))}
    if args.out:
        args.out.write_text(json.dumps(results, indent=1))
    if args.report:
        report.write(results)


def run(args: argparse.Namespace, built: Path) -> dict[str, Any]:
    servers = [
        kind
        for kind in kinds(built)
        if kind.name == report.YARDSTICK
        or (chosen(kind.name, args.only) and is_installed(kind.needs))
    ]
    results: dict[str, Any] = {"rounds": args.rounds}
    jobs = [job for job in JOBS if chosen(job.name, args.jobs)]
    results["jobs"] = compare(servers, jobs, args.rounds, args.seconds, built)
    results["memory"] = {kind.name: memory(kind) for kind in servers}
    return results


def compare(
    servers: list[Kind], jobs: list[Job], rounds: int, seconds: float, built: Path
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Measure the servers in turns; print ratios to the first one."""
    build(built)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    results = {}
    for job in jobs:
        if job.mode == "redis" and not shutil.which("redis-benchmark"):
            print(f"\n{job.name}: skipped, redis-benchmark (redis-tools) is not installed")
            continue
        figures: dict[str, list[Measured]] = defaultdict(list)
        able = [kind for kind in servers if job.what in kind.does]
        if not able or (job.what == "tls" and not (built / "tls_load").exists()):
            print(f"\n{job.name}: skipped, the headers of OpenSSL (libssl-dev) are not installed")
            continue
        running = {kind.name: started(kind, job.server) for kind in able}
        try:
            for server in running.values():
                measure_once(built, server, job, 0.2)  # to warm up
            for _ in range(rounds):
                for name, server in running.items():
                    figures[name].append(measure(built, server, job, seconds))
        finally:
            for server in running.values():
                server.end()
        show(job, figures)
        results[job.name] = {name: [asdict(one) for one in all_] for name, all_ in figures.items()}
    return results


def memory(kind: Kind) -> float:
    """Return the resident KiB per idle connection that has echoed a line."""
    server = started(kind, "")
    server.resume()
    try:
        return idle_memory(server, b"hello\n", b"hello\n".__eq__)
    finally:
        server.end()


def show(job: Job, figures: dict[str, list[Measured]]) -> None:
    yardstick, yard = next(iter(figures.items()))
    base = statistics.median(one.per_second for one in yard)
    print(f"\n{job.name}: {yardstick} {base:,.0f}/s")
    for name, rounds in figures.items():
        pairs = list(zip(rounds, yard, strict=True))
        speed = spread([mine.per_second / its.per_second for mine, its in pairs])
        cpu = spread([mine.cpu_us / its.cpu_us for mine, its in pairs])
        p99 = statistics.median(one.p99 for one in rounds)
        print(f"  {name:26} {speed}  CPU/message {cpu}  p99 {p99:9.0f} us")
    every = [one for rounds in figures.values() for one in rounds]
    print(
        f"  other load: {statistics.median(one.others for one in every):.2f} processors,"
        f" at most {max(one.others for one in every):.2f};"
        f" {sum(one.repeated for one in every)} of {len(every)} measurements were repeated",
        flush=True,
    )


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):6.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"


if __name__ == "__main__":
    main()
