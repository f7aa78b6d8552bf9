"""Instructions for each echoed line, counted by valgrind's callgrind.

One process holds both ends: ten connections that send a line of 64 bytes and wait for its
echo. So the count depends neither on the machine nor on other load, and small changes show.
It is the difference between a long and a short run, which leaves out starting and ending.

Usage: python experiments/instructions.py [DIR ...]

Each DIR has a built copy of the package (its ``src``); without any, the installed one counts.
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
    async for line in conn:
        await conn.write(line)

async def main(count):
    line = b"x" * 63 + b"\\n"

    async def ping(conn):
        for _ in range(count):
            conn.write(line)
            await conn.read(b"\\n")

    async with tcp.listen("127.0.0.1:0", echo) as listener:
        conns = [await tcp.connect(listener.local_addr) for _ in range(10)]
        await asyncio.gather(*map(ping, conns))
        for conn in conns:
            conn.abort()

asyncio.run(main(int(sys.argv[1])))
"""
SHORT: Final = 20  # lines on each connection ...
LONG: Final = 220
CONNECTIONS: Final = 10


def instructions(lines: int, directory: str | None) -> int:
    """Return how many instructions a run with this many *lines* takes."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    if directory is not None:
        environment["PYTHONPATH"] = str(Path(directory).absolute())
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    done = subprocess.run(
        [*valgrind, sys.executable, "-c", PROGRAM, str(lines)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def main() -> None:
    directories: list[str | None] = [*sys.argv[1:]] or [None]
    for directory in directories:
        counted = instructions(LONG, directory) - instructions(SHORT, directory)
        each = counted / (LONG - SHORT) / CONNECTIONS
        print(f"{directory or 'installed'}: {each:,.0f} instructions for each line", flush=True)


if __name__ == "__main__":
    main()
