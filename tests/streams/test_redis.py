"""redis-py, unchanged, over silly's streams, with a real server."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from silly import streams
from silly.streams.reader import ConnReader

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("redis") / "socket"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=path.parent) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                if "ready to accept connections" in line.lower():
                    break
            yield path
        finally:
            server.terminate()
            server.stdout.read()


async def test_commands_pipelines_and_large_values(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio, "open_unix_connection", streams.open_unix_connection)
    async with redis.asyncio.Redis(unix_socket_path=str(path)) as client:
        await client.set("key", b"value\r\n\0")
        assert await client.get("key") == b"value\r\n\0"
        large = bytes(range(256)) * 8192
        await client.set("large", large)
        assert await client.get("large") == large
        async with client.pipeline(transaction=True) as pipeline:
            for number in range(1000):
                pipeline.rpush("list", number)
            await pipeline.execute()
        assert await client.lrange("list", 0, -1) == [str(n).encode() for n in range(1000)]
        pool: Any = client.connection_pool
        connection = await pool.get_connection()
        assert isinstance(connection._reader, ConnReader)
        await pool.release(connection)
        await client.flushall()


async def test_subscriptions_and_blocking_commands(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio, "open_unix_connection", streams.open_unix_connection)
    async with (
        redis.asyncio.Redis(unix_socket_path=str(path), socket_timeout=20) as client,
        client.pubsub() as channel,
    ):
        await channel.subscribe("news")
        assert (await channel.get_message(timeout=20) or {})["type"] == "subscribe"
        assert await channel.get_message(timeout=0.001) is None  # a read that is cancelled
        await client.publish("news", "hello")
        message = await channel.get_message(ignore_subscribe_messages=True, timeout=20)
        assert (message or {})["data"] == b"hello"
        popping: asyncio.Future[Any] = asyncio.ensure_future(client.blpop(["queue"], timeout=20))
        await client.rpush("queue", "work")
        assert tuple(await popping) == (b"queue", b"work")
