"""A rolling restart: WebSockets are told to come back, and those that do are served."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from silly.net import websocket
from tests.net.http.wire import TIME
from tests.workers.harness import running

PROGRAM = """
from silly.net import websocket

async def echo(ws):
    async for message in ws:
        await ws.send(message)

print("listening", websocket.listen("127.0.0.1:0", echo).local_addr, flush=True)
"""


async def ends(url: str, restart: asyncio.Event) -> list[int | None]:
    """Return how connections end that are opened before, and after, a restart."""
    old = [await websocket.connect(url) for _ in range(5)]
    await old[0].send("a")
    assert await old[0].recv(TIME) == "a"
    restart.set()
    for ws in old:
        with pytest.raises(websocket.WebSocketClosed):
            await ws.recv(TIME)
    async with websocket.connect(url) as ws:
        await ws.send("b")
        assert await ws.recv(TIME) == "b"
    return [ws.close_code for ws in (*old, ws)]


def test_clients_are_told_to_come_back(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    with running("-m", "silly", "--workers", "1", path) as silly:
        address = silly.until(r"listening (\S+)")[0]

        async def main() -> list[int | None]:
            restart = asyncio.Event()
            task = asyncio.create_task(ends(f"ws://{address}/", restart))
            await restart.wait()
            silly.send(signal.SIGHUP)
            return await task

        assert asyncio.run(main()) == [1012] * 5 + [1000]
        silly.until(": restarted$")
        silly.stop()
