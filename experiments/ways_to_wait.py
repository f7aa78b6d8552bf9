"""Compare the ways to wait in ways_to_wait.c: ``python experiments/ways_to_wait.py``.

The rounds are interleaved as in the benchmark; the ratios are to the first way.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

import machine  # noqa: E402 - found through sys.path
import run  # noqa: E402
from comparison import chosen  # noqa: E402

WAYS = ("lt", "et", "groups", "batches", "uring")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=0.5, help="per measurement; default: 0.5")
    parser.add_argument("--jobs", default="ping-pong", help="parts of names; default: ping-pong")
    args = parser.parse_args()
    print(f"network: {machine.own_network()}")
    jobs = [job for job in run.JOBS if chosen(job.name, args.jobs)]
    with tempfile.TemporaryDirectory() as built:
        binary = Path(built) / "ways_to_wait"
        subprocess.run(["gcc", "-O2", "-o", binary, HERE / "ways_to_wait.c"], check=True)
        servers = [run.Kind(way, (str(binary), way)) for way in WAYS]
        run.compare(servers, jobs, args.rounds, args.seconds, Path(built))


if __name__ == "__main__":
    main()
