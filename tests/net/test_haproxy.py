"""A real HAProxy in front of a listener, with the configuration from the docs."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from silly.net import tcp
from silly.net.tcp import Conn, Limits

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "haproxy.md"


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def dialled(addr: str) -> Conn:
    async with asyncio.timeout(20):
        while True:
            try:
                return await tcp.connect(addr)
            except ConnectionRefusedError:  # HAProxy is starting
                await asyncio.sleep(0.01)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
async def test_many_clients_come_through_one_address(port: int, tmp_path: Path) -> None:
    async with tcp.listen("127.0.0.1:0", echo, limits=Limits(max_per_client=3)) as listener:
        (block,) = re.findall(r"```haproxy\n(.*?)```", PAGE.read_text(), re.DOTALL)
        config = tmp_path / "haproxy.cfg"
        config.write_text(
            block.replace("127.0.0.1:8888", f"127.0.0.1:{port}").replace(
                "127.0.0.1:9999", listener.local_addr
            )
        )
        haproxy = await asyncio.create_subprocess_exec(
            "haproxy", "-db", "-f", str(config), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            conns = [await dialled(f"127.0.0.1:{port}") for _ in range(20)]
            for number in range(50):
                for conn in conns:
                    conn.write(b"line %d of %d\n" % (number, id(conn)))
                for conn in conns:
                    assert await conn.read(b"\n") == b"line %d of %d\n" % (number, id(conn))
            for conn in conns:
                conn.close_write()
                assert [line async for line in conn] == []
                conn.close()
        finally:
            haproxy.terminate()
            await haproxy.wait()
        assert listener.stats.accepted == len(conns)
        assert listener.stats.handler_errors == 0
        assert listener.stats.refused == {}
