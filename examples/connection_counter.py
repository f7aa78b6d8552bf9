"""An echo server that counts its connections: ``silly examples/connection_counter.py [ADDR]``."""

import sys

from silly.net import tcp

connections = 0


async def echo(conn: tcp.Conn) -> None:
    """Count the connection while it is open, and send every line back."""
    global connections  # noqa: PLW0603 - for the example; listener.connections has this number
    connections += 1
    print(f"New connection from {conn.remote_addr}, current connections: {connections}", flush=True)
    try:
        async for line in conn:
            await conn.write(line)
    finally:
        connections -= 1
        print(
            f"Connection closed {conn.remote_addr}, remaining connections: {connections}",
            flush=True,
        )


listener = tcp.listen(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9999", echo)
print("Listening on", listener.local_addr, flush=True)
