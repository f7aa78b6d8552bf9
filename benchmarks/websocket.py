"""Compare silly's WebSockets with a C epoll server and its peers: ``--help``.

As run.py does it: one core for the server, another for the load, turns in rounds, and medians of
the ratios to the C server in the same round; of its processor time for each message above all,
which other load on the machine affects least. A broadcast is one message to a thousand receivers:
its figures are for each of them. Then: KiB of memory for each idle WebSocket.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import machine
import report
import run
from comparison import chosen, idle_memory, options
from run import PY, SERVERS, Job, Kind
from server import is_installed

REQUEST: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
DEFLATE: Final = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"

JOBS: Final = (
    Job("64 B, 100 connections", 100, 1, 64, "websocket", "websocket"),
    Job("16 KiB, 32 connections", 32, 1, 16384, "websocket", "websocket"),
    Job("64 B, 32 in flight, 10 connections", 10, 32, 64, "websocket", "websocket"),
    Job("broadcast of 1 KiB to 1000", 1000, 1, 1024, "broadcast", "broadcast"),
)


def kinds(built: Path) -> list[Kind]:
    def silly(*options: str) -> tuple[str, ...]:
        return (PY, "-m", "silly", str(SERVERS / "silly_websocket.py"), *options)

    def peer(name: str) -> tuple[str, ...]:
        return (PY, str(SERVERS / "websocket_peers.py"), name)

    native, portable = (("SILLY_ENGINE", "native"),), (("SILLY_ENGINE", "portable"),)
    return [
        Kind(report.YARDSTICK, (str(built / "websocket_yardstick"),)),
        Kind("silly", silly(), environment=native),
        Kind("silly, accept", silly("accept"), environment=native),
        Kind("silly portable", silly(), environment=portable),
        Kind("silly, ASGI", peer("silly-asgi"), environment=native),
        Kind("picows", peer("picows"), "picows"),
        Kind("aiohttp", peer("aiohttp"), "aiohttp"),
        Kind("websockets", peer("websockets"), "websockets"),
        Kind("uvicorn", peer("uvicorn"), "uvicorn"),
    ]


def build_yardstick(into: Path) -> None:
    source = SERVERS / "websocket_yardstick.c"
    command = [os.environ.get("CC", "gcc"), "-O2", "-o", str(into / source.stem), str(source)]
    subprocess.run(command, check=True)


def memory(kind: Kind, extension: bytes) -> float:
    """Return the resident KiB per idle WebSocket that has been opened."""
    server = run.started(kind, "websocket")
    server.resume()
    request = REQUEST + extension + b"\r\n"
    try:
        return idle_memory(server, request, lambda reply: reply.startswith(b"HTTP/1.1 101"))
    finally:
        server.end()


def main() -> None:
    args = options(__doc__, 0.7).parse_args()
    about = machine.description(machine.own_network())
    print(", ".join(f"{what} {value}" for what, value in about.items()))
    with tempfile.TemporaryDirectory() as name:
        built = Path(name)
        build_yardstick(built)
        able = []
        for kind in kinds(built):
            if kind.name != report.YARDSTICK and not chosen(kind.name, args.only):
                continue
            if is_installed(kind.needs):
                able.append(kind)
            else:
                print(f"{kind.name}: skipped, {kind.needs} is not installed")
        jobs = [job for job in JOBS if chosen(job.name, args.jobs)]
        run.compare(able, jobs, args.rounds, args.seconds, built)
        if chosen("memory", args.jobs):
            print("\nKiB for each idle WebSocket; and with deflate agreed on")
            for kind in able:
                plain, deflated = memory(kind, b""), memory(kind, DEFLATE)
                print(f"  {kind.name:26} {plain:6.1f} {deflated:6.1f}", flush=True)


if __name__ == "__main__":
    main()
