"""Every example is run as a user would run it, and its output is checked."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import silly
from silly._loop.live import Live
from silly.testing import run_virtual
from tests.net.tls import certificates

EXAMPLES = Path(__file__).parent.parent / "examples"
QUIET = ("--log-level", "error")  # neither where it listens, nor that a busy machine blocks it


class Running:
    """A running example and its output."""

    def __init__(self, name: str, *args: str, flags: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "silly", *QUIET, *flags, str(EXAMPLES / name), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._watchdog = threading.Timer(60, self.process.kill)
        self._watchdog.start()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def addr(self) -> str:
        found = re.search(r"\S+:\d+", line := self.line())
        assert found, line
        return found[0]

    def rest(self) -> str:
        output, _ = self.process.communicate()
        return output

    def stop(self) -> str:
        self.process.send_signal(signal.SIGINT)
        output = self.rest()
        assert self.process.returncode == 0, output
        return output

    def end(self) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running(name: str, *args: str, flags: Sequence[str] = ()) -> Iterator[Running]:
    example = Running(name, *args, flags=flags)
    try:
        yield example
    finally:
        example.end()


def dial(addr: str) -> socket.socket:
    host, _, port = addr.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def converse(addr: str, *lines: bytes) -> None:
    with dial(addr) as sock, sock.makefile("rb") as file:
        for line in lines:
            sock.sendall(line)
            assert file.readline() == line


@pytest.mark.no_engine
def test_the_first_program_prints_three_lines_and_ends() -> None:
    with running("hello.py") as example:
        assert example.line() == "Hello, Silly!\n"
        assert example.line() == f"Process: {example.process.pid}\n"
        assert example.line() == f"Version: {silly.__version__}\n"
        assert example.rest() == ""
        assert example.process.returncode == 0


def output_in_no_time(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    async def run() -> None:
        exec((EXAMPLES / name).read_text(), {})
        await Live.of(asyncio.get_running_loop()).wait_empty()

    run_virtual(run())
    return capsys.readouterr().out.splitlines()


@pytest.mark.no_engine
def test_forked_tasks_run_when_the_first_one_waits(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_in_no_time("fork_order.py", capsys) == [
        "Main task started",
        "Main task continues",
        "Task 2 completed",
        "Task 1 completed",
    ]


@pytest.mark.no_engine
def test_the_timer_demo_ticks_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output_in_no_time("timer_demo.py", capsys)
    assert (lines[0], lines[-1], len(lines)) == ("Timer demo started", "Demo ended", 17)
    times = [float(line.split()[-2]) for line in lines[1:-1]]
    assert (times[0], times[-1]) == (0.5, 5.0)
    assert times == sorted(times)  # each line is printed at the time that it tells


def test_echo_serves_and_prints_how_to_connect() -> None:
    with running("echo.py", "127.0.0.1:0") as example:
        addr = example.addr()
        assert example.line().startswith(f"Try: telnet 127.0.0.1 {addr.rpartition(':')[2]} ")
        converse(addr, b"Hello Silly!\r\n", b"This is a test\r\n")
        with running("echo.py", addr) as second:
            output = second.rest()
            assert second.process.returncode == 1
        assert re.fullmatch(r"echo: \[Errno \d+\] Address already in use; .*choose .*\n", output)
        example.stop()


@contextmanager
def encrypted(sock: socket.socket) -> Iterator[socket.socket]:
    context = ssl.create_default_context(cafile=certificates.ca_file())
    with context.wrap_socket(sock, server_hostname="localhost") as conn:
        yield conn


def test_echo_serves_under_tls_unchanged() -> None:
    cert, key = certificates.pair()
    with running("echo.py", "127.0.0.1:0", flags=("--tls-cert", cert, "--tls-key", key)) as example:
        with dial(example.addr()) as sock, encrypted(sock) as conn, conn.makefile("rb") as file:
            conn.sendall(b"Hello Silly!\r\n")
            assert file.readline() == b"Hello Silly!\r\n"
        example.stop()


def test_starttls_encrypts_a_connection_that_exists() -> None:
    with running("starttls.py", *certificates.pair(), "127.0.0.1:0") as example:
        with dial(example.addr()) as sock:
            sock.sendall(b"in the clear\n")
            assert sock.recv(100) == b"in the clear\n"
            sock.sendall(b"STARTTLS\n")
            assert sock.recv(100) == b"go ahead\n"
            with encrypted(sock) as conn:
                conn.sendall(b"secret\n")
                assert conn.recv(100) == b"secret\n"
                conn.sendall(b"STARTTLS\n")
                assert conn.recv(100) == b"error: encrypted already\n"
        example.stop()


def test_echo_server_makes_fifteen_verified_round_trips() -> None:
    with running("echo_server.py", "127.0.0.1:0") as example:
        example.addr()
        lines: list[str] = []
        while len([line for line in lines if line.startswith("Close connection")]) < 3:
            lines.append(example.line())
            assert lines[-1], lines
        example.stop()
    sent = [line.removeprefix("Send ") for line in lines if line.startswith("Send ")]
    received = [line.removeprefix("Receive ") for line in lines if line.startswith("Receive ")]
    assert len(sent) == 15
    assert sorted(sent) == sorted(received)
    assert all(re.fullmatch(r"\[127\.0\.0\.1:\d+\] -> [A-Za-z0-9]{5}\n", line) for line in sent)
    assert sum(line.startswith("Accept connection") for line in lines) == 3
    assert sum(line.startswith("Client close connection") for line in lines) == 3


def test_echo_client(port: int) -> None:
    addr = f"127.0.0.1:{port}"
    with running("echo.py", addr) as server:
        assert server.addr() == addr
        with running("echo_client.py", addr) as client:
            assert client.rest() == (
                f"Connected to server: {addr}\nReceived echo: b'Hello from client\\n'\n"
            )
            assert client.process.returncode == 0
        server.stop()
    with running("echo_client.py", addr) as client:
        assert client.rest() == f"Connect failed: [Errno 111] Connection refused: '{addr}'\n"


def test_connection_counter() -> None:
    with running("connection_counter.py", "127.0.0.1:0") as example:
        addr = example.addr()
        with dial(addr) as first, dial(addr) as second:
            assert example.line().endswith("current connections: 1\n")
            assert example.line().endswith("current connections: 2\n")
            first.close()
            assert example.line().endswith("remaining connections: 1\n")
            second.close()
            assert example.line().endswith("remaining connections: 0\n")
        example.stop()


def test_idle_timeout() -> None:
    with running("idle_timeout.py", "127.0.0.1:0", "0.05") as example:
        with dial(example.addr()) as sock:
            assert sock.recv(1) == b""
        assert example.line().startswith("New connection: 127.0.0.1:")
        assert example.line().startswith("Connection timeout: 127.0.0.1:")
        example.stop()


def test_statistics() -> None:
    with running("statistics.py", "127.0.0.1:0") as example:
        converse(example.addr(), b"hello\n", b"again\n")
        example.line()
        assert example.line().endswith("received 12 bytes, sent 12 bytes, messages 2\n")
        example.stop()


def test_commands() -> None:
    with running("commands.py", "127.0.0.1:0") as example:
        with dial(example.addr()) as sock:
            sock.sendall(b"help\r\ntime\r\nhello\r\nquit\r\n")
            with sock.makefile("rb") as file:
                output = file.read().decode()
        example.stop()
    assert output.startswith("Welcome to Silly Echo Server!\nType 'help' for commands\n> Command")
    assert "  quit  - Disconnect\n> " in output
    assert "> Echo: hello\r\n> Goodbye!\n" in output


def test_redis_like_answers_pipelined_requests() -> None:
    def array(*strings: bytes) -> bytes:
        return b"*%d\r\n" % len(strings) + b"".join(b"$%d\r\n%b\r\n" % (len(s), s) for s in strings)

    value = b"one\r\ntwo\n\0"
    conversation = [
        (array(b"PING"), b"+PONG\r\n"),
        (b"ping\r\n\r\n  \nPING hello\n", b"+PONG\r\n$5\r\nhello\r\n"),
        (array(b"set", b"key", value), b"+OK\r\n"),
        (array(b"GET", b"key"), b"$%d\r\n%b\r\n" % (len(value), value)),
        (array(b"SET", b"", b""), b"+OK\r\n"),
        (array(b"DEL", b"key", b"none", b""), b":2\r\n"),
        (array(b"GET", b"key"), b"$-1\r\n"),
        (array(b"GET"), b"-ERR unknown command or wrong number of arguments\r\n"),
    ]
    requests = b"".join(request for request, _ in conversation)
    replies = b"".join(reply for _, reply in conversation)
    error = b"-ERR Protocol error: expected $ and at most 65536\r\n"
    with running("redis_like.py", "127.0.0.1:0") as example:
        addr = example.addr()
        with dial(addr) as sock, sock.makefile("rb") as file:
            for at in range(len(requests)):
                sock.sendall(requests[at : at + 1])
            sock.sendall(requests * 100 + b"QUIT\r\n")
            assert file.read() == replies * 101 + b"+OK\r\n"
        for wrong in (b"*1\r\nPING\r\n", b"*1\r\n$65537\r\n", b"*1\r\n$-1\r\n"):
            with dial(addr) as sock, sock.makefile("rb") as file:
                sock.sendall(array(b"PING") + wrong)
                assert file.read() == b"+PONG\r\n" + error
        with dial(addr) as sock, sock.makefile("rb") as file:
            sock.sendall(array(b"SET", b"key", value) + b"DEL key")  # cut off: not executed
            sock.shutdown(socket.SHUT_WR)
            assert file.read() == b"+OK\r\n"
        with dial(addr) as sock, sock.makefile("rb") as file:
            sock.sendall(b"DEL key\r\nQUIT\r\n")
            assert file.read() == b":1\r\n+OK\r\n"
        example.stop()


@pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="needs redis-benchmark")
def test_redis_like_serves_the_benchmark_of_redis() -> None:
    with running("redis_like.py", "127.0.0.1:0") as example:
        host, _, port = example.addr().rpartition(":")
        command = ["redis-benchmark", "-h", host, "-p", port, "-t", "set,get", "-P", "16"]
        done = subprocess.run(
            [*command, "-n", "2000", "--csv"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert '"SET"' in done.stdout
        assert '"GET"' in done.stdout
        example.stop()


def test_stress_prints_its_result(port: int) -> None:
    addr = f"127.0.0.1:{port}"
    with running("echo.py", addr) as server:
        assert server.addr() == addr
        with running("stress.py", addr) as stress:
            output = stress.rest()
            assert stress.process.returncode == 0
        assert re.fullmatch(r"Completed: 10000 messages, elapsed \d+\.\d{3} s, \d+ msg/s\n", output)
        server.stop()
    with running("stress.py", addr) as stress:
        assert stress.rest().startswith("stress: [Errno 111] Connection refused")
        assert stress.process.returncode == 1


def test_every_example_has_its_test() -> None:
    here = Path(__file__).parent
    tests = [*here.glob("test_*examples.py"), here / "pubsub" / "test_programs.py"]
    tested = "".join(path.read_text() for path in tests)
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tested, f"{path.name} has no test"


def test_dns_like_answers_its_client_and_ignores_nonsense() -> None:
    with running("dns_like.py", "127.0.0.1:0") as server:
        addr = server.addr()
        host, port = addr.split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for nonsense in (b"", b"x", b"12a\0b", bytes(600)):
                sock.sendto(nonsense, (host, int(port)))
        for name, answer in (("www.example", "192.0.2.80"), ("nobody.example", "no such name")):
            with running("dns_like.py", addr, name) as client:
                assert client.rest() == f"{answer}\n"
                assert client.process.returncode == 0
        server.stop()


def test_dns_like_asks_again_when_nobody_answers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)
        with running("dns_like.py", "{}:{}".format(*sock.getsockname()), "a.b") as client:
            first, _ = sock.recvfrom(100)
            second, peer = sock.recvfrom(100)
            sock.sendto(first + b"\0" + b"wrong", peer)
            sock.sendto(second + b"\0" + b"right", peer)
            assert client.rest() == "right\n"


def test_programs_find_each_other_by_multicast() -> None:
    with (
        running("multicast.py", "alice", "lo") as alice,
        running("multicast.py", "bob", "lo") as bob,
    ):
        assert alice.line().startswith("'bob' is at ")
        assert bob.line().startswith("'alice' is at ")
        alice.stop()
        bob.stop()
