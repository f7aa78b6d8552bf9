"""An echo server that reports on each connection: ``silly examples/statistics.py [ADDR]``."""

import sys

from silly.net import tcp


async def echo(conn: tcp.Conn) -> None:
    """Send every line back; at the end, print how many bytes were transferred."""
    print("New connection:", conn.remote_addr, flush=True)
    messages = 0
    try:
        async for line in conn:
            await conn.write(line)
            messages += 1
    finally:
        stats = conn.stats
        print(
            f"Connection {conn.remote_addr} statistics: received {stats.bytes_in} bytes, "
            f"sent {stats.bytes_out} bytes, messages {messages}",
            flush=True,
        )


listener = tcp.listen(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9999", echo)
print("Listening on", listener.local_addr, flush=True)
