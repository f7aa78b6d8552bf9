"""Programs of the chat, run as a user would run them, and clients that are no browsers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from silly.net import websocket
from tests.workers.harness import Running

CHAT = Path(__file__).parents[2] / "examples" / "chat"
DEADLINE = 30.0  # seconds


@contextmanager
def serving(
    name: str, *arguments: str, workers: int = 0, env: dict[str, str] | None = None
) -> Iterator[tuple[Running, str]]:
    """Run one of the programs that take an address; yield it and its ``HOST:PORT``."""
    flags = ["--workers", str(workers)] if workers else []
    command = [sys.executable, "-m", "silly", "--log-level", "warning", *flags]
    command += [str(CHAT / name), *(arguments or ("127.0.0.1:0",))]
    program = Running(command, env=os.environ | (env or {}))
    try:
        yield program, program.until(r"^Chat on http://(\S+)/ ", times=workers or 1)[0]
        if program.process.poll() is None:  # else the test has killed it
            program.stop()
    finally:
        program.end()
    assert "Traceback" not in program.output, program.output


class Client:
    """Somebody in the chat."""

    def __init__(self, ws: websocket.WebSocket) -> None:
        self.ws = ws
        self.id = 0

    async def say(self, kind: str, **fields: Any) -> None:
        await self.ws.send(json.dumps({"type": kind, **fields}))

    async def hear(self) -> dict[str, Any]:
        message = json.loads(await self.ws.recv(timeout=DEADLINE))
        assert isinstance(message["timestamp"], int)
        return {name: value for name, value in message.items() if name != "timestamp"}

    async def hears(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the next message, which is of this kind and has these fields."""
        message = await self.hear()
        assert message["type"] == kind, message
        assert {**message, **fields} == message, (message, fields)
        return message

    async def waits_for(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the next message of this kind with these fields; skip others."""
        while True:
            message = await self.hear()
            if message["type"] == kind and {**message, **fields} == message:
                return message

    async def complains(self, text: str) -> None:
        assert text in (await self.hears("error"))["message"]


@asynccontextmanager
async def client(addr: str, *, greeted: bool = True) -> AsyncIterator[Client]:
    """Connect; read the greeting, unless told otherwise."""
    async with websocket.connect(f"ws://{addr}/chat") as ws:
        made = Client(ws)
        if greeted:
            made.id = (await made.hears("welcome"))["user_id"]
            await made.hears("users")
        yield made
