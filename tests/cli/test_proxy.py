"""The tools and scripts with the PROXY protocol."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from silly.net.proxy import ProxyHeader
from silly.net.proxy.header import parse
from tests.cli.terminal import Echo, dialled, silly
from tests.cli.test_connect import receive_all, server
from tests.workers.harness import ask, environment, running, script

pytestmark = pytest.mark.no_engine

LOCAL = "127.0.0.1:0"
CLIENT = "192.0.2.7:4711"

WHO = """
from silly.net import tcp

async def handler(conn):
    await conn.write(f"{conn.remote_addr} {conn.proxy is not None}\\n".encode())

print("listening", tcp.listen("127.0.0.1:0", handler).local_addr, flush=True)
"""


def test_connect_and_echo() -> None:
    with Echo(LOCAL, "--proxy-protocol", "10.0.0.0/8,127.0.0.0/8") as echo:
        for version in ("1", "2"):
            options = ("--proxy-header", CLIENT, "--proxy-version", version)
            done = silly("connect", echo.addr, *options, data=b"hello\n")
            assert done.stdout == b"hello\n"
        assert silly("connect", echo.addr, "--proxy-header", "local", data=b"x\n").stdout == b"x\n"
        assert b"reset by peer" in silly("connect", echo.addr, data=b"x\n", code=1).stderr
        summary = echo.stop()
    assert summary["refused"] == {"proxy_header": 1}
    assert summary["connections"]["accepted"] == 3
    assert f"{CLIENT}" in echo.log


def test_echo_takes_the_variable() -> None:
    with Echo(LOCAL, SILLY_PROXY_PROTOCOL="127.0.0.0/8") as echo:
        assert silly("connect", echo.addr, "--proxy-header", CLIENT, data=b"x\n").stdout == b"x\n"
        echo.stop()
    with Echo(LOCAL, "--proxy-protocol", "10.0.0.0/8", SILLY_PROXY_PROTOCOL="127.0.0.0/8") as echo:
        with dialled(echo.addr) as sock:  # the flag wins: from this network there is none
            sock.sendall(b"PROXY UNKNOWN\r\n")
            assert sock.recv(100) == b"PROXY UNKNOWN\r\n"
        echo.stop()


@pytest.mark.parametrize("destination", [None, "198.51.100.1:443"])
def test_what_connect_sends(destination: str | None) -> None:
    received: list[bytes] = []

    def take(sock: socket.socket) -> None:
        received.append(receive_all(sock))

    with server(take) as addr:
        ends = CLIENT if destination is None else f"{CLIENT},{destination}"
        silly("connect", addr, "--proxy-header", ends, data=b"hello\n")
    header = received[0].removesuffix(b"hello\n")
    assert header == ProxyHeader(CLIENT, destination or addr).encode()
    assert parse(header)[0].source == CLIENT


@pytest.mark.parametrize(("by", "options"), [("variable", ()), ("flag", ("--workers", "2"))])
def test_scripts(by: str, options: tuple[str, ...], tmp_path: Path) -> None:
    networks = "10.0.0.0/8,127.0.0.0/8"
    flag = ("--proxy-protocol", networks) if by == "flag" else ()
    variables = {} if by == "flag" else {"SILLY_PROXY_PROTOCOL": networks}
    path = script(tmp_path, WHO)
    command = ("-m", "silly", path, *flag, "--access-log", *options)
    with running(*command, env=environment(**variables)) as process:
        (addr,) = process.until(r"^listening (\S+)")
        assert ask(addr, ProxyHeader(CLIENT, addr).encode()) == f"{CLIENT} True\n".encode()
        process.until(rf"{re.escape(CLIENT)} to {re.escape(addr)}: \w+")
        process.stop()


def test_the_programs_own_listeners_need_no_header(tmp_path: Path) -> None:
    """Its metrics and its admin socket are not what clients connect to."""
    admin = f"unix:{tmp_path}/admin.sock"
    command = ("-m", "silly", script(tmp_path, WHO), "--proxy-protocol", "127.0.0.0/8,unix")
    with running(*command, "--admin", admin) as process:
        process.until(r"^listening (\S+)")
        assert b"commands" in ask(admin, b"help\n") or b"stats" in ask(admin, b"help\n")
        process.stop()
