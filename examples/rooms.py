"""Chat rooms over TCP, in one process, on several workers, or on several machines.

    silly examples/rooms.py 127.0.0.1:9999
    silly --workers 4 examples/rooms.py 127.0.0.1:9999 redis://127.0.0.1:6379

Then, in two other shells: telnet 127.0.0.1 9999
"""

from __future__ import annotations

import asyncio
import sys

from silly import pubsub, task
from silly.net import tcp


async def show(messages: pubsub.Subscription, conn: tcp.Conn) -> None:
    """Write what others say."""
    async for message in messages:
        if message.gap:
            await conn.write(b"* messages may be missing here\n")
        await conn.write(message.data)


async def main(addr: str = "127.0.0.1:9999", url: str = "memory:") -> None:
    """Listen on *addr*; *url* is the bus that carries the messages."""
    try:
        bus = await pubsub.connect(url)
    except OSError as error:
        sys.exit(f"No bus: {error}")

    async def handler(conn: tcp.Conn) -> None:
        await conn.write(b"Which room? ")
        room = (await conn.read(b"\n")).decode(errors="replace").strip()
        if not room.isalnum():
            await conn.write(b"The name of a room has letters and digits.\n")
            return
        subject = f"room.{room}"
        async with bus.subscribe(subject) as messages:
            showing = asyncio.create_task(show(messages, conn))
            try:
                await bus.publish(subject, f"* {conn.remote_addr} came in\n".encode())
                async for line in conn:
                    try:
                        await bus.publish(subject, line)
                    except pubsub.PublishError:
                        await conn.write(b"* perhaps nobody got that: try again later\n")
            finally:
                showing.cancel()

    listener = tcp.listen(addr, handler)
    print(f"Rooms on {listener.local_addr} over {bus.address}", flush=True)


task.fork(main, *sys.argv[1:])
