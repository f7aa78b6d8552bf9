"""A client for any echo server: ``silly examples/echo_client.py [ADDR]``."""

import sys

from silly import task
from silly.net import tcp


async def client(addr: str) -> None:
    """Send one line and print what comes back."""
    try:
        conn = await tcp.connect(addr, timeout=5)
    except OSError as error:
        print("Connect failed:", error)
        return
    async with conn:
        print("Connected to server:", conn.remote_addr)
        await conn.write(b"Hello from client\n")
        print("Received echo:", await conn.read(b"\n", timeout=5))


task.fork(client, sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9999")
