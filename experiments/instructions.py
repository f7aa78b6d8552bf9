"""Instructions for each echoed line, counted by valgrind's callgrind.

One process holds both ends: ten connections that send lines of 64 bytes and wait for their
echoes. So the count depends neither on the machine nor on other load, and small changes show.
It is the difference between a long and a short run, which leaves out starting and ending.

Usage: python experiments/instructions.py [--pipelined | --batches] [DIR ...]

Each connection has one line in flight, or, pipelined, 32, which the client writes and
reads as one piece; the server echoes them one by one, or in batches. Each DIR has a built
copy of the package (its ``src``); without any, the installed one counts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

PROGRAM: Final = """
import asyncio, sys
from silly.net import tcp

async def echo(conn):
    ITERATION
        await conn.write(lines)

async def main(count):
    lines = (b"x" * 63 + b"\\n") * IN_FLIGHT

    async def ping(conn):
        for _ in range(count):
            conn.write(lines)
            await conn.read(64 * IN_FLIGHT)

    async with tcp.listen("127.0.0.1:0", echo) as listener:
        conns = [await tcp.connect(listener.local_addr) for _ in range(10)]
        await asyncio.gather(*map(ping, conns))
        for conn in conns:
            conn.abort()

asyncio.run(main(int(sys.argv[1])))
"""
LINE_BY_LINE: Final = "async for lines in conn:"
JOBS: Final = {  # how the server iterates, and how many lines are in flight
    None: (LINE_BY_LINE, 1),
    "--pipelined": (LINE_BY_LINE, 32),
    "--batches": ("async for lines in conn.batches():", 32),
}
SHORT: Final = 20  # turns on each connection ...
LONG: Final = 220
CONNECTIONS: Final = 10


def instructions(program: str, turns: int, directory: str | None) -> int:
    """Return how many instructions a run of *program* with this many *turns* takes."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    if directory is not None:
        environment["PYTHONPATH"] = str(Path(directory).absolute())
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    done = subprocess.run(
        [*valgrind, sys.executable, "-c", program, str(turns)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def main() -> None:
    arguments = sys.argv[1:]
    iteration, in_flight = JOBS[arguments.pop(0) if arguments and arguments[0] in JOBS else None]
    program = PROGRAM.replace("ITERATION", iteration).replace("IN_FLIGHT", str(in_flight))
    directories: list[str | None] = [*arguments] or [None]
    for directory in directories:
        counted = instructions(program, LONG, directory) - instructions(program, SHORT, directory)
        each = counted / (LONG - SHORT) / CONNECTIONS / in_flight
        print(f"{directory or 'installed'}: {each:,.0f} instructions for each line", flush=True)


if __name__ == "__main__":
    main()
