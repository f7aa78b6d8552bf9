"""Real clients against an echo server: telnet, nc, socat, and sockets that behave oddly."""

from __future__ import annotations

import asyncio
import shutil
import socket
import struct

import pytest

from silly.net import tcp
from silly.net.tcp import Conn


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


async def talk(*command: str, send: bytes, expect: bytes, end: bool = True) -> bytes:
    """Run a client, send it input, wait until *expect* is in its output; return all of it."""
    client = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(send)
    if end:
        client.stdin.close()
    output = b""
    async with asyncio.timeout(20):
        while expect not in output and (piece := await client.stdout.read(4096)):
            output += piece
        if not end:
            client.stdin.close()
        output += await client.stdout.read()
        await client.wait()
    # asyncio closes the pipes of a finished child in callbacks, in later passes of the loop
    for _ in range(5):
        await asyncio.sleep(0)
    assert expect in output, output
    return output


@needs("telnet")
async def test_telnet_speaks_crlf_or_lf_and_is_echoed() -> None:
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        host, port = listener.local_addr.split(":")
        output = await talk(
            "telnet", host, port, send=b"Hello Silly!\nThis is a test\n",
            expect=b"This is a test", end=False,
        )  # fmt: skip
    assert b"Connected to 127.0.0.1" in output
    assert b"Hello Silly!" in output


@needs("nc")
async def test_nc_with_half_close_gets_everything_back() -> None:
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        host, port = listener.local_addr.split(":")
        text = b"one\ntwo\nunfinished"
        assert await talk("nc", "-N", host, port, send=text, expect=text) == text


@needs("nc")
async def test_nc_over_ipv6() -> None:
    async with tcp.listen("[::1]:0", echo) as listener:
        port = listener.local_addr.rpartition(":")[2]
        assert await talk("nc", "-N", "::1", port, send=b"six\n", expect=b"six") == b"six\n"


@needs("socat")
@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_socat(family: str, tmp_path: object) -> None:
    addr = "127.0.0.1:0" if family == "tcp" else f"unix:{tmp_path}/echo.sock"
    async with tcp.listen(addr, echo) as listener:
        local = listener.local_addr
        target = f"TCP:{local}" if family == "tcp" else f"UNIX-CONNECT:{local[5:]}"
        lines = b"".join(b"line %d\n" % i for i in range(10_000))
        assert await talk("socat", "-t5", "-", target, send=lines, expect=lines) == lines


async def test_one_byte_at_a_time() -> None:
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        host, port = listener.local_addr.split(":")

        def drip() -> bytes:
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in b"drip\r\ndrop\r\n":
                    sock.sendall(bytes([byte]))
                sock.shutdown(socket.SHUT_WR)
                with sock.makefile("rb") as file:
                    return file.read()

        assert await asyncio.to_thread(drip) == b"drip\r\ndrop\r\n"


async def test_clients_that_reset_leave_nothing_behind() -> None:
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        host, port = listener.local_addr.split(":")
        for sent in (b"", b"part", b"line\n", b"line\n" * 1000):
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                sock.sendall(sent)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"fine\n")
            assert await conn.read(b"\n") == b"fine\n"
        while listener.connections:
            await asyncio.sleep(0)
        assert listener.stats.handler_errors == 0


@pytest.mark.heavy
async def test_five_thousand_connections_at_once() -> None:
    count, rounds = 5000, 3
    async with tcp.listen("127.0.0.1:0", echo, backlog=1024) as listener:
        gate = asyncio.Semaphore(200)  # connections being made, not those made

        async def dial() -> Conn:
            async with gate:
                return await tcp.connect(listener.local_addr)

        conns = await asyncio.gather(*(dial() for _ in range(count)))

        async def exchange(number: int, conn: Conn) -> int:
            for turn in range(rounds):
                line = b"%d of %d\n" % (turn, number)
                conn.write(line)
                assert await conn.read(b"\n") == line
            return rounds

        echoes = await asyncio.gather(*(exchange(n, conn) for n, conn in enumerate(conns)))
        assert sum(echoes) == count * rounds
        assert listener.connections == count
        for conn in conns:
            conn.close()
        for conn in conns:
            await conn.wait_closed()
