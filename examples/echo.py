"""The echo server. Run it with ``silly examples/echo.py [ADDR]``, then telnet to it."""

import sys

from silly.net import tcp


async def echo(conn: tcp.Conn) -> None:
    """Send every line back."""
    async for line in conn:
        await conn.write(line)


try:
    listener = tcp.listen(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9999", echo)
except (OSError, ValueError) as error:
    sys.exit(f"echo: {error}")

host, _, port = listener.local_addr.rpartition(":")
print(f"Echoing on {listener.local_addr}", flush=True)
print(f"Try: telnet {host.strip('[]')} {port}   (Ctrl-C here stops the server)", flush=True)
