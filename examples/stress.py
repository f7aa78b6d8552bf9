"""A stress test for an echo server: ``silly examples/stress.py [ADDR [CLIENTS [MESSAGES]]]``."""

import asyncio
import sys
from time import perf_counter

from silly import task
from silly.net import tcp


async def client(addr: str, messages: int) -> int:
    """Send *messages* lines, each after the echo of the previous one; count the correct echoes."""
    correct = 0
    async with tcp.connect(addr) as conn:
        for number in range(messages):
            message = b"test message %d\n" % number
            conn.write(message)
            correct += await conn.read(b"\n") == message
    return correct


async def stress(addr: str, clients: int, messages: int) -> None:
    """Run all clients at once; print the result when all have finished."""
    start = perf_counter()
    try:
        counts = await asyncio.gather(*(client(addr, messages) for _ in range(clients)))
    except (OSError, EOFError) as error:
        sys.exit(f"stress: {error}")
    elapsed = perf_counter() - start
    total = sum(counts)
    print(f"Completed: {total} messages, elapsed {elapsed:.3f} s, {total / elapsed:.0f} msg/s")
    if total != clients * messages:
        sys.exit(f"stress: {clients * messages - total} echoes were wrong")


task.fork(
    stress,
    sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9999",
    int(sys.argv[2]) if len(sys.argv) > 2 else 100,
    int(sys.argv[3]) if len(sys.argv) > 3 else 100,
)
