"""An echo server that hangs up on the idle: ``silly examples/idle_timeout.py [ADDR [SECONDS]]``."""

import sys

from silly.net import tcp


async def echo(conn: tcp.Conn) -> None:
    """Echo; a connection on which nothing moves for too long is closed by the framework."""
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
