"""Run by test_setting_up.py: connections while epoll_ctl fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

from silly.net import tcp
from silly.net.tcp import Conn

FLAG = Path(os.environ["NO_WATCHES"])


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def main() -> None:
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        host, port = listener.local_addr.rsplit(":", 1)
        other = await tcp.connect(listener.local_addr)
        await other.write(b"x\n")
        await other.read(b"\n")
        before = descriptors()
        clients = []
        for _ in range(10):
            client = socket.create_connection((host, int(port)), timeout=10)
            client.setblocking(True)
            clients.append(client)
        FLAG.touch()
        for client in clients:
            # In a thread: the loop could not watch the client either.
            client.settimeout(10)
            try:
                answer = await asyncio.to_thread(client.recv, 10)
            except ConnectionResetError:
                answer = b""
            assert answer == b"", answer
            client.close()
        async with asyncio.timeout(10):
            while descriptors() > before:
                await asyncio.sleep(0)
        print("refused", descriptors() - before)
        print("counts", listener.connections - 1)
        for _ in range(3):
            with contextlib.suppress(OSError):
                await tcp.connect(listener.local_addr, timeout=10)
        await other.write(b"y\n")
        assert await other.read(b"\n") == b"y\n"
        print("others")
        FLAG.unlink()
        async with await tcp.connect(listener.local_addr) as conn:
            await conn.write(b"z\n")
            assert await conn.read(b"\n") == b"z\n"
        print("served")
        other.close()
    assert descriptors() <= before
    print("later")


asyncio.run(main())
