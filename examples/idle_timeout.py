"""An echo server with an idle timeout: ``silly examples/idle_timeout.py [ADDR [SECONDS]]``."""

import sys

from silly.net import tcp


async def echo(conn: tcp.Conn) -> None:
    """Send every line back; the framework closes a connection that is idle for too long."""
    print("New connection:", conn.remote_addr, flush=True)
    try:
        async for line in conn:
            await conn.write(line)
    except TimeoutError:
        print("Connection timeout:", conn.remote_addr, flush=True)


listener = tcp.listen(
    sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9999",
    echo,
    idle_timeout=float(sys.argv[2]) if len(sys.argv) > 2 else 30,
)
print("Listening on", listener.local_addr, flush=True)
