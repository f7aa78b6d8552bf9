"""Compare `silly bench` with the load generator written in C: ``python benchmarks/client.py``.

They take turns loading the C server. The load generators share one core; the server
has another. The results are the median ratio of requests per second (closed loop)
and the latency percentiles of both at a fixed rate, in microseconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = "0", "1"
ROUNDS, SECONDS = 5, 1.0


def build(source: Path, into: str) -> str:
    program = str(Path(into, source.stem))
    subprocess.run([os.environ.get("CC", "gcc"), "-O2", "-o", program, source], check=True)
    return program


def client(*command: object) -> Any:
    done = subprocess.run(
        ["taskset", "-c", CLIENT_CORE, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return json.loads(done.stdout.removeprefix(b"ready\n"))


def bench(port: str, *options: object) -> Any:
    return client(
        sys.executable, "-m", "silly", "bench", f"127.0.0.1:{port}", "-q", "--json", "-", *options
    )


def closed(load: str, port: str, connections: int, depth: int) -> None:
    ratios = []
    for _ in range(ROUNDS):
        c_load = client(load, port, connections, depth, 64, SECONDS)
        silly_bench = bench(port, "-c", connections, "-d", depth, "-t", SECONDS, "--warmup", "0.2s")
        ratios.append(silly_bench["rate"] / (c_load["messages"] / c_load["seconds"]))
    print(f"{connections} connections, depth {depth}: {statistics.median(ratios):.2f} of C")


def at_a_rate(load: str, port: str, rate: int) -> None:
    names = ("p50", "p99", "p999")
    results: dict[str, list[list[float]]] = {"C": [], "silly bench": []}
    for _ in range(ROUNDS):
        c_load = client(load, port, 50, 1, 64, SECONDS, rate)
        results["C"].append([c_load[name] for name in names])
        silly_bench = bench(port, "-c", 50, "-r", rate, "-t", SECONDS, "--warmup", "0.2s")
        percentiles = silly_bench["latency"]["percentiles"]
        results["silly bench"].append([percentiles[key] * 1e6 for key in ("50", "99", "99.9")])
    for generator, rounds in results.items():
        medians = (statistics.median(values) for values in zip(*rounds, strict=True))
        figures = "  ".join(f"{n} {v:.0f}" for n, v in zip(names, medians, strict=True))
        print(f"{rate} /s, {generator}: {figures}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        load = build(HERE / "load.c", folder)
        yardstick = build(HERE / "servers" / "yardstick.c", folder)
        with subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, yardstick], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            try:
                for connections, depth in ((10, 1), (100, 1), (100, 32)):
                    closed(load, port, connections, depth)
                for rate in (5000, 20_000):
                    at_a_rate(load, port, rate)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
