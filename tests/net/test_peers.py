"""`udp.listen`: a handler for each peer."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from silly.errors import ConnectionClosed
from silly.net import udp
from silly.net.tcp import Conn
from tests.net.test_udp import ask

ANY = "127.0.0.1:0"
DEADLINE = 20.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0.001)


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def test_each_peer_has_a_handler_and_each_write_is_a_datagram() -> None:
    names = []

    async def handler(conn: Conn) -> None:
        names.append(conn.remote_addr)
        assert conn.local_addr == listener.local_addr
        async for line in conn:
            await conn.write([b"<", line, b">"])
            await conn.write(b"")

    async with (
        udp.listen(ANY, handler) as listener,
        udp.connect(listener.local_addr) as one,
        udp.connect(listener.local_addr) as two,
    ):
        for client in (one, two):
            client.send(b"first\nsec")
            client.send(b"ond\n")
        for client in (one, two):
            got = [(await client.recv(timeout=DEADLINE))[0] for _ in range(4)]
            assert got == [b"<first\n>", b"", b"<second\n>", b""]
        assert sorted(names) == sorted([one.local_addr, two.local_addr])
        assert listener.peers == 2
        assert listener.stats.received == 4


async def test_a_silent_peer_is_the_end_of_its_stream() -> None:
    ended = asyncio.Event()

    async def handler(conn: Conn) -> None:
        await echo(conn)
        ended.set()

    async with udp.listen(ANY, handler, idle_timeout=0.05) as listener:
        async with udp.connect(listener.local_addr) as client:
            client.send(b"hello\n")
            assert (await client.recv(timeout=DEADLINE))[0] == b"hello\n"
            async with asyncio.timeout(DEADLINE):
                await ended.wait()
            assert listener.peers == 0
            client.send(b"again\n")
            assert (await client.recv(timeout=DEADLINE))[0] == b"again\n"


async def test_peers_and_what_they_send_are_bounded() -> None:
    release = asyncio.Event()

    async def deaf(conn: Conn) -> None:
        await release.wait()

    async with udp.listen(ANY, deaf, max_peers=1) as listener:
        async with udp.connect(listener.local_addr) as one, udp.connect(listener.local_addr) as two:
            for _ in range(20):
                one.send(bytes(30_000))
                await until(lambda: one.stats.unsent == 0)
            two.send(b"x")
            await until(lambda: listener.stats.received == 21)
            assert listener.peers == 1
            assert listener.refused > 2
            release.set()
    with pytest.raises(TypeError, match="handler must be"):
        udp.listen(ANY, None)  # type: ignore[arg-type]


async def test_closing_ends_the_handlers() -> None:
    ends = []

    async def handler(conn: Conn) -> None:
        async for _ in conn:
            await conn.write(b"begun")
        ends.append("ended")

    listener = udp.listen(ANY, handler)
    async with udp.connect(listener.local_addr) as client:
        client.send(b"x\n")
        assert (await client.recv(timeout=DEADLINE))[0] == b"begun"
        listener.close()
        await listener.wait_closed()
        await until(lambda: ends == ["ended"])
    assert listener.peers == 0
    assert "0 peers" in repr(listener)


async def test_a_handler_that_goes_on_after_the_end_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("silly.net.peers.GRACE", 0.01)
    cancelled = asyncio.Event()

    async def stubborn(conn: Conn) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with udp.listen(ANY, stubborn, idle_timeout=None) as listener:
        async with udp.connect(listener.local_addr) as client:
            client.send(b"x\n")
            await until(lambda: listener.peers == 1)
    async with asyncio.timeout(DEADLINE):
        await cancelled.wait()


async def test_a_closed_peer_is_another_one_when_it_sends_again() -> None:
    errors = []

    async def handler(conn: Conn) -> None:
        await conn.read(b"\n")
        stream: Any = conn
        assert (stream._fileno, stream._in_flight()) == (-1, 0)  # the socket is the listener's
        await conn.write(b"once")
        conn.close()
        try:
            conn.write(b"twice")
        except ConnectionClosed as error:
            errors.append(error)

    async with udp.listen(ANY, handler) as listener:
        async with udp.connect(listener.local_addr) as client:
            for number in (1, 2):
                client.send(b"x\n")
                assert (await client.recv(timeout=DEADLINE))[0] == b"once"
                await until(lambda: not listener.peers)
                assert len(errors) == number


async def test_a_crash_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(conn: Conn) -> None:
        async for line in conn:
            await conn.write(b"%d" % (10 // int(line)))

    with caplog.at_level(logging.ERROR, logger="silly"):
        async with (
            udp.listen(ANY, handler) as listener,
            udp.connect(listener.local_addr) as one,
            udp.connect(listener.local_addr) as two,
        ):
            one.send(b"0\n")
            await until(lambda: "ZeroDivisionError" in caplog.text)
            two.send(b"5\n")
            assert (await two.recv(timeout=DEADLINE))[0] == b"2"


def test_the_tutorials_server_serves_datagrams_with_one_changed_line(tmp_path: Path) -> None:
    tutorial = Path(__file__).parents[2] / "docs" / "tutorial" / "echo-server.md"
    blocks = re.findall(r"```python\n(.*?)```", tutorial.read_text(), re.DOTALL)
    program = next(block for block in blocks if "write(line)" in block)
    lines = program.replace("from silly.net import tcp", "from silly.net import udp as tcp")
    changed = [
        one for one, two in zip(program.splitlines(), lines.splitlines(), strict=True) if one != two
    ]
    assert len(changed) == 1
    path = tmp_path / "server.py"
    path.write_text(lines.replace("127.0.0.1:9999", "127.0.0.1:0"))
    with subprocess.Popen(
        [sys.executable, "-m", "silly", str(path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stderr is not None
        found = re.search(r"listening on (\S+) for UDP", server.stderr.readline())
        assert found
        assert ask(found[1], b"Hello Silly!\n") == b"Hello Silly!\n"
        server.terminate()
        server.stderr.read()
    assert server.returncode == 0
