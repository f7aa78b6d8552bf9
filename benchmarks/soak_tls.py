"""Attack the handshakes of a TLS server: ``python benchmarks/soak_tls.py --help``.

1. Hostile clients from many addresses begin handshakes as fast as they can: they send a
   ClientHello again and again and leave, or complete the handshake and leave. Meanwhile, an
   honest client measures its echo.
2. Thousands of handshakes are abandoned at any byte. They must leave neither memory nor
   descriptors behind, and each must be counted.
3. Thousands of handshakes are completed while the certificate changes a hundred times.

As in soak.py, each promise is printed with the result; the exit code is 1 if one was broken.
It needs the command ``openssl``, to make certificates.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from soak import SLACK, Report, connecting, measure, percentiles, pin, settle
from soak import Server as PlainServer

GROWTH = 4 * 1024  # KiB that the server may grow by while handshakes are abandoned
WORSE = 3.0  # how much longer an honest echo may take (p99) under a flood of handshakes


async def serve(directory: Path) -> None:
    import silly
    from silly.net import tcp, tls

    async def echo(conn: tcp.Conn) -> None:
        async for line in conn:
            await conn.write(line)

    config = tls.Server(directory / "cert.pem", directory / "key.pem")
    limits = tcp.Limits(handshake_timeout=2, max_per_client=None)
    listener = tcp.listen("127.0.0.1:0", echo, backlog=4096, limits=limits, tls=config)
    print(json.dumps([silly.engine(), int(listener.local_addr.rpartition(":")[2])]), flush=True)
    loop = asyncio.get_running_loop()
    while command := await loop.run_in_executor(None, sys.stdin.readline):
        stats = listener.stats
        answer = {
            "connections": stats.connections,
            "accepted": stats.accepted,
            "refused": stats.refused,
            "handshakes": stats.handshakes,
            "put_off": stats.handshakes_put_off,
            "errors": stats.handler_errors_by_type,
        }
        if command.strip() == "reload":
            answer["reloaded"] = config.reload()
        print(json.dumps(answer), flush=True)


class Server(PlainServer):
    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.engine, self.port = json.loads(self._line())

    def reload(self) -> bool:
        assert self.process.stdin is not None
        print("reload", file=self.process.stdin, flush=True)
        return bool(json.loads(self._line())["reloaded"])


def make_pair(directory: Path, number: int) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(directory / f"key{number}"), "-out", str(directory / f"cert{number}")),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )


def use_pair(directory: Path, number: int) -> None:
    for name in ("cert", "key"):
        shutil.copy(directory / f"{name}{number}", directory / f"{name}.new")
        (directory / f"{name}.new").replace(directory / f"{name}.pem")


def trusting(directory: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for number in range(2):
        context.load_verify_locations(directory / f"cert{number}")
    return context


def hello_of(context: ssl.SSLContext) -> tuple[Any, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A client with its first message, and its two directions."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return client, incoming, outgoing


def flood(port: int, seconds: float) -> None:
    """Begin handshakes until the time is up; complete one of ten; print how many."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    hello = hello_of(context)[2].read()
    hellos = completed = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        socks = [connecting(port) for _ in range(50)]
        for sock in socks:
            sock.setblocking(True)
            sock.settimeout(30)
        for sock in socks[5:]:
            with contextlib.suppress(OSError):
                sock.sendall(hello)
                hellos += 1
        for sock in socks[:5]:
            with contextlib.suppress(OSError), context.wrap_socket(sock):
                completed += 1
        for sock in socks:
            sock.close()
    print(json.dumps([hellos, completed]), flush=True)


def flooded(
    server: Server, context: ssl.SSLContext, report: Report, options: argparse.Namespace
) -> None:
    pin(server.process.pid, 0)
    pin(0, 1)
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        print(f"No attack, {options.quiet:g} s")
        p50, p99 = percentiles(list(measure(sock, options.quiet)))
        report.note("honest echo, p50 and p99", f"{p50:.2f} and {p99:.2f} ms")
        print(f"A flood of handshakes, {options.attack:g} s")
        hostile = subprocess.Popen(
            [sys.executable, __file__, "--flood", str(server.port), str(options.attack)],
            stdout=subprocess.PIPE,
            text=True,
        )
        # Niceness is not enough: a nice process goes on for a moment when another wakes up.
        os.sched_setscheduler(hostile.pid, os.SCHED_IDLE, os.sched_param(0))
        times: list[float] = []
        while hostile.poll() is None:
            times += measure(sock, 0.5)
        assert hostile.stdout is not None
        hellos, completed = json.loads(hostile.stdout.read())
        hostile.stdout.close()
        put_off = int(server.stats()["put_off"])
        under50, under99 = percentiles(times)
        report.note("ClientHellos; complete handshakes", f"{hellos:,}; {completed:,}")
        report.note("handshakes that had to wait for others", f"{put_off:,}")
        report.promise(
            f"honest echo, p50 and p99; p99 within {WORSE:g} times that of quiet",
            f"{under50:.2f} and {under99:.2f} ms, {under99 / p99:.1f}",
            under99 <= WORSE * p99,
        )


def abandoned(
    server: Server, context: ssl.SSLContext, report: Report, options: argparse.Namespace
) -> None:
    print(f"{options.handshakes:,} handshakes abandoned at any byte")
    before = descriptors = counted = 0
    for round_ in range(2):  # once to warm up
        for _ in range(options.handshakes // 2):
            client, incoming, outgoing = hello_of(context)
            wire = outgoing.read()
            at = random.randrange(len(wire) + 80)
            sock = connecting(server.port)
            sock.setblocking(True)
            sock.settimeout(30)
            with sock, contextlib.suppress(OSError):
                sock.sendall(wire[:at])
                if at >= len(wire):
                    while not outgoing.pending:
                        incoming.write(sock.recv(65536))
                        with contextlib.suppress(ssl.SSLWantReadError):
                            client.do_handshake()
                    sock.sendall(outgoing.read()[: at - len(wire)])
                if random.random() < 0.5:  # a reset instead of an end
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        settle(server, 0, SLACK)
        if round_ == 0:
            before, descriptors = server.rss(), server.descriptors()
            counted = _seen(server)
    report.promise(
        "each is counted",
        f"{_seen(server) - counted:,}",
        _seen(server) - counted == options.handshakes // 2,
    )
    grown, open_now = server.rss() - before, server.descriptors()
    report.promise(
        f"memory (RSS), once warm, grows by no more than {GROWTH} KiB", f"{grown} KiB",
        grown <= GROWTH,
    )  # fmt: skip
    report.promise("no descriptor is leaked", f"{open_now - descriptors}", open_now <= descriptors)


def _seen(server: Server) -> int:
    stats = server.stats()
    return int(sum(stats["refused"].values()) + stats["accepted"])


def reloaded(
    server: Server,
    context: ssl.SSLContext,
    directory: Path,
    report: Report,
    options: argparse.Namespace,
) -> None:
    changes = min(100, options.handshakes)
    print(f"{options.handshakes:,} handshakes, {changes} changes of the certificate")
    failed = broken = 0
    for number in range(options.handshakes):
        if number % (options.handshakes // changes) == 0:
            use_pair(directory, number * changes // options.handshakes % 2)
            broken += not server.reload()
        try:
            plain = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            with context.wrap_socket(plain, server_hostname="localhost") as sock:
                sock.sendall(b"hello\n")
                failed += sock.recv(100) != b"hello\n"
        except OSError:
            failed += 1
    report.promise("no handshake fails", f"{failed}", failed == 0)
    report.promise("no change is refused", f"{broken}", broken == 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quiet", type=float, default=5, help="seconds (default: %(default)g)")
    parser.add_argument("--attack", type=float, default=20, help="seconds (default: %(default)g)")
    parser.add_argument("--handshakes", type=int, default=10_000, help="(default: %(default)d)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--flood", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    if options.flood:
        flood(int(options.flood[0]), float(options.flood[1]))
        return
    report = Report()
    with tempfile.TemporaryDirectory(prefix="silly-soak-") as name:
        directory = Path(name)
        for number in range(2):
            make_pair(directory, number)
        use_pair(directory, 0)
        context = trusting(directory)
        server = Server(directory)
        try:
            print(f"{server.engine} engine, Python {sys.version.split()[0]}, {os.uname().release}")
            flooded(server, context, report, options)
            abandoned(server, context, report, options)
            reloaded(server, context, directory, report, options)
            stats = server.stats()
            report.promise("no handler failed", f"{stats['errors']}", not stats["errors"])
            report.note("handshakes", f"{stats['handshakes']}")
            report.note("refused", f"{stats['refused']}")
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
