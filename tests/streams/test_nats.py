"""nats-py, unchanged, over silly's streams, with a real server."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from silly import streams
from silly.streams.writer import ConnWriter

nats = pytest.importorskip("nats")
pytestmark = pytest.mark.skipif(not shutil.which("nats-server"), reason="needs nats-server")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = ["nats-server", "-a", "127.0.0.1", "-p", "-1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            address = ""
            for line in server.stderr:
                if found := re.search(r"client connections on (\S+)", line):
                    address = found[1]
                if "Server is ready" in line:
                    break
            yield f"nats://{address}"
        finally:
            server.terminate()
            server.stderr.read()


async def test_subjects_and_requests(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "open_connection", streams.open_connection)
    client = await nats.connect(address)
    try:
        assert isinstance(client._transport._io_writer, ConnWriter)
        messages = await client.subscribe("subject.*")
        for number in range(1000):
            await client.publish(f"subject.{number}", bytes(number))
        for number in range(1000):
            message = await messages.next_msg(timeout=20)
            assert (message.subject, message.data) == (f"subject.{number}", bytes(number))

        async def answer(message: object) -> None:
            await message.respond(message.data.upper())  # type: ignore[attr-defined]

        await client.subscribe("shout", cb=answer)
        assert (await client.request("shout", b"hello", timeout=20)).data == b"HELLO"
    finally:
        await client.close()
