"""What each connection costs the server: instructions, Python calls and system calls.

A client, in another process, opens 32 connections at a time, sends a line of 64 bytes on each,
waits for its echo, and closes them. valgrind's callgrind counts the server's instructions, a
profile function its Python calls, and strace its system calls. Each count is the difference
between a long and a short run, which leaves out starting and ending; the numbers differ by a
percent or two from run to run, with how many connections share a pass of the event loop.

Usage: python experiments/connections.py [--functions N] [DIR ...]

Each DIR has a built copy of the package (its ``src``); without any, the installed one counts.
With ``--functions N``, also prints the N functions that take the most instructions.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

PROGRAM: Final = """
import collections, sys
from silly.net import tcp

async def echo(conn):
    async for line in conn:
        await conn.write(line)

calls = collections.Counter()

def count(frame, event, _):
    if event == "call":
        calls[frame.f_code.co_qualname] += 1

async def stop(conn):
    sys.setprofile(None)
    listener.close(0)
    control.close(0)
    for name, number in calls.items():
        print(number, name)

listener = tcp.listen("127.0.0.1:0", echo, backlog=4096)
control = tcp.listen("127.0.0.1:0", stop)
print(*(each.local_addr.rpartition(":")[2] for each in (listener, control)), flush=True)
if "calls" in sys.argv:
    sys.setprofile(count)
"""
SHORT: Final = 4  # batches of connections ...
LONG: Final = 64
BATCH: Final = 32
LEAST: Final = 0.02  # calls for each connection: what is called less often is not listed
LINE: Final = b"x" * 63 + b"\n"


def serve(command: list[str], directory: str | None, batches: int, program: Path) -> str:
    """Run the server under *command* for so many *batches*; return what it printed."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    if directory is not None:
        environment["PYTHONPATH"] = str(Path(directory).absolute())
    server = subprocess.Popen(
        [*command, sys.executable, "-m", "silly", str(program), *(() if command else ("calls",))],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    port, control = map(int, server.stdout.readline().split())
    for _ in range(batches):
        socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(BATCH)]
        for sock in socks:
            sock.sendall(LINE)
        for sock in socks:
            assert sock.recv(100) == LINE
        for sock in socks:
            sock.close()
    socket.create_connection(("127.0.0.1", control)).close()
    stdout, stderr = server.communicate(timeout=60)
    assert server.returncode == 0, stderr
    return stdout


def difference(long: Counter[str], short: Counter[str]) -> dict[str, float]:
    """Return the counts for each connection."""
    return {name: (long[name] - short[name]) / (LONG - SHORT) / BATCH for name in long}


def instructions(directory: str | None, batches: int, program: Path) -> Counter[str]:
    """Return the server's instructions by function."""
    out = program.with_suffix(".callgrind")
    serve(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"], directory, batches, program
    )
    listed = subprocess.run(
        ["callgrind_annotate", "--auto=no", "--threshold=100", "--show-percs=no", str(out)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: Counter[str] = Counter()
    for line in listed.splitlines():
        if match := re.match(r" *([\d,]+) +.*:(\S+)(?: \[.*\])?$", line):
            found[match[2]] += int(match[1].replace(",", ""))
    return found


def python_calls(directory: str | None, batches: int, program: Path) -> Counter[str]:
    """Return how often each Python function was called or resumed."""
    lines = serve([], directory, batches, program).splitlines()
    return Counter({name: int(number) for number, name in (line.split(" ", 1) for line in lines)})


def system_calls(directory: str | None, batches: int, program: Path) -> Counter[str]:
    """Return how often each system call was made."""
    out = program.with_suffix(".strace")
    serve(["strace", "-f", "-c", "-U", "name,calls", "-o", str(out)], directory, batches, program)
    rows = [line.split() for line in out.read_text().splitlines()]
    return Counter({row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--functions", type=int, default=0, metavar="N")
    parser.add_argument("directories", nargs="*", metavar="DIR")
    args = parser.parse_args()
    for directory in args.directories or [None]:
        print(f"{directory or 'installed'}, for each connection:")
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder, "server.py")
            program.write_text(PROGRAM)
            serve([], directory, 0, program)  # so that bytecode is cached
            for what in (instructions, python_calls, system_calls):
                counts = difference(*(what(directory, n, program) for n in (LONG, SHORT)))
                counts.pop("total", None)  # strace's
                print(f"  {sum(counts.values()):,.1f} {what.__name__.replace('_', ' ')}")
                most = args.functions if what is instructions else None
                for name, number in sorted(counts.items(), key=lambda item: -item[1])[:most]:
                    if number >= LEAST:
                        print(f"    {number:10,.2f} {name}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
