"""Many WebSockets: idle ones, and a broadcast to receivers some of whom do not read.

    python benchmarks/crowd.py [--idle 20000] [--receivers 10000] [--deaf 100]

It opens the idle ones, prints the memory for each, and checks that every one of them still gets an
answer. Then it broadcasts messages of 1 KiB until the deaf ones are skipped, and checks that each
of the others got every message, in order. Where a process may not have enough descriptors, several
servers run together (see million.py); the exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import selectors
import socket
import subprocess
import sys
import time
from typing import Any

import million

from silly._values.units import counted

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HELLO = b"\x82\x85\0\0\0\0hello"  # a frame, masked with zeros
ANSWER = b"\x82\x05hello"
SIZE = 1024  # bytes of a broadcast message
HEADER = b"\x82\x7e\x04\x00"
PER_CLIENT = 5000  # connections of a client process
BUFFER = 16 * 1024  # bytes for which clients have room, and ...
LIMIT = 64 * 1024  # ... that may be unsent to one: few, so that the deaf ones are found soon


# ---------------------------------------------------------------------- server


async def serve() -> None:
    import silly
    from silly.net import tcp, websocket

    room: set[websocket.WebSocket] = set()

    async def echo(ws: websocket.WebSocket) -> None:
        room.add(ws)
        try:
            async for message in ws:
                await ws.send(message)
        finally:
            room.discard(ws)

    # The clients answer no pings; the deaf ones are to be skipped, not ended for their slowness.
    limits = tcp.Limits(ping_interval=None, min_send_rate=None)
    listener = websocket.listen("127.0.0.1:0", echo, backlog=4096, limits=limits)
    print(json.dumps([silly.engine(), int(listener.local_addr.rpartition(":")[2])]), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        begun = time.perf_counter()
        count = 0
        if line.strip():
            message = number_of(json.loads(line))
            count = websocket.broadcast(room, message, limit=LIMIT)
        took = time.perf_counter() - begun
        stats = listener.stats
        print(json.dumps([len(room), count, took, stats.held_bytes, dict(stats.ended)]), flush=True)


def number_of(number: int) -> bytes:
    """Return message *number*."""
    return number.to_bytes(4, "big") * (SIZE // 4)


# --------------------------------------------------------------------- clients


def client(port: int) -> None:
    """Open, ask and receive, as the lines of the standard input say."""
    socks: list[socket.socket] = []
    for line in sys.stdin:
        command, first, count = json.loads(line)
        if command == "open":
            for start in range(first, first + count, 250):
                socks += opened(port, start, min(250, first + count - start))
        elif command == "ask":
            for start in range(0, len(socks), 250):
                answers(socks[start : start + 250], HELLO, ANSWER)
        else:  # the first ones are deaf
            receive(socks[first:], count)
        print("done", flush=True)


def opened(port: int, first: int, count: int) -> list[socket.socket]:
    made = []
    for number in range(first, first + count):
        sock = socket.socket()
        sock.settimeout(120)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        address = ipaddress.IPv4Address("127.1.0.0") + number // million.PORTS + 1
        sock.bind((str(address), 0))
        sock.connect(("127.0.0.1", port))
        sock.sendall(REQUEST)
        made.append(sock)
    for sock in made:
        if not sock.recv(1000).endswith(b"\r\n\r\n"):
            raise SystemExit("crowd: no WebSocket was opened")
    return made


def answers(socks: list[socket.socket], question: bytes, answer: bytes) -> None:
    for sock in socks:
        sock.sendall(question)
    for sock in socks:
        if (got := sock.recv(100)) != answer:
            raise SystemExit(f"crowd: {got!r} came back")


def receive(socks: list[socket.socket], count: int) -> None:
    """Receive *count* messages on each of *socks*, and check them."""
    expected = b"".join(HEADER + number_of(number) for number in range(count))
    got = dict.fromkeys(socks, 0)
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        left = len(socks)
        while left:
            ready = selector.select(120)
            if not ready:
                raise SystemExit(f"crowd: {left} receivers got nothing for two minutes")
            for key, _ in ready:
                found: Any = key.fileobj
                data = found.recv(65536)
                at = got[found]
                if not data or data != expected[at : at + len(data)]:
                    raise SystemExit("crowd: a receiver got something else")
                got[found] = at + len(data)
                if got[found] == len(expected):
                    selector.unregister(found)
                    left -= 1


# ------------------------------------------------------------------------ run


class Child(million.Child):
    """A process of this program."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


class Part:
    """A server and its clients."""

    def __init__(self, first: int, count: int) -> None:
        self.count = count
        self.warm = min(million.WARM, count - 1)  # those opened before memory is measured
        self.server = Child("--serve", str(count))
        self.engine, port = json.loads(self.server.answer())
        self.clients = [
            (Child("--client", str(port)), start, min(PER_CLIENT, count - start + first))
            for start in range(first, first + count, PER_CLIENT)
        ]

    def open(self) -> int:
        """Open all; return by how many bytes the server has grown since the first ones."""
        before = 0
        for number, (client, first, count) in enumerate(self.clients):
            warm = self.warm if number == 0 else 0
            if warm:
                self.ask(client, "open", first, warm)
                before = million.rss(self.server.process.pid)
            self.ask(client, "open", first + warm, count - warm)
        return million.rss(self.server.process.pid) - before

    @staticmethod
    def ask(client: Child, *command: Any) -> None:
        client.send(command)
        client.answer()

    def question(self, command: Any) -> list[Any]:
        assert self.server.process.stdin is not None
        self.server.process.stdin.write(f"{command}\n")
        self.server.process.stdin.flush()
        answer: list[Any] = json.loads(self.server.answer())
        return answer

    def end(self) -> None:
        for child in (self.server, *(client for client, _, _ in self.clients)):
            child.process.kill()
            child.process.wait()


def parts_of(total: int, limit: int) -> list[Part]:
    most = limit - million.SPARE
    return [Part(first, min(most, total - first)) for first in range(0, total, most)]


def idle(total: int, limit: int) -> None:
    parts = parts_of(total, limit)
    try:
        grown = sum(part.open() for part in parts)
        measured = sum(part.count - part.warm for part in parts)
        begun = time.monotonic()
        for part in parts:
            for client, _, _ in part.clients:
                part.ask(client, "ask", 0, 0)
        took = time.monotonic() - begun
        alive = sum(part.question("")[0] for part in parts)
    finally:
        for part in parts:
            part.end()
    print(
        f"{alive:,} idle WebSockets in {counted(len(parts), 'server')} "
        f"({parts[0].engine} engine): {grown / measured / 1024:.2f} KiB each; "
        f"each was answered, all in {took:.2f} s",
        flush=True,
    )
    if alive != total:
        raise SystemExit(f"crowd: {total - alive} were lost")


def broadcast(total: int, deaf: int, limit: int) -> None:
    """Broadcast until the deaf ones are skipped; the others get every message."""
    (part,) = parts = parts_of(total, limit)[:1]
    deaf = min(deaf, part.count // 2)
    listening = part.count - deaf
    try:
        part.open()
        took, sent, reached, held = [], 0, part.count, 0
        while reached > listening and sent < 2000:
            for client, first, _ in part.clients:
                client.send(("receive", deaf if first == 0 else 0, 10))
            # The clients expect the messages from number 0 on, ten at a time.
            for number in range(10):
                _, reached, seconds, held, ended = part.question(number)
                took.append(seconds)
                sent += 1
                if reached < listening:
                    raise SystemExit(f"crowd: only {reached} of {listening} were sent a message")
            for client, _, _ in part.clients:
                client.answer()
        alive = part.question("")[0]
    finally:
        for part in parts:
            part.end()
    print(
        f"{sent} broadcasts of 1 KiB to {total:,} receivers, {deaf} of whom do not read: "
        f"{sum(took) / sent * 1e6 / total:.2f} us for each receiver, the slowest call "
        f"{max(took) * 1e3:.0f} ms; the others got all, the deaf ones were skipped when "
        f"{held / deaf / 1024:.0f} KiB were held for each; {alive:,} are still open"
    )
    if reached != listening or ended or alive != part.count:
        raise SystemExit(f"crowd: the deaf ones were not skipped ({reached}), or ended: {ended}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--idle", type=int, default=20_000)
    parser.add_argument("--receivers", type=int, default=10_000)
    parser.add_argument("--deaf", type=int, default=100)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    limit = million.raise_limit(max(args.idle, args.receivers) + million.SPARE)
    if args.serve:
        asyncio.run(serve())
    elif args.client:
        client(args.client)
    else:
        if args.idle:
            idle(args.idle, limit)
        if args.receivers:
            broadcast(args.receivers, args.deaf, limit)


if __name__ == "__main__":
    main()
