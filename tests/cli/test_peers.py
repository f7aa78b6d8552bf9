"""The tools against third-party programs: telnet, nc, socat, redis-benchmark, HAProxy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from silly.net import tcp
from silly.net.tcp import Conn
from tests.cli.terminal import DEADLINE, Echo, Terminal, exchange, silly, started
from tests.ports import held_port

LOCAL = "127.0.0.1:0"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def talk(*command: str, data: bytes) -> bytes:
    """Run a program with *data* as input; return its output. It must succeed."""
    done = subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done
    return done.stdout


LINES = b"".join(b"line %d\n" % number for number in range(10_000))


# ---------------------------------------------------------- other clients, silly echo


@needs("telnet")
def test_telnet_to_echo() -> None:
    with Echo(LOCAL, "--commands") as echo:
        with Terminal("127.0.0.1", str(echo.port), command=["telnet"]) as terminal:
            terminal.wait_for("^> ?$")
            terminal.type("hello silly\r")
            terminal.wait_for("^Echo: hello silly")
            terminal.type("quit\r")
            terminal.wait_for("Goodbye!")
        assert echo.stop()["answers"] == 2


@needs("nc")
def test_nc_to_echo_over_tcp_unix_and_ipv6(tmp_path: Path) -> None:
    with Echo(LOCAL, "[::1]:0", f"unix:{tmp_path}/x.sock", "--raw") as echo:
        six = echo.listening["tcp"][1].rpartition(":")[2]
        assert talk("nc", "-N", "127.0.0.1", str(echo.port), data=LINES) == LINES
        assert talk("nc", "-N", "::1", six, data=LINES) == LINES
        assert talk("nc", "-NU", f"{tmp_path}/x.sock", data=LINES) == LINES
        echo.stop()


@needs("nc")
def test_nc_to_echo_over_udp() -> None:
    with Echo(LOCAL, "--udp") as echo:
        with started("-u", "127.0.0.1", str(echo.port), command=["nc"]) as client:
            client.stdin.write(b"over UDP\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"over UDP\n"
        assert echo.stop()["datagrams"]["sent"] == 1


@needs("socat")
def test_socat_to_echo_over_tcp_unix_and_udp(tmp_path: Path) -> None:
    with Echo(LOCAL, f"unix:{tmp_path}/x.sock", "--udp") as echo:
        assert talk("socat", "-t9", "-", f"TCP:{echo.addr}", data=LINES) == LINES
        assert talk("socat", "-t9", "-", f"UNIX-CONNECT:{tmp_path}/x.sock", data=LINES) == LINES
        with started("-", f"UDP:{echo.addr}", command=["socat"]) as client:
            client.stdin.write(b"over UDP\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"over UDP\n"
        echo.stop()


# ------------------------------------------------------- silly connect, other servers


@needs("nc")
@pytest.mark.parametrize("is_unix", [False, True])
def test_connect_to_nc(is_unix: bool, tmp_path: Path) -> None:
    where = ["-U", f"{tmp_path}/x.sock"] if is_unix else ["-v", "127.0.0.1", "0"]
    with started("-lN", *(["-v"] if is_unix else []), *where, command=["nc"]) as server:
        heard = server.stderr.readline().decode().split()  # Listening on localhost 12345
        addr = f"unix:{tmp_path}/x.sock" if is_unix else f"127.0.0.1:{heard[-1]}"
        server.stdin.write(b"from nc")
        server.stdin.close()
        assert silly("connect", addr, data=LINES).stdout == b"from nc"
        assert server.stdout.read() == LINES
        assert server.wait() == 0


@needs("nc")
def test_nc_to_connect_that_listens() -> None:
    with started("connect", "--listen", LOCAL) as server:
        port = server.stderr.readline().decode().strip().rpartition(":")[2]
        server.stdin.write(b"from silly")
        server.stdin.close()
        assert talk("nc", "-N", "127.0.0.1", port, data=LINES) == b"from silly"
        assert server.stdout.read() == LINES
        assert server.wait() == 0


@needs("nc")
@pytest.mark.parametrize("client", ["nc", "silly"])
def test_exit_codes_are_those_of_netcat(client: str, port: int) -> None:
    """Return the exit codes of both programs: connection refused, and ended by the server."""

    def code() -> int:
        command = (
            ["nc", "-N", "127.0.0.1", str(port)]
            if client == "nc"
            else [*silly_command(), "connect", f"127.0.0.1:{port}"]
        )
        return subprocess.run(
            command, input=b"x", capture_output=True, timeout=DEADLINE, check=False
        ).returncode

    with Echo(f"127.0.0.1:{port}") as echo:
        assert code() == 0
        echo.stop()
    assert code() == 1


def silly_command() -> list[str]:
    from tests.cli.terminal import SILLY

    return SILLY


@needs("socat")
def test_connect_to_a_program_behind_socat(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with started("-dd", f"UNIX-LISTEN:{path}", "EXEC:cat", command=["socat"]) as server:
        while b"listening on" not in (line := server.stderr.readline()):
            assert line
        assert silly("connect", f"unix:{path}", data=LINES).stdout == LINES


# ----------------------------------------------------------------- HAProxy in between


@contextlib.contextmanager
def haproxy(backend: str, folder: Path) -> Iterator[str]:
    """Run HAProxy in TCP mode in front of *backend*; yield its address."""
    config = folder / "haproxy.cfg"
    command = ["haproxy", "-W", "-S", f"{folder}/master.sock", "-f", str(config)]
    with held_port() as port:
        config.write_text(
            "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n"
            "  timeout server 60s\n"
            f"listen silly\n  bind 127.0.0.1:{port}\n  server one {backend}\n"
        )
        with started(command=command) as it:
            while b"Loading success" not in (line := it.stderr.readline()):
                assert line, "HAProxy did not start"
            try:
                yield f"127.0.0.1:{port}"
            finally:
                it.terminate()
                it.wait()


@needs("haproxy")
def test_haproxy_between_connect_and_echo(tmp_path: Path) -> None:
    with Echo(LOCAL, "--raw") as echo, haproxy(echo.addr, tmp_path) as addr:
        data = os.urandom(5_000_000)
        assert silly("connect", addr, data=data).stdout == data
        for _ in range(50):
            assert exchange(addr, b"hello\n") == b"hello\n"
        summary = echo.stop()
    assert summary["connections"]["accepted"] == 51
    assert summary["bytes_out"] == len(data) + 50 * 6


async def pong(conn: Conn) -> None:
    """Answer like redis to an inline PING, and to the request for its settings."""
    async for line in conn:
        if line == b"PING\r\n":
            await conn.write(b"+PONG\r\n")
        elif line.startswith(b"*"):  # redis-benchmark asks for CONFIG GET first
            for _ in range(2 * int(line[1:])):
                await conn.read(b"\r\n")
            await conn.write(b"-ERR unknown command\r\n")


@needs("redis-benchmark")
@pytest.mark.parametrize("with_haproxy", [False, True])
async def test_redis_benchmark(with_haproxy: bool, tmp_path: Path) -> None:
    if with_haproxy and shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    async with tcp.listen(LOCAL, pong) as listener:

        def run() -> bytes:
            with contextlib.ExitStack() as stack:
                addr = listener.local_addr
                if with_haproxy:
                    addr = stack.enter_context(haproxy(addr, tmp_path))
                return talk(
                    "redis-benchmark", "-p", addr.rpartition(":")[2], "-t", "ping_inline",
                    "-n", "2000", "-c", "20", "-P", "4", "--csv", data=b"",
                )  # fmt: skip

        output = await asyncio.to_thread(run)
        assert b"PING_INLINE" in output
        assert listener.stats.bytes_out >= 2000 * 7
        assert listener.stats.handler_errors == 0
